"""How many requests one client may make: all of them together, and those that give the model work."""

from __future__ import annotations

import math
import time

from flask import Flask, Response, request
from flask_limiter import ApplicationLimit, Limiter

from searchdb.config import Settings

EXEMPT = frozenset({"/healthz", "/readyz", "/metrics", "/static/<path:filename>"})
"""Routes that are never counted: those who watch the service must be answered, and static files cost nothing."""
WORK = frozenset({"/search", "/api/search", "/api/embeddings"})
"""Routes that run the model, when posted to, on what the client brings, of which no cache knows anything."""


def register(app: Flask, settings: Settings) -> None:
    """Answer 429 to a client that goes beyond the settings' limits; each process counts for itself.

    A client is an address: behind a proxy, the one that it forwards for.
    """
    # The prefixes keep two equal limits from being one.
    limiter = Limiter(
        lambda: request.remote_addr or "",
        app=app,
        storage_uri="memory://",
        application_limits=[
            ApplicationLimit(
                settings.rate_limit,
                exempt_when=lambda: _route() in EXEMPT,
                error_message=f"One client may make {settings.rate_limit} requests here. Try again a little later.",
            ),
            ApplicationLimit(
                settings.work_limit,
                key_function=lambda: f"work {request.remote_addr}",
                exempt_when=lambda: request.method != "POST" or _route() not in WORK,
                error_message=f"One client may bring {settings.work_limit} pictures or texts to embed. "
                "Try again a little later.",
            ),
        ],
    )

    @app.after_request
    def say_when(response: Response) -> Response:
        limit = limiter.current_limit
        if response.status_code == 429 and limit is not None:
            response.headers["Retry-After"] = str(max(math.ceil(limit.reset_at - time.time()), 1))
        return response


def _route() -> str:
    return "" if request.url_rule is None else request.url_rule.rule
