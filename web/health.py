"""What a load balancer or an orchestrator asks: is the process alive, and can it serve?"""

from __future__ import annotations

import logging

from flask import Blueprint
from flask.typing import ResponseReturnValue

from searchdb.errors import DatabaseError, SchemaError
from web.collection import collection

blueprint = Blueprint("health", __name__)
log = logging.getLogger(__name__)

_UNCACHED = {"Cache-Control": "no-store"}


@blueprint.get("/healthz")
def alive() -> ResponseReturnValue:
    """Answer that the process is alive, whatever the database does."""
    return {"status": "ok"}, _UNCACHED


@blueprint.get("/readyz")
def ready() -> ResponseReturnValue:
    """Answer whether the database can be reached and has our schema."""
    try:
        collection().check()
    except DatabaseError as exc:
        collection().suspect()
        log.warning("not ready: %s", exc)
        reason = "the schema does not fit" if isinstance(exc, SchemaError) else "the database cannot be reached"
        return {"status": "unavailable", "reason": reason}, 503, _UNCACHED
    return {"status": "ready"}, _UNCACHED
