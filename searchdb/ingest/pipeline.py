"""Takes chunks of the queue through fetch, decode, embed and store."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from cachetools import LRUCache

from searchdb.db.retry import OutageLog, retry_until_available
from searchdb.embedder import Embedder
from searchdb.errors import DecodeError, DecodeInterruptedError, FileUnreadableError, ImageError, WorkerLostError
from searchdb.ingest.companions import raw_beside, read_companions
from searchdb.ingest.moves import find_moves
from searchdb.ingest.preparation import Preparation
from searchdb.ingest.queue import Queue
from searchdb.ingest.report import IngestReport
from searchdb.ingest.second_model import FindSecondModel, SecondModel, no_second_model
from searchdb.ingest.store import Store
from searchdb.ingest.video_store import record_video
from searchdb.ingest.videos import VideoLimits, VideoReading
from searchdb.media.fetch import Fetcher
from searchdb.media.local_files import UnwantedContentError
from searchdb.media.memory import MemoryBudget
from searchdb.media.written.reader import read_written
from searchdb.records import (
    ChunkOutcome,
    DecodedImage,
    EmbeddedImage,
    FailedImage,
    ModelIdentity,
    RefreshedImage,
    SourceItem,
)

T = TypeVar("T")
DEFAULT_CONCURRENCY = 4
"""Chunks processed at a time: one is embedded while others are fetched, and a slow server delays only its own chunk."""
FETCH_THREADS = 32
"""Downloads at a time; they mostly wait for the network."""
MAX_ATTEMPTS = 2
"""Workers that may die at a chunk before its images are tried one by one, and then at a single image."""
VIDEOS_AT_ONCE = 2
"""Videos that a process reads at a time: while the frames of one are embedded, another is decoded."""
REMEMBERED_VECTORS = 4096
"""Recent vectors kept for other images with the same bytes whose chunk is not written yet: 8 MB."""

Prepared = DecodedImage | RefreshedImage | FailedImage | SourceItem
"""An image that is ready for the model, needs no embedding or failed, or the item of a video, which is read later."""

logger = logging.getLogger(__name__)


class Ingest:
    """Processes chunks of the queue with one model; several threads may call `work` at the same time.

    While one thread's chunk is embedded, the others' are fetched and decoded. Call `close` at the end.

    Args:
        store, queue: the collection.
        embedder: the model.
        fetcher: reads files and URLs.
        max_pixels: the largest image decoded, in pixels.
        videos: the limits of videos.
        downloads: the folder for videos while they are ingested from URLs.
        memory: shared by all that is decoded in this process.
        outage_log: the database's.
        second_model: finds the model that the collection is being switched to, whose vectors are stored as well.
    """

    def __init__(
        self,
        *,
        store: Store,
        queue: Queue,
        embedder: Embedder,
        fetcher: Fetcher,
        max_pixels: int,
        videos: VideoLimits,
        downloads: Path,
        memory: MemoryBudget,
        outage_log: OutageLog,
        second_model: FindSecondModel = no_second_model,
    ) -> None:
        self._store = store
        self._queue = queue
        self._embedder = embedder
        self._max_pixels = max_pixels
        self._outage_log = outage_log
        self._second_model = second_model
        self._executor = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="prepare")
        self._embedding = threading.Lock()
        self._recent: LRUCache[tuple[bytes, bytes], np.ndarray] = LRUCache(REMEMBERED_VECTORS)
        self._stopping = threading.Event()
        self._preparation = Preparation(fetcher=fetcher, max_pixels=max_pixels, memory=memory, stopping=self._stopping)
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._reporting = threading.Lock()
        self._video_executor = ThreadPoolExecutor(VIDEOS_AT_ONCE, thread_name_prefix="video")
        self._videos = VideoReading(
            engine=store.engine,
            embedder=embedder,
            embedding=self._embedding,
            fetcher=fetcher,
            downloads=downloads,
            limits=videos,
            retry=self._retry,
            stopping=self._stopping,
        )
        self.report = IngestReport()
        """What this object has done so far."""

    def stop(self) -> None:
        """Start no further image: `work` stores those already started and puts the others back into the queue."""
        self._stopping.set()

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._video_executor.shutdown(wait=True, cancel_futures=True)

    def work(self, job_id: int, attempts: int, *, isolated: bool = False) -> None:
        """Ingest the rest of a chunk and delete it from the queue; if interrupted, it is still queued.

        `attempts` is the number of workers that died or failed at it before; an `isolated` chunk is tried one image at
        a time. Images are stored first, then each video by itself.

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
        known = [item for item in chunk if item.image in stored and stored[item.image].has_same_file(item)]
        whole = [item for item in known if not stored[item.image].partial]
        unchanged = {item.image for item in whole if stored[item.image].matches(item)}
        refreshable = {item.image for item in known} - unchanged
        wanted = [item for item in chunk if item.image not in unchanged]
        second = self._retry(self._second_model) if wanted else None
        if isolated:
            for item in wanted:
                if not self._stopping.is_set():
                    prepared = self._with_raw_files([self._prepare_isolated(item, second)], stored, second)
                    self._store_videos(job_id, self._embed_and_store(job_id, prepared, [], second), second)
            wanted = []

        def prepare(item: SourceItem) -> Prepared | None:
            return self._refresh(item, second) if item.image in refreshable else self._prepare(item, second)

        prepared = self._with_raw_files(self._executor.map(prepare, wanted), stored, second)
        videos = self._embed_and_store(job_id, prepared, sorted(unchanged), second)
        self._store_videos(job_id, videos, second)
        if self._stopping.is_set():
            self._retry(lambda: self._queue.requeue_chunk(job_id))

    def _prepare_isolated(self, item: SourceItem, second: SecondModel | None) -> Prepared | None:
        attempt = self._retry(lambda: self._queue.count_attempt(item.image))
        if attempt > MAX_ATTEMPTS:
            return FailedImage.of(item, WorkerLostError(attempt - 1))
        return self._prepare(item, second)

    def _with_raw_files(
        self, prepared: Iterable[Prepared | None], stored: Container[str], second: SecondModel | None
    ) -> Iterator[Prepared | None]:
        """Yield them; after an image that cannot be decoded and is not stored, yield the RAW file beside it, too.

        Otherwise the photograph could not be found, although it is readable.
        """
        for each in prepared:
            yield each
            if isinstance(each, FailedImage) and isinstance(each.error, DecodeError) and each.image not in stored:
                raw = None if each.item is None else raw_beside(each.item)
                if raw is not None:
                    yield self._prepare(raw, second)

    def _embed_and_store(
        self, job_id: int, prepared: Iterable[Prepared | None], unchanged: Sequence[str], second: SecondModel | None
    ) -> list[SourceItem]:
        """Embed and store the images; return what turned out to be videos."""
        found = [each for each in prepared if each is not None]
        no_videos = [each for each in found if not isinstance(each, SourceItem)]
        outcome = self._embed(job_id, no_videos, unchanged, second)
        self._retry(lambda: self._store.record_outcome(outcome, self._embedder.identity, worker=self._name))
        self._add_to_report(outcome)
        return [each for each in found if isinstance(each, SourceItem)]

    def _store_videos(self, job_id: int, items: Sequence[SourceItem], second: SecondModel | None) -> None:
        for _ in self._video_executor.map(partial(self._store_video, job_id, second), items):
            pass  # raises what a thread raised

    def _store_video(self, job_id: int, second: SecondModel | None, item: SourceItem) -> None:
        outcome = None if self._stopping.is_set() else self._videos.read(item, second)
        if outcome is None:  # stopped: it is still queued
            return
        model = self._embedder.identity
        frames = self._retry(lambda: record_video(self._store.engine, outcome, model, job_id=job_id, worker=self._name))
        with self._reporting:
            self.report.frames += frames
            self.report.copied += outcome.copied
            if outcome.failure is None:
                self.report.stored += 1
            else:
                self.report.failed[type(outcome.failure.error).__name__] += 1

    def _retry(self, call: Callable[[], T]) -> T:
        return retry_until_available(call, outage_log=self._outage_log, cancel=self._stopping)

    def _prepare(self, item: SourceItem, second: SecondModel | None) -> Prepared | None:
        """Fetch and decode; return the item of a video, and None if `stop` was called before or meanwhile."""
        if self._stopping.is_set():
            return None
        try:
            embedders = [self._embedder] if second is None else [self._embedder, second.embedder]
            decoded = self._preparation.prepare(item, embedders)
            read, written = read_companions(item, decoded.written)
            return replace(decoded, item=read, written=written)
        except UnwantedContentError:
            return item
        except DecodeInterruptedError:
            return None
        except ImageError as exc:
            return FailedImage.of(item, exc)

    def _refresh(self, item: SourceItem, second: SecondModel | None) -> Prepared | None:
        """Read what is written in a stored file and beside it, or prepare it again where that takes decoding."""
        if self._stopping.is_set():
            return None
        try:
            of_file = read_written(Path(item.image), max_pixels=self._max_pixels)
        except FileUnreadableError as exc:
            return FailedImage.of(item, exc)
        except ImageError:  # it is no image, such as a video, or has changed meanwhile
            of_file = None
        if of_file is None:
            return self._prepare(item, second)
        read, written = read_companions(item, of_file)
        return RefreshedImage(item=read, written=written)

    def _embed(
        self, job_id: int, prepared: Sequence[Prepared], unchanged: Sequence[str], second: SecondModel | None
    ) -> ChunkOutcome:
        """Embed each distinct content once; other images with the same bytes reuse its vector."""
        decoded = [each for each in prepared if isinstance(each, DecodedImage)]
        with self._embedding:
            vectors, copied = self._vectors(decoded)
            others = {} if second is None else self._second_vectors(decoded, second)
        same = [each for each in decoded if each.item.image in copied]
        refreshed = [each for each in prepared if isinstance(each, RefreshedImage)]
        return ChunkOutcome(
            job_id=job_id,
            embedded=[
                EmbeddedImage(decoded=each, embedding=vectors[each.sha256], others=others.get(each.sha256, {}))
                for each in decoded
            ],
            failed=[failure for failure in prepared if isinstance(failure, FailedImage)],
            unchanged=unchanged,
            copied=copied | {each.item.image for each in refreshed},
            refreshed=refreshed,
            moved=self._retry(lambda: find_moves(self._store.engine, same)),
        )

    def _vectors(self, decoded: Sequence[DecodedImage]) -> tuple[dict[bytes, np.ndarray], frozenset[str]]:
        if not decoded:
            return {}, frozenset()
        hashes = {each.sha256 for each in decoded}
        model = self._embedder.identity
        vectors = self._remembered(hashes, model)
        unknown = [sha256 for sha256 in hashes if sha256 not in vectors]
        vectors |= self._retry(lambda: self._store.embeddings_of(unknown, model))
        fresh = {each.sha256: each for each in reversed(decoded) if each.sha256 not in vectors}
        if fresh:
            embedded = self._embedder.embed_images([each.pixels for each in fresh.values()])
            vectors |= zip(fresh, embedded, strict=True)
        self._remember(vectors, model)
        return vectors, frozenset(each.item.image for each in decoded if fresh.get(each.sha256) is not each)

    def _second_vectors(
        self, decoded: Sequence[DecodedImage], second: SecondModel
    ) -> dict[bytes, Mapping[int, np.ndarray]]:
        """Return the vectors by the model that the collection is being switched to, by the SHA-256 of the image."""
        model = second.embedder.identity
        vectors = self._remembered({each.sha256 for each in decoded}, model)
        fresh = {each.sha256: each.second_pixels for each in decoded if each.sha256 not in vectors}
        pixels = {sha256: each for sha256, each in fresh.items() if each is not None}
        if pixels:
            vectors |= zip(pixels, second.embedder.embed_images(list(pixels.values())), strict=True)
        self._remember(vectors, model)
        return {sha256: {second.model_id: vector} for sha256, vector in vectors.items()}

    def _remembered(self, hashes: Collection[bytes], model: ModelIdentity) -> dict[bytes, np.ndarray]:
        keys = {sha256: (model.weights_sha256, sha256) for sha256 in hashes}
        return {sha256: self._recent[key] for sha256, key in keys.items() if key in self._recent}

    def _remember(self, vectors: Mapping[bytes, np.ndarray], model: ModelIdentity) -> None:
        self._recent.update({(model.weights_sha256, sha256): vector for sha256, vector in vectors.items()})

    def _add_to_report(self, outcome: ChunkOutcome) -> None:
        with self._reporting:
            self.report.stored += len(outcome.embedded) + len(outcome.refreshed)
            self.report.copied += len(outcome.copied)
            self.report.unchanged += len(outcome.unchanged)
            self.report.failed.update(type(failure.error).__name__ for failure in outcome.failed)
