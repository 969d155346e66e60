"""Waits out a database that is restarting, or has no room, so that a run goes on where it stood."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from searchdb.errors import DatabaseError, DatabaseUnavailableError

T = TypeVar("T")

MAX_OUTAGE_S = 300.0
"""Longest outage that is sat out, in seconds: a restart takes some, a fail-over a minute or two."""
PAUSE_S = 1.0
"""Seconds between two tries."""
TRANSIENT_SQLSTATES = ("40", "53", "55", "57", "58")
"""SQLSTATE classes that pass without our doing: deadlocks, no disk or memory, locks, an operator, the system."""

logger = logging.getLogger(__name__)


def retry_until_available(call: Callable[[], T], *, cancel: threading.Event | None = None) -> T:
    """Return what the call returns, made again until the database serves it; it must be safe to repeat.

    Setting `cancel` ends the waiting.

    Raises:
        DatabaseError: what stood in the way lasted longer than MAX_OUTAGE_S, or does not pass by itself.
    """
    pause = (cancel or threading.Event()).wait
    since: float | None = None
    while True:
        try:
            result = call()
        except DatabaseError as exc:
            if not is_transient(exc):
                raise
            since = since or time.monotonic()
            _outage.noticed(exc)
            if time.monotonic() - since > MAX_OUTAGE_S or pause(PAUSE_S):
                _outage.given_up()
                raise
        else:
            if since is not None:
                _outage.over()
            return result


def is_transient(error: DatabaseError) -> bool:
    """Whether the same statement may succeed later without anybody changing it."""
    return isinstance(error, DatabaseUnavailableError) or (error.sqlstate or "").startswith(TRANSIENT_SQLSTATES)


class _Outage:
    """What the log tells of the outage at hand: once, though many threads wait for its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None

    def noticed(self, error: DatabaseError) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
                logger.warning("%s. Trying again for up to %g seconds", error, MAX_OUTAGE_S)

    def given_up(self) -> None:
        with self._lock:
            self._since = None

    def over(self) -> None:
        with self._lock:
            if self._since is not None:
                logger.warning("the database is back after %.0f seconds", time.monotonic() - self._since)
                self._since = None


_outage = _Outage()
