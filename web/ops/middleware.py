"""Adds the production middleware: limits, host checks, metrics, a log line per request, proxies and prefixes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request
from werkzeug.http import parse_date

from searchdb.config import Settings

from ..backend import EXTENSION, Backend
from . import gate, limits, logs, metrics
from .forwarded import Forwarded

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


_DATES = frozenset({"HTTP_IF_MODIFIED_SINCE", "HTTP_IF_UNMODIFIED_SINCE", "HTTP_IF_RANGE"})


class UnderPrefix:
    """Serves an application under a path prefix, whether or not a proxy strips the prefix."""

    def __init__(self, app: WSGIApplication, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass a request to the application as mounted at the prefix."""
        environ["SCRIPT_NAME"] = self._prefix
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            environ["PATH_INFO"] = path.removeprefix(self._prefix) or "/"
        return self._app(environ, start_response)


def _drop_impossible_dates(environ: WSGIEnvironment) -> None:
    """Ignore dates in headers that Werkzeug fails at instead of ignoring them, such as one in the year 10^15."""
    for name in _DATES & environ.keys():
        try:
            parse_date(environ[name])
        except OverflowError:
            del environ[name]
            if name == "HTTP_IF_RANGE":  # a condition that does not hold, without which the whole is sent
                environ.pop("HTTP_RANGE", None)


def register(app: Flask, settings: Settings) -> None:
    """Add the production middleware to the application."""
    backend: Backend = app.extensions[EXTENSION]
    app_metrics = backend.metrics

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()
        _drop_impossible_dates(request.environ)
        g.request_id = logs.sane_id(request.headers.get(logs.REQUEST_ID)) or uuid.uuid4().hex

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.began
        response.headers[logs.REQUEST_ID] = g.request_id
        route = metrics.NO_ROUTE if request.url_rule is None else request.url_rule.rule
        app_metrics.request(request.method, route, response.status_code, seconds)
        logs.log_request(request, response, seconds)
        return response

    logs.setup(settings.log_format)
    limits.register(app, settings)
    gate.register(app, settings)
    app_metrics.add_state(metrics.CollectionState(backend.database))
    app.register_blueprint(metrics.blueprint(app_metrics))
    if settings.url_prefix:
        app.wsgi_app = UnderPrefix(app.wsgi_app, settings.url_prefix)
    app.wsgi_app = Forwarded(app.wsgi_app, settings.proxies)
