"""Alters a table that is in use: waits only briefly for its lock, and retries, so that other statements go on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, text

from searchdb.db.connections import LOCKED, lift_time_limits
from searchdb.errors import DatabaseError

T = TypeVar("T")

LOCK_TIMEOUT_MS = 300
"""Longest wait for a lock that stops all others. A request of the page waits at most 1.5 s for a lock."""
DEADLOCK = "40P01"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 2.0
"""Seconds between two attempts, which grow: others come to their turn meanwhile."""
WARN_AFTER_S = 10.0
"""Seconds after which a warning names those that hold the table."""
GIVE_UP_S = 600.0
"""Seconds after which nothing is tried again: a statement or a backup then holds the table for long."""
SHOWN_SESSIONS = 3
"""Sessions that a message names."""

_HOLDERS = text(
    """
    SELECT DISTINCT a.pid, a.usename, nullif(a.application_name, '') AS application, a.state,
        extract(epoch FROM now() - a.xact_start) AS seconds
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.relation = to_regclass('images') AND l.granted AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY seconds DESC NULLS LAST
    """
)

logger = logging.getLogger(__name__)


def with_short_locks(
    engine: Engine,
    call: Callable[[Connection], T],
    *,
    what: str,
    give_up_s: float = GIVE_UP_S,
    cancel: threading.Event | None = None,
) -> T:
    """Return what a call in a transaction returns, trying again while others hold locks that it needs.

    Logs a warning that names those others, if that takes long.

    Args:
        engine: the database.
        call: executes statements; all of them are rolled back if one does not get its lock.
        what: is being done, for the messages.
        give_up_s: seconds after which it is not tried again.
        cancel: ends the attempts when it is set.

    Raises:
        DatabaseError: the table was in use all the time, or PostgreSQL failed otherwise.
    """
    cancel = cancel or threading.Event()
    began, pause, warned = time.monotonic(), FIRST_PAUSE_S, False
    while True:
        try:
            with engine.begin() as connection:
                lift_time_limits(connection, local=True)
                connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
                return call(connection)
        except DatabaseError as exc:
            if exc.sqlstate not in (LOCKED, DEADLOCK):
                raise
            waited = time.monotonic() - began
            holders = _holders(engine)
            if cancel.is_set() or waited > give_up_s:
                error = DatabaseError(
                    f"{what} needs a moment in which no other statement uses the table images, and there was none in "
                    f"{waited:,.0f} seconds: end long queries and backups ({holders}), then try again"
                )
                error.sqlstate = exc.sqlstate
                raise error from exc
            if waited > WARN_AFTER_S and not warned:
                logger.warning("%s waits until nobody uses the table images: %s", what, holders)
                warned = True
        cancel.wait(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _holders(engine: Engine) -> str:
    """Return who holds a lock on the table, the longest transaction first."""
    with engine.connect() as connection:
        rows = connection.execute(_HOLDERS).all()
    shown = [
        f"process {row.pid} of {row.usename or 'another role'}"
        + (f", {row.application}" if row.application else "")
        + (f", in a transaction for {row.seconds:,.0f} s" if row.seconds is not None else "")
        for row in rows[:SHOWN_SESSIONS]
    ]
    more = f", and {len(rows) - len(shown):,} more" if len(rows) > len(shown) else ""
    return "; ".join(shown) + more or "nobody now"
