"""Limits how many requests do one kind of slow work at once, and how many wait for their turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType

from flask import g, has_request_context
from werkzeug.exceptions import ServiceUnavailable

from .ops.metrics import Metrics

WORK_THREADS = 16
"""Threads that work of all kinds together may occupy, running or waiting. The server has 24: the others stay free for
searches whose vectors are cached, pages and files, which take milliseconds."""
RETRY_AFTER_S = 5
"""Seconds after which a refused client may try again: most work takes less, so a slot is likely to be free by then."""


REQUEST_WAIT_S = 20.0
"""Seconds from the start of a request in which it waits for its turns, of which it may need several."""
LATE_WAIT_S = 2.0
"""Seconds that it waits for a turn after that: its work so far should not be in vain."""


def waiting_time(longest_s: float) -> float:
    """Return how many seconds the current request may wait for its next turn; `longest_s` outside of requests."""
    began = g.get("began") if has_request_context() else None
    if began is None:
        return longest_s
    return min(longest_s, max(began + REQUEST_WAIT_S - time.perf_counter(), LATE_WAIT_S))


class Threads:
    """Counts the threads that work of all kinds occupies; a thread inside several slots counts once."""

    def __init__(self, most: int = WORK_THREADS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._occupied = 0
        self._depth = threading.local()

    def enter(self) -> bool:
        """Count this thread; return False, uncounted, if there are too many."""
        depth = getattr(self._depth, "value", 0)
        with self._lock:
            if depth == 0 and self._occupied >= self._most:
                return False
            self._occupied += depth == 0
        self._depth.value = depth + 1
        return True

    def leave(self) -> None:
        """Count this thread no longer, once it has left as often as it entered."""
        self._depth.value -= 1
        if self._depth.value == 0:
            with self._lock:
                self._occupied -= 1


class Slots:
    """A number of slots for one kind of work, as a context manager: a request holds one while it works.

    If all are taken, a few requests wait, first come, first served. All others are refused at once: an answer "try
    again" costs nothing, and a waiting thread serves no requests. Threads without a request, as of the index build,
    wait without limit: no visitor waits for them.

    Args:
        kind: the work, as metrics name it.
        busy: says to a refused visitor what is busy.
        at_once: requests that work at once.
        waiting: requests that wait for a slot.
        wait_s: longest wait in seconds.
        threads: shared by all kinds of work.
        metrics: count the slots in use and the refusals.

    Raises:
        ServiceUnavailable: on entry: too many requests are waiting, or the wait took too long.
    """

    def __init__(
        self, kind: str, busy: str, *, at_once: int, waiting: int, wait_s: float, threads: Threads, metrics: Metrics
    ) -> None:
        self.kind = kind
        self._busy = busy
        self._at_once = at_once
        self._waiting = waiting
        self._wait_s = wait_s
        self._threads = threads
        self._metrics = metrics
        self._lock = threading.Lock()
        self._used = 0
        self._queue: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        if not has_request_context():
            self._acquire(limited=False)
        elif not self._threads.enter():
            self._refuse()
        else:
            try:
                self._acquire(limited=True)
            except BaseException:
                self._threads.leave()
                raise

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            if self._queue:  # hand the slot over: a thread that comes by now must not overtake those that wait
                self._queue.popleft().set()
            else:
                self._used -= 1
                self._metrics.slots(self.kind, self._used, self._at_once)
        if has_request_context():
            self._threads.leave()

    def _acquire(self, *, limited: bool) -> None:
        with self._lock:
            if self._used < self._at_once:
                self._used += 1
                self._metrics.slots(self.kind, self._used, self._at_once)
                return
            full = limited and len(self._queue) >= self._waiting
            turn = threading.Event()
            if not full:
                self._queue.append(turn)
        if full:
            self._refuse()
        if turn.wait(waiting_time(self._wait_s) if limited else None):
            return
        with self._lock:
            if turn.is_set():  # at the last moment
                return
            self._queue.remove(turn)
        self._refuse()

    def _refuse(self) -> None:
        self._metrics.refused(self.kind)
        raise ServiceUnavailable(f"{self._busy} Try again in a few seconds.", retry_after=RETRY_AFTER_S)


class WorkSlots:
    """The slots of each kind of slow work in one process.

    Attributes:
        fetches: fetching an image from a URL that a visitor names. Few, because each may take VISITOR_DEADLINE_S.
        decodes: decoding a visitor's image: a large one takes hundreds of MB and seconds.
        thumbnails: making thumbnails. Apart from `decodes`, so that a page of new images does not keep anybody from
            searching by an image.
        model: running the model. It runs one batch at a time, from all callers in turn, so more at once gain nothing,
            but short ones overtake long ones.
        embeddings: requests of POST /api/embeddings, with up to 64 texts each: in the model, single texts get the rest
            of its slots.
        uploads: requests that add an image.
        loading: searches that wait while the model is loaded.
    """

    def __init__(self, metrics: Metrics) -> None:
        threads = Threads()

        def slots(kind: str, busy: str, *, at_once: int, waiting: int, wait_s: float) -> Slots:
            return Slots(kind, busy, at_once=at_once, waiting=waiting, wait_s=wait_s, threads=threads, metrics=metrics)

        self.fetches = slots("fetch", "Other images are being fetched.", at_once=3, waiting=2, wait_s=3)
        self.decodes = slots("decode", "Other images are being decoded.", at_once=3, waiting=9, wait_s=10)
        self.thumbnails = slots("thumbnail", "Other thumbnails are being made.", at_once=3, waiting=9, wait_s=10)
        self.model = slots("model", "The model is busy with other searches.", at_once=4, waiting=12, wait_s=5)
        self.embeddings = slots("embeddings", "Other embeddings are being made.", at_once=2, waiting=6, wait_s=10)
        self.uploads = slots("upload", "Other images are being added.", at_once=3, waiting=6, wait_s=10)
        self.loading = slots("loading", "The model is still loading.", at_once=6, waiting=0, wait_s=0)
