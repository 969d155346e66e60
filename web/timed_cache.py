"""Caches one value for a limited time; one thread makes it, and the others take the last one or wait a little."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from werkzeug.exceptions import ServiceUnavailable

WAIT_S = 2.0
"""Longest wait for a first value that another thread is making, in seconds; most take a tenth of one."""
RETRY_AFTER_S = 5

T = TypeVar("T")


class TimedCache(Generic[T]):
    """The result of `make`, at most `seconds` old, or older while it is made again.

    Thread-safe: one thread calls `make`. Others get the last value meanwhile; if there is none yet, they wait for the
    result, and an error is theirs, too: each would fail after as long. After a wait of WAIT_S in vain no other waits
    for that result, because threads are few. Errors are not cached.
    """

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._lock = threading.Lock()
        self._made: tuple[T, float] | None = None
        self._making: Future[T] | None = None
        self._takes_long = False

    def get(self) -> T:
        """Return the cached value, or make a new one if it is too old.

        Raises:
            ServiceUnavailable: another thread is making the first value, and that takes long.
        """
        with self._lock:
            if self._made is not None and (self._making or time.monotonic() - self._made[1] < self._seconds):
                return self._made[0]
            others, mine = self._making, Future[T]()
            if others is None:
                self._making = mine
        return self._make_for_all(mine) if others is None else self._wait(others)

    def _make_for_all(self, making: Future[T]) -> T:
        self._takes_long = False
        try:
            value = self._make()
        except BaseException as exc:
            with self._lock:
                self._making = None
            making.set_exception(exc)
            raise
        with self._lock:
            self._made, self._making = (value, time.monotonic()), None
        making.set_result(value)
        return value

    def _wait(self, making: Future[T]) -> T:
        if not self._takes_long:
            try:
                return making.result(WAIT_S)
            except TimeoutError:
                if making.done():  # the other thread's own error
                    raise
                self._takes_long = True
        raise ServiceUnavailable("This is being counted. Try again in a few seconds.", retry_after=RETRY_AFTER_S)
