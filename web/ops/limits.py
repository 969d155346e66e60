"""Rate limits per client: for all requests, and for those that run the model."""

from __future__ import annotations

import math
import time

from flask import Flask, Response, request
from flask_limiter import ApplicationLimit, Limiter

from searchdb.config import Settings

EXEMPT = frozenset({"/healthz", "/readyz", "/metrics", "/static/<path:filename>"})
"""Routes without a limit: monitoring must always be answered, and static files cost nothing."""
WORK = frozenset({"/search", "/api/search", "/api/embeddings"})
"""Routes whose POST requests run the model on the client's data, which no cache holds."""


def register(app: Flask, settings: Settings) -> None:
    """Answer 429 to a client that exceeds the limits of the settings; each process counts separately.

    A client is an IP address: behind a trusted proxy, the forwarded one.
    """
    # The key prefix keeps two equal limits apart.
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
                error_message=f"One client may send {settings.work_limit} images or texts to embed. "
                "Try again a little later.",
            ),
        ],
    )

    @app.after_request
    def set_retry_after(response: Response) -> Response:
        limit = limiter.current_limit
        if response.status_code == 429 and limit is not None:
            response.headers["Retry-After"] = str(max(math.ceil(limit.reset_at - time.time()), 1))
        return response


def _route() -> str:
    return "" if request.url_rule is None else request.url_rule.rule
