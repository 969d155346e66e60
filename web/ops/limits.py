"""Limits the requests of each client; counts those that bring images to the model before their bodies are read."""

from __future__ import annotations

from flask import Flask, request

from searchdb.config import Settings

from .. import work_limit
from .rate_limit import RateLimit, refusal, this_client

EXEMPT = frozenset({"/healthz", "/readyz", "/metrics", "/static/<path:filename>"})
"""Routes without a limit: monitoring always gets a response, and static files cost almost nothing."""
WORK = frozenset({"/search", "/api/search", "/api/embeddings"})
"""Routes whose POST requests run the model. One image or text is counted before the body is read, because fetching and
decoding an image, which may fail, costs more than the model."""


def register(app: Flask, settings: Settings) -> None:
    """Respond with status 429 to clients that exceed the limits of the settings; each process counts separately.

    A client is an IPv4 address or a /64 network of IPv6 addresses; behind a trusted proxy, the forwarded one.
    """
    requests = RateLimit(settings.rate_limit) if settings.rate_limit else None
    work_limit.register(app, settings)

    @app.before_request
    def count() -> None:
        route = "" if request.url_rule is None else request.url_rule.rule
        if requests is not None and route not in EXEMPT:
            wait_s = requests.count(this_client())
            if wait_s is not None:
                raise refusal(f"The limit of requests from one client is {requests.limit}. Try again later.", wait_s)
        if request.method == "POST" and route in WORK:
            work_limit.reserve(1)
