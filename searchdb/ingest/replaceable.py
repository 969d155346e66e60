"""Holds what several threads use, and what replaces it while some of them still use the earlier one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar


class Stoppable(Protocol):
    """What is stopped before its end, and closed at its end."""

    def stop(self) -> None:
        """Begin nothing new."""
        ...

    def close(self) -> None:
        """End what runs in the background."""
        ...


T = TypeVar("T", bound=Stoppable)


class Replaceable(Generic[T]):
    """What is made when a thread first needs it; once replaced, it is closed when no thread uses it. Thread-safe.

    An earlier one would hold a model in memory.

    Args:
        make: makes it, given the one that it replaces, None at first.
    """

    def __init__(self, make: Callable[[T | None], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._users: Counter[int] = Counter()
        self._earlier: list[T] = []
        self._stopped = False
        self.current: T | None = None

    @contextmanager
    def used(self, *, after: T | None = None) -> Generator[T]:
        """Give it for the time of a `with`: another one than `after`, which is made unless another thread has."""
        with self._lock:
            if self.current is None or self.current is after:
                made = self._make(after)
                if self.current is not None:
                    self._earlier.append(self.current)
                if self._stopped:
                    made.stop()
                self.current = made
            using = self.current
            self._users[id(using)] += 1
        try:
            yield using
        finally:
            with self._lock:
                self._users[id(using)] -= 1
                unused = [each for each in self._earlier if not self._users[id(each)]]
                self._earlier = [each for each in self._earlier if self._users[id(each)]]
            for each in unused:
                each.close()

    def replace(self) -> None:
        """Have the next user make another one."""
        with self._lock:
            earlier, self.current = self.current, None
            if earlier is not None and self._users[id(earlier)]:
                self._earlier.append(earlier)
                earlier = None
        if earlier is not None:
            earlier.close()

    def stop(self) -> None:
        """Stop it, the earlier ones, and whatever is made from now on."""
        self._stopped = True
        for each in (*self._earlier, self.current):
            if each is not None:
                each.stop()

    def close(self) -> None:
        """Close it and the earlier ones."""
        for each in (*self._earlier, self.current):
            if each is not None:
                each.close()
