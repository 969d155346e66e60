"""Waits until no transaction of the database has a snapshot from before now."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import Engine, text

from searchdb.db.short_locks import GIVE_UP_S, WARN_AFTER_S
from searchdb.errors import DatabaseError

CHECK_EVERY_S = 0.1
"""Seconds between two looks."""
STILL_RUNNING = "55006"
"""SQLSTATE object_in_use."""

# What CREATE INDEX CONCURRENTLY waits for, too. Who has a snapshot is hidden from other roles: of those, every
# transaction is waited for.
_OPEN = text(
    """
    SELECT array_agg(l.virtualtransaction || ' ' || l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid()
    AND a.datname = current_database() AND a.usesysid IS NOT NULL
    AND (a.backend_xmin IS NOT NULL OR a.state IS NULL)
    """
)

logger = logging.getLogger(__name__)


def wait_for_older_snapshots(
    engine: Engine, *, what: str, give_up_s: float = GIVE_UP_S, cancel: threading.Event | None = None
) -> None:
    """Wait until all transactions that have a snapshot now have ended.

    Args:
        engine: the database.
        what: waits, for the messages.
        give_up_s: seconds after which it is an error.
        cancel: ends the wait when it is set.

    Raises:
        DatabaseError: a transaction was still open after `give_up_s`.
    """
    cancel = cancel or threading.Event()
    began, warned = time.monotonic(), False
    with engine.connect() as connection:
        waited_for = set(connection.scalar(_OPEN) or ())
    while waited_for and not cancel.wait(CHECK_EVERY_S):
        with engine.connect() as connection:
            waited_for &= set(connection.scalar(_OPEN) or ())
        waited = time.monotonic() - began
        processes = ", ".join(sorted({each.split()[1] for each in waited_for}))
        if waited_for and waited > give_up_s:
            error = DatabaseError(
                f"{what} waits for the transactions that were open before it, and after {waited:,.0f} seconds some "
                f"still are (processes {processes}): end them, then try again"
            )
            error.sqlstate = STILL_RUNNING
            raise error
        if waited_for and waited > WARN_AFTER_S and not warned:
            logger.warning("%s waits for older transactions to end: processes %s", what, processes)
            warned = True
