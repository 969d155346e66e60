"""The ingest loop: sources -> queue, and from there chunk by chunk -> fetch -> decode -> embed -> store."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from cachetools import LRUCache

from searchdb.db.retry import retry_until_available
from searchdb.embedder import Embedder
from searchdb.errors import ImageError, WorkerLostError
from searchdb.ingest.queue import Queue, RunProgress
from searchdb.ingest.store import Store
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.records import (
    ChunkOutcome,
    DecodedImage,
    EmbeddedImage,
    FailedImage,
    RejectedItem,
    SourceItem,
)

T = TypeVar("T")

DEFAULT_CHUNK_SIZE = 128
"""Pictures in one chunk: large enough for the round trips not to matter, small enough that a kill loses seconds."""
DEFAULT_CONCURRENCY = 4
"""Chunks in hand: one is embedded while others are fetched, and one slow server holds up only its own."""
FETCH_THREADS = 32
"""Downloads at a time: they wait for the network far more than they compute."""
MAX_ATTEMPTS = 2
"""Workers that may die at a chunk before its pictures are tried one by one, and then at one picture."""
REMEMBERED_VECTORS = 4096
"""Vectors of the last pictures kept for others with the same bytes, not yet written: 8 MB."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class IngestReport:
    """What a run, or a worker, has done so far.

    Of a run every reference it was given is counted once, or again where it was named again in a later chunk and was
    done by then.
    """

    queued: int = 0
    """References put into the queue, or found there; they are counted again below once they are done."""
    stored: int = 0
    unchanged: int = 0
    known_failures: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    copied: int = 0
    """Of those stored, how many had the same bytes as another and took its vector."""
    index_rebuilt: bool = False
    total: int | None = None
    """References in all, once the source has named the last."""

    @property
    def done(self) -> int:
        """References dealt with."""
        return self.stored + self.unchanged + self.known_failures + self.failed.total()

    @property
    def readable(self) -> bool:
        """Whether at least one picture is searchable through this run's references."""
        return self.stored + self.unchanged > 0

    def after(self, progress: RunProgress) -> IngestReport:
        """Return this report of what was queued with what has become of it."""
        return replace(
            self,
            stored=self.stored + progress.stored,
            copied=self.copied + progress.copied,
            unchanged=self.unchanged + progress.unchanged,
            failed=self.failed + Counter(progress.failed),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "failed": dict(self.failed), "done": self.done}

    def in_words(self) -> str:
        """Return it as a few lines for people."""
        lines = [
            f"{self.done:,} references: {self.stored:,} stored, {self.unchanged:,} unchanged, "
            f"{self.failed.total():,} failed, {self.known_failures:,} known failures not tried again"
        ]
        lines += [f"  {count:6,} {error}" for error, count in self.failed.most_common()]
        if self.failed:
            lines.append("`searchdb failures list` says why")
        if self.index_rebuilt:
            lines.append("the index was rebuilt to fit")
        if self.known_failures:
            lines.append("--retry-failed tries the known failures again")
        return "\n".join(lines)


def enqueue(
    items: Iterable[SourceItem | RejectedItem],
    run_id: UUID,
    *,
    store: Store,
    queue: Queue,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    retry_failed: bool = False,
    waited_for: bool = False,
) -> Iterator[IngestReport]:
    """Queue what is neither stored as it is nor known to fail; yield the report after every chunk.

    Files and URLs may be mixed. What its source rejected is recorded as a failure at once.
    """
    report = IngestReport()
    for batch in _batched(items, chunk_size):
        chunk = {item.image: item for item in reversed(batch)}  # of a reference named twice, what was said first
        stored = retry_until_available(lambda known=list(chunk): store.stored(known))
        failed = {} if retry_failed else retry_until_available(lambda known=list(chunk): store.failed(known))
        wanted: list[SourceItem] = []
        rejected: list[FailedImage] = []
        for item in chunk.values():
            if item.image in stored and stored[item.image].matches(item):
                report.unchanged += 1
            elif item.image in failed and failed[item.image].matches(item):
                report.known_failures += 1
            elif isinstance(item, RejectedItem):
                rejected.append(FailedImage(image=item.image, source=item.source, error=item.error))
            else:
                wanted.append(item)
        retry_until_available(lambda failures=rejected: store.record_failures(failures))
        report.failed.update(type(failure.error).__name__ for failure in rejected)
        report.queued += retry_until_available(lambda queued=wanted: queue.put(queued, run_id, waited_for=waited_for))
        yield report


class Ingest:
    """Works off chunks of the queue with one model; several threads may do so at once, and share what it holds.

    While one thread's chunk is embedded, the others' are fetched and decoded. Close it at the end.

    Args:
        store, queue: the collection.
        embedder: the model.
        fetcher: brings the bytes.
        max_pixels: the largest picture decoded, in pixels.
    """

    def __init__(self, *, store: Store, queue: Queue, embedder: Embedder, fetcher: Fetcher, max_pixels: int) -> None:
        self._store = store
        self._queue = queue
        self._embedder = embedder
        self._fetcher = fetcher
        self._max_pixels = max_pixels
        self._executor = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="prepare")
        # Threads wait for the network, but a decoded picture may take 300 MB: only as many decode as there are cores.
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._embedding = threading.Lock()
        self._recent: LRUCache[bytes, np.ndarray] = LRUCache(REMEMBERED_VECTORS)
        self._stopping = threading.Event()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._reporting = threading.Lock()
        self.report = IngestReport()
        """What this object has done."""

    def stop(self) -> None:
        """Begin no further picture: `work` returns when those begun are stored, the others go back to the queue."""
        self._stopping.set()

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def work(self, job_id: int, attempts: int, *, suspect: bool = False) -> None:
        """Ingest what is left of a chunk, and take it out of the queue; if interrupted, it is still there.

        `attempts` says how many workers died, or failed, at it before; a `suspect` is tried picture by picture.

        Raises:
            ModelMismatchError: the collection's vectors come from another model.
            DatabaseError: the database went away for long, or refuses us.
        """
        if attempts >= MAX_ATTEMPTS and not suspect:
            self._retry(lambda: self._queue.suspect(job_id))
            return
        chunk = self._retry(lambda: self._queue.chunk(job_id))
        # Somebody may have stored some between the source's look and the queue's.
        stored = self._retry(lambda: self._store.stored([item.image for item in chunk]))
        unchanged = [item.image for item in chunk if item.image in stored and stored[item.image].matches(item)]
        wanted = [item for item in chunk if item.image not in set(unchanged)]
        if suspect:
            for item in wanted:
                if not self._stopping.is_set():
                    self._settle(job_id, [self._tried_alone(item)], [])
            wanted = []
        self._settle(job_id, self._prepared(wanted), unchanged)
        if self._stopping.is_set():
            self._retry(lambda: self._queue.hand_back(job_id))

    def _tried_alone(self, item: SourceItem) -> DecodedImage | FailedImage | None:
        attempt = self._retry(lambda: self._queue.attempt(item.image))
        return _failed(item, WorkerLostError(attempt - 1)) if attempt > MAX_ATTEMPTS else self._prepare(item)

    def _settle(
        self, job_id: int, prepared: Iterable[DecodedImage | FailedImage | None], unchanged: Sequence[str]
    ) -> None:
        outcome = self._outcome(job_id, [each for each in prepared if each is not None], unchanged)
        self._retry(lambda: self._store.settle(outcome, self._embedder.identity, worker=self._name))
        self._count(outcome)

    def _retry(self, call: Callable[[], T]) -> T:
        return retry_until_available(call, cancel=self._stopping)

    def _prepared(self, items: Sequence[SourceItem]) -> Iterator[DecodedImage | FailedImage | None]:
        """Fetch and decode in threads; what was not begun when `stop` was called is None."""
        return self._executor.map(self._prepare, items)

    def _prepare(self, item: SourceItem) -> DecodedImage | FailedImage | None:
        if self._stopping.is_set():
            return None
        try:
            fetched = self._fetcher.fetch(item)
            with self._decoding:
                decoded = decode(fetched, max_pixels=self._max_pixels, needed=self._embedder.shortest_edge)
                return replace(decoded, pixels=self._embedder.resize(decoded.pixels))
        except ImageError as exc:
            return _failed(item, exc)

    def _outcome(
        self, job_id: int, prepared: Sequence[DecodedImage | FailedImage], unchanged: Sequence[str]
    ) -> ChunkOutcome:
        """Embed each distinct content once; the others with the same bytes take its vector."""
        decoded = [picture for picture in prepared if isinstance(picture, DecodedImage)]
        with self._embedding:
            vectors, copied = self._vectors(decoded)
        return ChunkOutcome(
            job_id=job_id,
            embedded=[EmbeddedImage(decoded=picture, embedding=vectors[picture.sha256]) for picture in decoded],
            failed=[failure for failure in prepared if isinstance(failure, FailedImage)],
            unchanged=unchanged,
            copied=copied,
        )

    def _vectors(self, decoded: Sequence[DecodedImage]) -> tuple[dict[bytes, np.ndarray], frozenset[str]]:
        if not decoded:
            return {}, frozenset()
        hashes = [picture.sha256 for picture in decoded]
        vectors = {sha256: self._recent[sha256] for sha256 in hashes if sha256 in self._recent}
        unknown = {sha256 for sha256 in hashes if sha256 not in vectors}
        vectors |= self._retry(lambda: self._store.embeddings_of(list(unknown), self._embedder.identity))
        fresh = {picture.sha256: picture for picture in reversed(decoded) if picture.sha256 not in vectors}
        if fresh:
            embedded = self._embedder.embed_images([picture.pixels for picture in fresh.values()])
            vectors |= zip(fresh, embedded, strict=True)
        self._recent.update(vectors)
        return vectors, frozenset(picture.item.image for picture in decoded if fresh.get(picture.sha256) is not picture)

    def _count(self, outcome: ChunkOutcome) -> None:
        with self._reporting:
            self.report.stored += len(outcome.embedded)
            self.report.copied += len(outcome.copied)
            self.report.unchanged += len(outcome.unchanged)
            self.report.failed.update(type(failure.error).__name__ for failure in outcome.failed)


def gone_files(store: Store, folders: Sequence[str]) -> list[int]:
    """Return the ids of stored pictures below these folders whose files no longer exist."""
    found = (row for folder in folders for row in store.images_under(folder))
    return [image_id for image_id, path in found if _is_gone(path)]


def _is_gone(path: str) -> bool:
    """Whether there is certainly no such file; one behind a folder that may not be read is not gone."""
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the items in tuples of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


def _failed(item: SourceItem, error: ImageError) -> FailedImage:
    return FailedImage(image=item.image, source=item.source, error=error, item=item)
