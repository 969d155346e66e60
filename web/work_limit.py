"""Limits the texts and images that the model is run on for each client."""

from __future__ import annotations

from flask import Flask, current_app, g, has_request_context, request

from searchdb.config import Settings

from .ops.rate_limit import RateLimit, refusal, this_client

TRUSTED = frozenset({"/api/images"})
"""Routes whose work is not counted: only the holder of the API token can have them run the model."""

_LIMIT = "searchdb.work_limit"
"""Key of the RateLimit in `app.extensions`; None where there is no limit."""


def register(app: Flask, settings: Settings) -> None:
    """Set the limit of an application; each process counts separately."""
    app.extensions[_LIMIT] = RateLimit(settings.work_limit) if settings.work_limit else None


def reserve(count: int) -> None:
    """Count the texts or images that this request is about to bring to the model, before they cost anything.

    What the request has reserved before is part of `count`.

    Raises:
        TooManyRequests: the client would exceed its limit.
    """
    missing = count - _reserved()
    if missing > 0:
        _count(missing)
        g.work_reserved = count


def spend(count: int) -> None:
    """Count the texts or images that the model is run on now, as far as this request has not reserved them.

    Work outside of requests, such as after the start, is not counted.

    Raises:
        TooManyRequests: the client would exceed its limit.
    """
    if not has_request_context() or (request.url_rule is not None and request.url_rule.rule in TRUSTED):
        return
    reserved = _reserved()
    g.work_reserved = max(reserved - count, 0)
    if count > reserved:
        _count(count - reserved)


def _reserved() -> int:
    return g.get("work_reserved", 0)


def _count(count: int) -> None:
    limit: RateLimit | None = current_app.extensions[_LIMIT]
    if limit is None:
        return
    wait_s = limit.count(this_client(), count)
    if wait_s is not None:
        advice = "Try again later." if count <= limit.amount else "Send fewer of them in one request."
        raise refusal(f"The limit of images or texts to embed for one client is {limit.limit}. {advice}", wait_s)
