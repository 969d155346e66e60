"""Caches one value for a limited time; one thread makes it while the others wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import TTLCache

T = TypeVar("T")


class TimedCache(Generic[T]):
    """The result of `make`, at most `seconds` old.

    Thread-safe: one thread calls `make`, others wait for its result. Errors are not cached.
    """

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._result: TTLCache[tuple[()], T] = TTLCache(maxsize=1, ttl=seconds, timer=time.monotonic)

    def get(self) -> T:
        """Return the cached value, or make a new one if it is too old."""
        with self._lock:
            try:
                return self._result[()]
            except KeyError:
                value = self._result[()] = self._make()
                return value
