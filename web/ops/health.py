"""Health checks for load balancers and orchestrators: is the process alive, and can it serve searches?"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future

from flask import Blueprint, Flask, current_app
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.errors import DatabaseError, ModelError, ModelMismatchError, SchemaError

from ..backend import Backend

blueprint = Blueprint("health", __name__)
log = logging.getLogger(__name__)

NOT_READY_RETRY_AFTER_S = 5
"""Seconds until the next check is useful: loading a model or starting a database takes about that long."""
READY_WAIT_S = 2.0
"""Seconds from the start of a check after which it counts as failed: probes give up after a few seconds."""
_READINESS = "searchdb.readiness"
"""Key of the Readiness in `app.extensions`."""
_UNCACHED = {"Cache-Control": "no-store"}


def register(app: Flask, backend: Backend) -> None:
    """Add the checks of an application that uses the backend."""
    app.extensions[_READINESS] = Readiness(backend)
    app.register_blueprint(blueprint)


class Readiness:
    """Checks whether searches can be served, one check at a time, in a thread that a stuck database may hold."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._check: Future[str | None] | None = None
        self._began = 0.0

    def missing(self) -> str | None:
        """Return the reason why searches cannot be served, or None; waits for READY_WAIT_S at most."""
        with self._lock:
            if self._check is None or self._check.done():
                self._check, self._began = Future(), time.monotonic()
                threading.Thread(target=self._run, args=[self._check], name="readiness", daemon=True).start()
            check, ends = self._check, self._began + READY_WAIT_S
        try:
            return check.result(max(ends - time.monotonic(), 0))
        except TimeoutError:
            return "the database takes long to answer"

    def _run(self, check: Future[str | None]) -> None:
        try:
            check.set_result(_missing(self._backend))
        except Exception as exc:  # noqa: BLE001 - those who wait raise it
            check.set_exception(exc)


@blueprint.get("/healthz")
def alive() -> ResponseReturnValue:
    """Report that the process is alive; does not depend on the database."""
    return {"status": "ok"}, _UNCACHED


@blueprint.get("/readyz")
def ready() -> ResponseReturnValue:
    """Report whether searches can be served: the schema is current and, if there are images, the model is loaded."""
    missing = current_app.extensions[_READINESS].missing()
    if missing is None:
        return {"status": "ready"}, _UNCACHED
    return {"status": "unavailable", "reason": missing}, 503, {**_UNCACHED, "Retry-After": str(NOT_READY_RETRY_AFTER_S)}


def _missing(backend: Backend, *, again: bool = True) -> str | None:
    """Return the reason why searches cannot be served, or None; loads the model in the background if necessary."""
    try:
        backend.check()
        if backend.empty:
            return None
        model = backend.model()
        model.start()
        if not model.loaded:
            return "the model is being loaded"
        if model.failure is not None:
            model.start_again()
            return "the model cannot be loaded"
        backend.check_model()
    except ModelMismatchError as exc:
        if again and exc.switched:
            backend.follow()
            return _missing(backend, again=False)
        log.warning("not ready: %s", exc)
        return "the model does not fit the collection"
    except DatabaseError as exc:
        backend.suspect(exc)
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
