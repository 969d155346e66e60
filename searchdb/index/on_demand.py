"""Rebuilds a stale vector index after searches: rows that SQL has added, as by COPY, trigger no rebuild themselves."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.config import DEFAULT_RECALL
from searchdb.db.tables import ingest_pending, procrastinate_workers
from searchdb.errors import DatabaseError, DatabaseUnavailableError
from searchdb.index.depth import owner
from searchdb.index.rebuild import BackgroundRebuilder, Rebuild, rebuild_if_stale
from searchdb.index.self_tune import MakeCache

CHECK_EVERY_S = 60.0
"""Seconds between two checks of the index: a check takes a few milliseconds, in a thread of its own."""
FAILED_PAUSE_S = 3600.0
"""Seconds without a check after a build that failed, as on a full disk: it would fail again, after as much work."""
CLOSE_WAIT_S = 5.0
"""Longest wait for a check at the end, so that its connection is closed with the others. A build takes longer: it ends
with the process, and the next build drops what it leaves."""
WORKER_SEEN_S = 30
"""A worker with a heartbeat in this many seconds is at work; it rebuilds the index itself once the queue is empty."""


class IndexWatch:
    """Checks the index in a background thread after searches, and has it rebuilt there if it is stale. Thread-safe.

    Args:
        after_s: seconds from the first search to the first check: a process that ends soon should not begin a build.
        clock: seconds from an arbitrary point in time.
    """

    def __init__(self, *, after_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.rebuilder = BackgroundRebuilder()
        self._after_s = after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._next: float | None = None

    def searched(self, engine: Engine, rebuild: Rebuild) -> None:
        """Note a search; request a check, unless there was one less than CHECK_EVERY_S ago.

        Args:
            engine: the database.
            rebuild: `rebuild_on_demand` with other arguments than its defaults.
        """
        now = self._clock()
        with self._lock:
            if self._next is None:
                self._next = now + self._after_s
            if now < self._next:
                return
            self._next = now + CHECK_EVERY_S
        self.rebuilder.request(engine, partial(self._check, rebuild))

    def close(self) -> None:
        """Make no more checks; wait for a check that is being made, but not for a build, longer than CLOSE_WAIT_S."""
        with self._lock:
            self._next = math.inf
        self.rebuilder.join(CLOSE_WAIT_S)

    def _check(self, rebuild: Rebuild, engine: Engine) -> bool:
        try:
            return rebuild(engine)
        except DatabaseError as exc:
            if not isinstance(exc, DatabaseUnavailableError):
                with self._lock:
                    self._next = self._clock() + FAILED_PAUSE_S
            raise


def rebuild_on_demand(engine: Engine, *, cache: MakeCache | None = None, target: float = DEFAULT_RECALL) -> bool:
    """Call `rebuild_if_stale`, unless we may not build the index, or an ingest will do so at its end."""
    with engine.connect() as connection:
        if not _may_build(connection) or _ingesting(connection):
            return False
    return rebuild_if_stale(engine, cache=cache, target=target)


def _may_build(connection: Connection) -> bool:
    """Whether we own the tables, on a server that may be written."""
    return connection.scalar(text("SHOW transaction_read_only")) == "off" and owner(connection) is None


def _ingesting(connection: Connection) -> bool:
    seen = procrastinate_workers.c.last_heartbeat > sa.func.now() - sa.func.make_interval(
        0, 0, 0, 0, 0, 0, WORKER_SEEN_S
    )
    queued, working = sa.select(ingest_pending.c.image).exists(), sa.select(procrastinate_workers.c.id).where(seen)
    return bool(connection.scalar(sa.select(queued & working.exists())))
