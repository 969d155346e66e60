"""Health checks for load balancers and orchestrators: is the process alive, and can it serve searches?"""

from __future__ import annotations

import logging

from flask import Blueprint
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.errors import DatabaseError, ModelError, SchemaError

from ..backend import backend

blueprint = Blueprint("health", __name__)
log = logging.getLogger(__name__)

NOT_READY_RETRY_AFTER_S = 5
"""Seconds until the next check is useful: loading a model or starting a database takes about that long."""
_UNCACHED = {"Cache-Control": "no-store"}


@blueprint.get("/healthz")
def alive() -> ResponseReturnValue:
    """Report that the process is alive; does not depend on the database."""
    return {"status": "ok"}, _UNCACHED


@blueprint.get("/readyz")
def ready() -> ResponseReturnValue:
    """Report whether searches can be served: the schema is current and, if there are images, the model is loaded."""
    missing = _missing()
    if missing is None:
        return {"status": "ready"}, _UNCACHED
    return {"status": "unavailable", "reason": missing}, 503, {**_UNCACHED, "Retry-After": str(NOT_READY_RETRY_AFTER_S)}


def _missing() -> str | None:
    """Return the reason why searches cannot be served, or None; loads the model in the background if necessary."""
    try:
        backend().check()
        if backend().empty:
            return None
        model = backend().model()
        model.start()
        if not model.loaded:
            return "the model is being loaded"
        if model.failure is not None:
            model.start_again()
            return "the model cannot be loaded"
        backend().check_model()
    except DatabaseError as exc:
        backend().suspect(exc)
        log.warning("not ready: %s", exc)
        if isinstance(exc, SchemaError):
            return "the schema does not fit"
        return "the database cannot be reached" if exc.sqlstate is None else "the database does not answer queries"
    except PoolTimeoutError as exc:
        log.warning("not ready: %s", exc)
        return "all connections to the database are in use"
    except ModelError as exc:
        log.warning("not ready: %s", exc)
        return "the model does not fit the collection"
    return None
