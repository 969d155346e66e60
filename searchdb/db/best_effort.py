"""Best-effort cache writes, skipped on a read-only database."""

from __future__ import annotations

import time
from collections.abc import Callable

from sqlalchemy import Connection, text

from searchdb.errors import DatabaseError

REFUSALS = frozenset({"42501", "25006"})
"""SQLSTATEs of insufficient privilege, as for a role that may only SELECT, and of a read-only transaction, as on a
standby."""
RETRY_WRITES_AFTER_S = 60.0
"""Seconds between attempts to write after a refusal: the privilege may have been granted in the meantime."""

_ASYNCHRONOUS = text("SET LOCAL synchronous_commit = off")
"""Do not wait for the disk: a crash of the server loses at most the cache entries of its last second."""


class BestEffortWriter:
    """Writes what only makes later searches faster, and remembers for a while when the database refuses it.

    Thread-safe. Use one for each database.
    """

    def __init__(self) -> None:
        self._refused_at: float | None = None

    def write(self, connection: Connection, execute: Callable[[], object]) -> None:
        """Write and commit; do nothing where the database refuses writes, or refused them a moment ago.

        Args:
            connection: in a transaction without writes that must survive: a refusal rolls it back.
            execute: executes the statements on it.

        Raises:
            DatabaseError: the write failed for another reason than REFUSALS.
        """
        refused_at = self._refused_at
        if refused_at is not None and time.monotonic() - refused_at < RETRY_WRITES_AFTER_S:
            return
        try:
            connection.execute(_ASYNCHRONOUS)
            execute()
            connection.commit()
        except DatabaseError as exc:
            connection.rollback()
            if exc.sqlstate not in REFUSALS:
                raise
            self._refused_at = time.monotonic()
        else:
            self._refused_at = None
