"""Rebuilds the vector index when it is stale, in the foreground or in the background."""

from __future__ import annotations

import logging
import threading

from sqlalchemy import Engine

from searchdb.errors import DatabaseError
from searchdb.index.build import build_index, owner
from searchdb.index.status import index_status

logger = logging.getLogger(__name__)


def rebuild_if_stale(engine: Engine) -> bool:
    """Rebuild the index if the rows have outgrown it; return whether it was rebuilt here.

    If we do not own the tables, log a warning instead.
    """
    with engine.connect() as connection:
        state = index_status(connection)
        if not state.stale:
            return False
        other = owner(connection)
    if other is not None:
        logger.warning("the vector index is stale: run `searchdb index build` as %s, who owns it", other)
        return False
    return build_index(engine, method=state.method or "ivfflat") is not None


class BackgroundRebuilder:
    """Rebuilds the vector index in a background thread when images added have outgrown it, one rebuild at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None

    def request(self, engine: Engine) -> None:
        """Have the index checked, and rebuilt if it is stale; requests during a rebuild lead to one more check."""
        with self._lock:
            self._engine = engine
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rebuild-index", daemon=True)
                self._thread.start()

    def join(self) -> None:
        """Wait until all requests are done."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                engine, self._engine = self._engine, None
                if engine is None:
                    self._thread = None
                    return
            try:
                rebuild_if_stale(engine)
            except DatabaseError as exc:  # the next image added requests the next try
                logger.warning("the vector index was not rebuilt: %s", exc)
