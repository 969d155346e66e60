"""Takes references from a source to the queue, and chunks of the queue through fetch, decode, embed and store."""

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
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from cachetools import LRUCache

from searchdb.db.retry import OutageLog, retry_until_available
from searchdb.embedder import Embedder
from searchdb.errors import DecodeInterruptedError, ImageError, WorkerLostError
from searchdb.ingest.gone import Loss
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.moves import find_moves
from searchdb.ingest.queue import Queue, RunProgress
from searchdb.ingest.reread import find_changed, mark_changed
from searchdb.ingest.store import Store
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.media.memory import FILES_BYTES, Hold, MemoryBudget
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
"""Images in one chunk: enough for round trips not to matter, few enough that a killed worker loses only seconds."""
DEFAULT_CONCURRENCY = 4
"""Chunks processed at a time: one is embedded while others are fetched, and a slow server delays only its own chunk."""
FETCH_THREADS = 32
"""Downloads at a time; they mostly wait for the network."""
MAX_ATTEMPTS = 2
"""Workers that may die at a chunk before its images are tried one by one, and then at a single image."""
REMEMBERED_VECTORS = 4096
"""Recent vectors kept for other images with the same bytes whose chunk is not written yet: 8 MB."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class IngestReport:
    """What a run or a worker has done so far.

    A run counts each reference once, but a duplicate in a later chunk again if the first one was done by then.
    """

    queued: int = 0
    """References added to the queue or found in it; they are also counted below once they are done."""
    stored: int = 0
    unchanged: int = 0
    known_failures: int = 0
    """References that failed before and were not tried."""
    failed: Counter[str] = field(default_factory=Counter[str])
    copied: int = 0
    """How many of the stored images reused the vector of another with the same bytes."""
    index_rebuilt: bool = False
    total: int | None = None
    """All references, known once the source is read to its end."""
    excluded: int | None = None
    """Files and folders that were left out, as clutter or by patterns, where the source is a folder."""
    gone: int | None = None
    """Stored images whose files no longer exist, where the source is a folder."""
    removed: int | None = None
    """How many of these were removed."""
    losses: Sequence[Loss] = ()
    """Folders most of whose stored images are gone, for which reason none are removed."""

    @property
    def done(self) -> int:
        """References that are no longer pending."""
        return self.stored + self.unchanged + self.known_failures + self.failed.total()

    @property
    def readable(self) -> bool:
        """Whether at least one of the references is a searchable image."""
        return self.stored + self.unchanged > 0

    def with_progress(self, progress: RunProgress) -> IngestReport:
        """Return this report with the outcomes of its queued references added."""
        return replace(
            self,
            stored=self.stored + progress.stored,
            copied=self.copied + progress.copied,
            unchanged=self.unchanged + progress.unchanged,
            failed=self.failed + Counter(progress.failed),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; those of folders only where the source is a folder."""
        losses = [loss.to_json() for loss in self.losses]
        values = {**asdict(self), "failed": dict(self.failed), "done": self.done, "losses": losses}
        of_folders = {name: values.pop(name) for name in ("excluded", "gone", "removed", "losses")}
        return values if self.gone is None else values | of_folders


def enqueue(
    items: Iterable[SourceItem | RejectedItem],
    run_id: UUID,
    *,
    store: Store,
    queue: Queue,
    limits: Limits,
    outage_log: OutageLog,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    retry_failed: bool = False,
    reread: bool = False,
    urgent: bool = False,
    cancel: threading.Event | None = None,
) -> Iterator[IngestReport]:
    """Queue the items that are neither stored unchanged nor known failures; yield the report after every chunk.

    Files and URLs may be mixed. Items that the source rejected are recorded as failures at once. A failure that the
    limits no longer cause is tried again. With `reread`, files that look unchanged are compared with their stored
    SHA-256. Setting `cancel` ends the wait for a database that is away.
    """

    def retry(call: Callable[[], T]) -> T:
        return retry_until_available(call, outage_log=outage_log, cancel=cancel)

    report = IngestReport()
    for batch in _batched(items, chunk_size):
        chunk = {item.image: item for item in reversed(batch)}  # the first of duplicates counts
        stored = retry(lambda known=list(chunk): store.stored(known))
        failed = {} if retry_failed else retry(lambda known=list(chunk): store.failed(known))
        wanted: list[SourceItem] = []
        rejected: list[FailedImage] = []
        if reread:
            alike = [item for item in chunk.values() if item.image in stored and stored[item.image].matches(item)]
            changed, unreadable = retry(lambda alike=alike: find_changed(store.engine, alike))
            retry(lambda changed=changed: mark_changed(store.engine, changed))
            wanted += changed
            rejected += unreadable
            for item in (*changed, *unreadable):
                del chunk[item.image]
        for item in chunk.values():
            if item.image in stored and stored[item.image].matches(item):
                report.unchanged += 1
            elif item.image in failed and failed[item.image].fails_again(item, limits):
                report.known_failures += 1
            elif isinstance(item, RejectedItem):
                rejected.append(FailedImage(image=item.image, source=item.source, error=item.error))
            else:
                wanted.append(item)
        retry(lambda failures=rejected: store.record_failures(failures))
        report.failed.update(type(failure.error).__name__ for failure in rejected)
        report.queued += retry(lambda queued=wanted: queue.put(queued, run_id, urgent=urgent))
        yield report


class Ingest:
    """Processes chunks of the queue with one model; several threads may call `work` at the same time.

    While one thread's chunk is embedded, the others' are fetched and decoded. Call `close` at the end.

    Args:
        store, queue: the collection.
        embedder: the model.
        fetcher: reads files and URLs.
        max_pixels: the largest image decoded, in pixels.
        memory: shared by all that is decoded in this process.
        outage_log: the database's.
    """

    def __init__(
        self,
        *,
        store: Store,
        queue: Queue,
        embedder: Embedder,
        fetcher: Fetcher,
        max_pixels: int,
        memory: MemoryBudget,
        outage_log: OutageLog,
    ) -> None:
        self._store = store
        self._queue = queue
        self._embedder = embedder
        self._fetcher = fetcher
        self._max_pixels = max_pixels
        self._memory = memory
        self._files = MemoryBudget(FILES_BYTES)
        self._outage_log = outage_log
        self._executor = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="prepare")
        # Many threads may wait for the network, but no more than one a core makes progress with decoding.
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._embedding = threading.Lock()
        self._recent: LRUCache[bytes, np.ndarray] = LRUCache(REMEMBERED_VECTORS)
        self._stopping = threading.Event()
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._reporting = threading.Lock()
        self.report = IngestReport()
        """What this object has done so far."""

    def stop(self) -> None:
        """Start no further image: `work` stores those already started and puts the others back into the queue."""
        self._stopping.set()

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def work(self, job_id: int, attempts: int, *, isolated: bool = False) -> None:
        """Ingest the rest of a chunk and delete it from the queue; if interrupted, it is still queued.

        `attempts` is the number of workers that died or failed at it before; an `isolated` chunk is tried one image at
        a time.

        Raises:
            ModelMismatchError: the collection's vectors come from another model.
            DatabaseError: an outage lasted longer than MAX_OUTAGE_S, or the database refused a statement.
        """
        if attempts >= MAX_ATTEMPTS and not isolated:
            self._retry(lambda: self._queue.isolate_chunk(job_id))
            return
        chunk = self._retry(lambda: self._queue.chunk(job_id))
        # Another run may have stored some after `enqueue` checked them.
        stored = self._retry(lambda: self._store.stored([item.image for item in chunk]))
        unchanged = [item.image for item in chunk if item.image in stored and stored[item.image].matches(item)]
        wanted = [item for item in chunk if item.image not in set(unchanged)]
        if isolated:
            for item in wanted:
                if not self._stopping.is_set():
                    self._embed_and_store(job_id, [self._prepare_isolated(item)], [])
            wanted = []
        prepared = self._executor.map(self._prepare, wanted)
        self._embed_and_store(job_id, prepared, unchanged)
        if self._stopping.is_set():
            self._retry(lambda: self._queue.requeue_chunk(job_id))

    def _prepare_isolated(self, item: SourceItem) -> DecodedImage | FailedImage | None:
        attempt = self._retry(lambda: self._queue.count_attempt(item.image))
        return _failed(item, WorkerLostError(attempt - 1)) if attempt > MAX_ATTEMPTS else self._prepare(item)

    def _embed_and_store(
        self, job_id: int, prepared: Iterable[DecodedImage | FailedImage | None], unchanged: Sequence[str]
    ) -> None:
        outcome = self._embed(job_id, [each for each in prepared if each is not None], unchanged)
        self._retry(lambda: self._store.record_outcome(outcome, self._embedder.identity, worker=self._name))
        self._add_to_report(outcome)

    def _retry(self, call: Callable[[], T]) -> T:
        return retry_until_available(call, outage_log=self._outage_log, cancel=self._stopping)

    def _prepare(self, item: SourceItem) -> DecodedImage | FailedImage | None:
        """Fetch and decode; return None if `stop` was called before or meanwhile."""
        if self._stopping.is_set():
            return None
        try:
            with Hold(self._files) as hold:
                fetched = self._fetcher.fetch(item, hold)
                with self._decoding:
                    decoded = decode(
                        fetched,
                        max_pixels=self._max_pixels,
                        needed=self._embedder.shortest_edge,
                        memory=self._memory,
                        cancel=self._stopping,
                    )
                    return replace(decoded, pixels=self._embedder.resize(decoded.pixels))
        except DecodeInterruptedError:
            return None
        except ImageError as exc:
            return _failed(item, exc)

    def _embed(
        self, job_id: int, prepared: Sequence[DecodedImage | FailedImage], unchanged: Sequence[str]
    ) -> ChunkOutcome:
        """Embed each distinct content once; other images with the same bytes reuse its vector."""
        decoded = [each for each in prepared if isinstance(each, DecodedImage)]
        with self._embedding:
            vectors, copied = self._vectors(decoded)
        same = [each for each in decoded if each.item.image in copied]
        return ChunkOutcome(
            job_id=job_id,
            embedded=[EmbeddedImage(decoded=each, embedding=vectors[each.sha256]) for each in decoded],
            failed=[failure for failure in prepared if isinstance(failure, FailedImage)],
            unchanged=unchanged,
            copied=copied,
            moved=self._retry(lambda: find_moves(self._store.engine, same)),
        )

    def _vectors(self, decoded: Sequence[DecodedImage]) -> tuple[dict[bytes, np.ndarray], frozenset[str]]:
        if not decoded:
            return {}, frozenset()
        hashes = [each.sha256 for each in decoded]
        vectors = {sha256: self._recent[sha256] for sha256 in hashes if sha256 in self._recent}
        unknown = {sha256 for sha256 in hashes if sha256 not in vectors}
        vectors |= self._retry(lambda: self._store.embeddings_of(list(unknown), self._embedder.identity))
        fresh = {each.sha256: each for each in reversed(decoded) if each.sha256 not in vectors}
        if fresh:
            embedded = self._embedder.embed_images([each.pixels for each in fresh.values()])
            vectors |= zip(fresh, embedded, strict=True)
        self._recent.update(vectors)
        return vectors, frozenset(each.item.image for each in decoded if fresh.get(each.sha256) is not each)

    def _add_to_report(self, outcome: ChunkOutcome) -> None:
        with self._reporting:
            self.report.stored += len(outcome.embedded)
            self.report.copied += len(outcome.copied)
            self.report.unchanged += len(outcome.unchanged)
            self.report.failed.update(type(failure.error).__name__ for failure in outcome.failed)


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the items in tuples of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


def _failed(item: SourceItem, error: ImageError) -> FailedImage:
    return FailedImage(image=item.image, source=item.source, error=error, item=item)
