"""Rebuilds the vector index when it is stale, in the foreground or in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.config import DEFAULT_RECALL
from searchdb.db.driver_errors import is_read_only
from searchdb.db.extension import advice_on_builds
from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.build import build_index
from searchdb.index.depth import owner
from searchdb.index.self_tune import MakeCache, self_tune
from searchdb.index.status import index_status

Rebuild = Callable[[Engine], bool]

logger = logging.getLogger(__name__)


def rebuild_if_stale(engine: Engine, *, cache: MakeCache | None = None, target: float = DEFAULT_RECALL) -> bool:
    """Rebuild and tune the index if the rows have outgrown it; return whether it was rebuilt here.

    A method that a person chose is kept; otherwise the best one for the rows is taken. An index that only its tuning
    fits no more is tuned again. If we do not own the tables, log a warning instead.

    Args:
        cache, target: as in `self_tune`.
    """
    with engine.connect() as connection:
        state = index_status(connection)
        if not (state.stale or state.outgrown_tuning):
            return False
        if is_read_only(connection):  # on a standby: the index comes from its primary
            return False
        advice = advice_on_builds(connection)
        other = owner(connection)
    if advice is not None and state.stale:
        logger.warning("the vector index is stale: %s", advice)
        return False
    if other is not None:
        if state.stale:
            logger.warning("the vector index is stale: run `searchdb index build` as %s, who owns it", other)
        return False
    if not state.stale:
        self_tune(engine, cache, target=target)
        return False
    method, value_type = (state.method, state.value_type) if state.chosen else (None, None)
    return build_index(engine, method=method, value_type=value_type, cache=cache, target=target) is not None


class BackgroundRebuilder:
    """Rebuilds the vector index in a background thread when images added have outgrown it, one rebuild at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requested: tuple[Engine, Rebuild | None] | None = None
        self._thread: threading.Thread | None = None

    def request(self, engine: Engine, rebuild: Rebuild | None = None) -> None:
        """Have the index checked, and rebuilt if it is stale; requests during a rebuild lead to one more check.

        Args:
            engine: the database.
            rebuild: `rebuild_if_stale` with other arguments than its defaults.
        """
        with self._lock:
            self._requested = engine, rebuild
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rebuild-index", daemon=True)
                self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until all requests are done, or for a number of seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                requested, self._requested = self._requested, None
                if requested is None:
                    self._thread = None
                    return
            try:
                engine, rebuild = requested
                (rebuild or rebuild_if_stale)(engine)
            except (DatabaseError, ConfigError, PoolTimeoutError) as exc:  # the next request is the next try
                logger.warning("the vector index was not rebuilt: %s", exc)
