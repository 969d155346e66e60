"""Alters a table that is in use: waits for its lock only briefly, again and again, so that nobody waits behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, text

from searchdb.db.connections import LOCKED
from searchdb.errors import DatabaseError

T = TypeVar("T")

LOCK_TIMEOUT_MS = 300
"""Longest wait for a lock that stops all others. A request of the page waits at most 1.5 s for a lock."""
DEADLOCK = "40P01"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
"""Seconds between two attempts, which grow: others come to their turn meanwhile."""
GIVE_UP_S = 600.0
"""Seconds after which nothing is tried again: a statement or a backup then holds the table for long."""


def with_short_locks(
    engine: Engine, call: Callable[[Connection], T], *, what: str, cancel: threading.Event | None = None
) -> T:
    """Return what a call in a transaction returns, trying again while others hold locks that it needs.

    Args:
        engine: the database.
        call: executes statements; all of them are rolled back if one does not get its lock.
        what: is being done, for the message.
        cancel: ends the attempts when it is set.

    Raises:
        DatabaseError: the table was in use all the time for GIVE_UP_S seconds, or PostgreSQL failed otherwise.
    """
    cancel = cancel or threading.Event()
    give_up_at, pause = time.monotonic() + GIVE_UP_S, FIRST_PAUSE_S
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
                return call(connection)
        except DatabaseError as exc:
            if exc.sqlstate not in (LOCKED, DEADLOCK):
                raise
            if cancel.is_set() or time.monotonic() > give_up_at:
                error = DatabaseError(
                    f"{what} needs a moment in which no other statement uses the table images, and there was none in "
                    f"{GIVE_UP_S / 60:.0f} minutes: end long queries and backups, then try again"
                )
                error.sqlstate = exc.sqlstate
                raise error from exc
        cancel.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
