"""Limits the rate of requests per client: of all requests, and of those that run the model."""

from __future__ import annotations

import math
import time

from flask import Flask, Response, request
from flask_limiter import ApplicationLimit, Limiter

from searchdb.config import Settings

EXEMPT = frozenset({"/healthz", "/readyz", "/metrics", "/static/<path:filename>"})
"""Routes without a limit: monitoring always gets a response, and static files cost almost nothing."""
WORK = frozenset({"/search", "/api/search", "/api/embeddings"})
"""Routes whose POST requests run the model on the client's data, which is not cached."""


def register(app: Flask, settings: Settings) -> None:
    """Respond with status 429 to clients that exceed the limits of the settings; each process counts separately.

    A client is an IP address; behind a trusted proxy, the forwarded one.
    """
    # The prefix of the second key keeps two equal limits apart.
    limiter = Limiter(
        lambda: request.remote_addr or "",
        app=app,
        storage_uri="memory://",
        application_limits=[
            ApplicationLimit(
                settings.rate_limit,
                exempt_when=lambda: _route() in EXEMPT,
                error_message=f"The limit of requests from one client is {settings.rate_limit}. Try again later.",
            ),
            ApplicationLimit(
                settings.work_limit,
                key_function=lambda: f"work {request.remote_addr}",
                exempt_when=lambda: request.method != "POST" or _route() not in WORK,
                error_message=f"The limit of images or texts to embed for one client is {settings.work_limit}. "
                "Try again later.",
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
