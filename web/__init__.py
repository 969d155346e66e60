"""The Flask application: `create_app` builds it for `flask run`, `searchdb demo` and gunicorn."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from importlib.metadata import version

from flask import Flask, Response
from flask.typing import ResponseReturnValue
from flask_openapi3.models.info import Info
from flask_openapi3.openapi import OpenAPI
from werkzeug.routing import IntegerConverter

from searchdb.config import Settings
from searchdb.embedder import Embedder
from searchdb.errors import ModelMismatchError, OtherModelError
from searchdb.records import LARGEST_ID

from . import api, errors
from .backend import EXTENSION, Backend
from .files import images
from .ops import health
from .ops import middleware as operations
from .page import status
from .page import views as pages

CONTENT_SECURITY_POLICY = (
    # URL images and videos are loaded from their own hosts; everything else comes from this server.
    "default-src 'none'; img-src 'self' https: http:; media-src 'self' https: http:; style-src 'self'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # With no-referrer, our own forms would send `Origin: null`, as those of another site do if it wants to.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class IdConverter(IntegerConverter):
    """Accepts the ids that `images.id` can hold; any other number is a 404."""

    regex = "[0-9]{1,19}"

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, max=LARGEST_ID, **options)  # type: ignore[arg-type]


class _Application(OpenAPI):
    """The application, whose requests go on when the collection is switched to another model meanwhile."""

    def dispatch_request(self) -> ResponseReturnValue:
        """Run the view; once more, if the collection was switched from the model that it used to another.

        A vector in the address may be of the new model, where another process has followed the change already.
        """
        try:
            return super().dispatch_request()
        except (ModelMismatchError, OtherModelError) as exc:
            may_follow = exc.switched if isinstance(exc, ModelMismatchError) else True
            if not (may_follow and self.extensions[EXTENSION].follow()):
                raise
        return super().dispatch_request()


def create_app(settings: Settings | None = None, *, embedder: Embedder | None = None, warm_up: bool = True) -> Flask:
    """Return the application.

    Neither the database nor the model has to be available yet: the first request that needs the database opens it,
    and the model is loaded in the background.

    Args:
        settings: by default from the environment.
        embedder: a loaded model; by default the one of the settings or of the collection.
        warm_up: whether to open the database and load the model in the background at once; a process that forks leaves
            this to its children, because neither threads nor connections survive a fork.
    """
    settings = Settings() if settings is None else settings

    def make_embedder(name: str) -> Embedder:
        if embedder is not None and name in (settings.model, embedder.identity.name):
            return embedder
        from searchdb.media.embed import CLIPEmbedder

        return CLIPEmbedder(name, device=settings.device, dtype=settings.dtype)

    app = _Application(__name__, info=Info(title="searchdb", version=version("searchdb")), doc_ui=False)
    app.url_map.converters["id"] = IdConverter
    backend = Backend(settings, make_embedder, loaded=embedder is not None)
    app.extensions[EXTENSION] = backend
    if embedder is None and warm_up:
        backend.warm_up()
    atexit.register(backend.close)
    _exit_on_signals()

    app.register_blueprint(pages.blueprint)
    app.register_blueprint(images.blueprint)
    health.register(app, backend)
    status.register(app, backend)
    api.register(app)
    operations.register(app, settings)
    errors.register(app)
    app.after_request(_add_headers)
    return app


def _exit_on_signals() -> None:
    """Have `flask run` exit with clean-up on signals that would end it at once; other servers handle them already."""
    if os.environ.get("FLASK_RUN_FROM_CLI") != "true" or threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def _add_headers(response: Response) -> Response:
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    # Without this header a browser may cache a page of results for any time.
    response.headers.setdefault("Cache-Control", "private, no-cache")
    return response
