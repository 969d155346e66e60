"""Best-effort cache writes, skipped where the database is read-only or has no room for them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from sqlalchemy import Connection, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.db.connections import OWNER_ENGINE
from searchdb.errors import DatabaseError

REFUSALS = frozenset({"42501", "25006"})
"""SQLSTATEs of insufficient privilege, as for a role that may only SELECT, and of a read-only transaction, as on a
standby."""
NO_ROOM = ("53", "58")
"""SQLSTATE classes of a server without disk space, memory or connections, and of errors of its operating system."""
PASSING = ("40", "54", "55", "57")
"""SQLSTATE classes of this one write: a conflict with another transaction, a text too long for the index, a lock, a
cancelled statement. Like NO_ROOM they say nothing against the search, which needs only to read."""
RETRY_WRITES_AFTER_S = 60.0
"""Seconds between attempts to write after a refusal: a privilege may have been granted or space freed meanwhile."""

logger = logging.getLogger(__name__)

_ASYNCHRONOUS = text("SET LOCAL synchronous_commit = off")
"""Do not wait for the disk: a crash of the server loses at most the cache entries of its last second."""


def may_be_skipped(error: DatabaseError) -> bool:
    """Whether an optional write that ended with this error can be left out, since reading still works."""
    state = error.sqlstate or ""
    return state in REFUSALS or state.startswith((*NO_ROOM, *PASSING))


@contextmanager
def writable(connection: Connection) -> Generator[Connection]:
    """Yield a connection that may write: the given one, or for a reader's one of the owner's.

    Ends the transaction of a reader's connection, which then sees what was written.
    """
    owner = connection.get_execution_options().get(OWNER_ENGINE)
    if owner is None:
        yield connection
    else:
        connection.commit()
        with owner.connect() as own:
            yield own


class BestEffortWriter:
    """Writes what only makes later searches faster, and remembers for a while that the database refuses it.

    Thread-safe. Use one for each database.
    """

    def __init__(self) -> None:
        self._refused_at: float | None = None

    def write(self, connection: Connection, execute: Callable[[Connection], object]) -> None:
        """Write and commit; do nothing where the database cannot write, or could not a moment ago.

        Args:
            connection: in a transaction without writes that must survive: a refusal rolls it back. If it is a reader's,
                a connection of the owner's writes.
            execute: executes the statements on the connection that it is given.

        Raises:
            DatabaseError: the write failed for a reason that is not in REFUSALS, NO_ROOM or PASSING.
        """
        refused_at = self._refused_at
        if refused_at is not None and time.monotonic() - refused_at < RETRY_WRITES_AFTER_S:
            return
        connected = False
        try:
            with writable(connection) as own:
                connected = True
                self._write(own, execute)
        except (DatabaseError, PoolTimeoutError) as exc:
            if connected:
                raise
            # Reading works, and goes on without the owner's connection.
            logger.warning("searches are not cached for now: %s", exc)
            self._refused_at = time.monotonic()

    def _write(self, connection: Connection, execute: Callable[[Connection], object]) -> None:
        try:
            connection.execute(_ASYNCHRONOUS)
            execute(connection)
            connection.commit()
        except DatabaseError as exc:
            connection.rollback()
            if not may_be_skipped(exc):
                raise
            state = exc.sqlstate or ""
            if not state.startswith(PASSING):
                if self._refused_at is None and state not in REFUSALS:
                    logger.warning("searches are not cached for now: %s", exc)
                self._refused_at = time.monotonic()
        else:
            self._refused_at = None
