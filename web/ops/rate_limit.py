"""Counts per client against a limit such as "120 per minute", in bounded memory.

The counters are our own, because those of Flask-Limiter keep every key until it expires, however many there are, and
look through all of them after each request.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from flask import request
from werkzeug.exceptions import TooManyRequests

from .forwarded import client_key

MOST_CLIENTS = 50_000
"""Clients whose counts are kept, in about 10 MB. Beyond, the one that came first is forgotten: who has that many
addresses needs no forgotten count, and no other client is refused for it."""

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class RateLimit:
    """Counts per key in windows of a fixed length, each of which begins with the key's first count.

    Args:
        limit: like "120 per minute".
        most_keys: keys that are kept in memory.
    """

    def __init__(
        self, limit: str, *, most_keys: int = MOST_CLIENTS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        amount, _, unit = limit.split()
        self.limit = limit
        self.amount = int(amount)
        self._seconds = _SECONDS[unit]
        self._most_keys = most_keys
        self._clock = clock
        self._lock = threading.Lock()
        # The count and the end of the window, by the begin of the window: all have the same length, so by its end, too.
        self._windows: dict[str, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, key: str, cost: int = 1) -> float | None:
        """Count `cost` for a key; where that exceeds the limit, count nothing and return the seconds to wait."""
        now = self._clock()
        with self._lock:
            count, end = self._windows.get(key, (0, 0.0))
            if end <= now:
                self._windows.pop(key, None)
                self._forget(now)
                count, end = 0, now + self._seconds
            if count + cost > self.amount:
                return end - now
            self._windows[key] = count + cost, end
            return None

    def _forget(self, now: float) -> None:
        """Make room for a key: forget windows that have ended, and the oldest one if there are too many."""
        while self._windows:
            oldest = next(iter(self._windows))
            if self._windows[oldest][1] > now and len(self._windows) < self._most_keys:
                return
            del self._windows[oldest]


def this_client() -> str:
    """Return the key of the current request's client: an IPv4 address or the /64 network of an IPv6 address."""
    return client_key(request.remote_addr or "")


def refusal(message: str, wait_s: float) -> TooManyRequests:
    """Return the error for a client that may try again after some seconds."""
    return TooManyRequests(message, retry_after=max(math.ceil(wait_s), 1))
