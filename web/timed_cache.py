"""A value that costs a while to make, kept for a time and made by one thread for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class TimedCache(Generic[T]):
    """What `make` returned, at most `seconds` ago.

    Who asks while it is made waits for it. An error is not kept.
    """

    def __init__(self, make: Callable[[], T], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        """Return the value, made anew if it is too old."""
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > self._seconds:
                value = self._make()
                self._kept = time.monotonic(), value
            return self._kept[1]
