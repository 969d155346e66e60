"""Shares a number of bytes of memory among the threads of a process."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

from searchdb.errors import MemoryBusyError

FILES_BYTES = 192 * 1024 * 1024
"""Bytes of image files that a process holds at a time, decoded or not: three of the largest, or 32 of 6 MB."""

RETURNED_BYTES = 64_000_000
"""Decodings of at least this size return what they freed: the allocator keeps blocks of up to 32 MB, in an arena for
each thread, and it takes milliseconds to return them."""

_malloc_trim = getattr(
    ctypes.CDLL(None), "malloc_trim", None
)  # of glibc only; other allocators return memory themselves


def return_free_memory() -> None:
    """Return free memory of the C heap to the system, where this is not done anyway."""
    if _malloc_trim is not None:
        _malloc_trim(0)


class MemoryBudget:
    """Bytes of memory that threads reserve before they allocate them.

    Who asked first is served first, so that a large reservation is not overtaken forever by small ones. A thread that
    holds bytes of a budget must not wait for more of the same budget: all threads might.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @property
    def used(self) -> int:
        """The bytes that are reserved now."""
        return self.total - self._free

    @property
    def waiting(self) -> int:
        """The threads that wait for bytes now."""
        return len(self._waiting)

    def reserve(self, size: int, *, timeout_s: float | None = None) -> Reservation:
        """Reserve bytes until the reservation, a context manager, is released; wait while others hold too many.

        Raises:
            ValueError: `size` is more than the whole budget.
            MemoryBusyError: it is not available after `timeout_s` seconds.
        """
        if size > self.total:
            raise ValueError(f"{size:,} bytes are more than the budget of {self.total:,}")
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or size > self._free:
                    left = None if ends is None else ends - time.monotonic()
                    if left is not None and left <= 0:
                        raise MemoryBusyError
                    self._changed.wait(left)
                self._free -= size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()  # the next in line may fit beside this one
        return Reservation(self, size)

    def give_back(self, size: int) -> None:
        """Make reserved bytes available again; `Reservation` calls this."""
        with self._changed:
            self._free += size
            self._changed.notify_all()


class Hold:
    """Bytes of a budget for one thing at a time, whose size may turn out later; a context manager.

    It takes as much as there is if the thing is larger than the whole budget.
    """

    def __init__(self, budget: MemoryBudget, *, timeout_s: float | None = None) -> None:
        self._budget = budget
        self._timeout_s = timeout_s
        self._reservation: Reservation | None = None

    def take(self, size: int) -> None:
        """Hold `size` bytes instead of what it holds.

        Raises:
            MemoryBusyError: they are not available in time.
        """
        self.release()  # first: who holds some must not wait for more
        self._reservation = self._budget.reserve(min(size, self._budget.total), timeout_s=self._timeout_s)

    def shrink(self, size: int) -> None:
        """Keep only `size` bytes; no effect if it holds no more than that."""
        if self._reservation is not None:
            self._reservation.shrink(size)

    def release(self) -> None:
        """Give all bytes back; a second call has no effect."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Reservation:
    """Bytes of a budget that are held until `release`, or until the end of a `with` block."""

    def __init__(self, budget: MemoryBudget, size: int) -> None:
        self._budget = budget
        self.size = size

    def shrink(self, size: int) -> None:
        """Keep only `size` bytes; no effect if it holds no more than that."""
        if size < self.size:
            self.size, freed = size, self.size - size
            self._budget.give_back(freed)

    def release(self) -> None:
        """Give all bytes back; a second call has no effect."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.release()
