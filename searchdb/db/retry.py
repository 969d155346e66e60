"""Retries database calls during an outage, such as a restart, and logs each outage once."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, wait_fixed

from searchdb.errors import DatabaseError, DatabaseUnavailableError, DiskFullError

T = TypeVar("T")

MAX_OUTAGE_S = 300.0
"""Longest outage that is waited out, in seconds: a restart takes a few, a fail-over a minute or two."""
PAUSE_S = 1.0
"""Seconds between two attempts."""
TRANSIENT_SQLSTATES = ("40", "53", "55", "57", "58")
"""SQLSTATE classes that may pass without intervention: deadlock, no memory, lock, operator, system error."""

logger = logging.getLogger(__name__)


class OutageLog:
    """Logs the start and the end of a database's outages: once each, even if many threads wait for the same one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._ended = -math.inf

    def record_failure(self, error: BaseException | None, attempted_at: float) -> None:
        """Log the start of an outage, unless it is known, or over: the attempt may have begun before its end.

        `attempted_at` is a time of time.monotonic().
        """
        with self._lock:
            if self._since is None and attempted_at > self._ended:
                self._since = time.monotonic()
                logger.warning("%s. Trying again for up to %g seconds", error, MAX_OUTAGE_S)

    def record_recovery(self) -> None:
        """Log the end of the outage, if there is one."""
        with self._lock:
            if self._since is not None:
                logger.warning("the database is back after %.0f seconds", time.monotonic() - self._since)
                self._since = None
                self._ended = time.monotonic()

    def reset(self) -> None:
        """Forget the outage, so that the next failure is logged again."""
        with self._lock:
            self._since = None


def retry_until_available(call: Callable[[], T], *, outage_log: OutageLog, cancel: threading.Event | None = None) -> T:
    """Return what the call returns, repeating it while the database is unavailable; it must be safe to repeat.

    Setting `cancel` ends the wait: one last attempt is made at once.

    Raises:
        DatabaseError: the outage lasted longer than MAX_OUTAGE_S, or the error is not a transient one.
    """
    cancel = cancel or threading.Event()
    give_up_at: float | None = None
    attempted_at = 0.0

    def attempt() -> T:
        nonlocal attempted_at
        attempted_at = time.monotonic()
        return call()

    def is_over(_state: RetryCallState) -> bool:
        nonlocal give_up_at
        now = time.monotonic()
        if give_up_at is None:  # counted from the first failure, before which the call may have run for long
            give_up_at = now + MAX_OUTAGE_S
        return cancel.is_set() or now > give_up_at

    attempts = Retrying(
        retry=retry_if_exception(is_transient),
        stop=is_over,
        wait=wait_fixed(PAUSE_S),
        sleep=sleep_using_event(cancel),
        before_sleep=lambda state: outage_log.record_failure(state.outcome and state.outcome.exception(), attempted_at),
        reraise=True,
    )
    try:
        result = attempts(attempt)
    except DatabaseError as exc:
        if is_transient(exc):
            outage_log.reset()
        raise
    if attempts.statistics["attempt_number"] > 1:
        outage_log.record_recovery()
    return result


def is_transient(error: BaseException) -> bool:
    """Whether the same statement may succeed later without anything being changed."""
    if not isinstance(error, DatabaseError) or isinstance(error, DiskFullError):  # someone has to free space
        return False
    return isinstance(error, DatabaseUnavailableError) or (error.sqlstate or "").startswith(TRANSIENT_SQLSTATES)
