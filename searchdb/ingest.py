"""The ingest loop: sources -> fetch -> decode -> embed -> store, with pictures prepared ahead of the model."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import BoundedSemaphore
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from searchdb.decode import decode
from searchdb.errors import PictureError
from searchdb.fetch import Fetcher
from searchdb.records import DecodedImage, EmbeddedImage, FailedImage, ModelIdentity, RejectedItem, SourceItem
from searchdb.store import Store

T = TypeVar("T")

DEFAULT_CHUNK_SIZE = 128
"""Pictures in one write: large enough for the round trip not to matter, small enough that a kill loses seconds."""
LOOK_AHEAD = 128
"""Pictures fetched and decoded ahead of the model: 20 MB once scaled to its size."""
FETCH_THREADS = 16
"""Downloads at a time: they wait for the network far more than they compute."""


class ImageEmbedder(Protocol):
    """What ingest needs of the model."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        ...

    def resize(self, picture: Image.Image) -> Image.Image:
        """Scale and crop an RGB picture to what the model takes."""
        ...

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(pictures), 512)."""
        ...


@dataclass(kw_only=True)
class IngestReport:
    """What a run has done so far; every reference it was given is counted once."""

    stored: int = 0
    unchanged: int = 0
    known_failures: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    copied: int = 0
    """Of those stored, how many had the same bytes as another and took its vector."""
    index_rebuilt: bool = False

    @property
    def done(self) -> int:
        """References dealt with."""
        return self.stored + self.unchanged + self.known_failures + self.failed.total()

    @property
    def readable(self) -> bool:
        """Whether at least one picture is searchable through this run's references."""
        return self.stored + self.unchanged > 0

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


class Ingest:
    """Ingests pictures into one collection with one model.

    Args:
        store: where rows go.
        embedder: the model.
        fetcher: brings the bytes.
        max_pixels: the largest picture decoded, in pixels.
        chunk_size: pictures in one write.
        retry_failed: try references anew that failed before.
    """

    def __init__(
        self,
        *,
        store: Store,
        embedder: ImageEmbedder,
        fetcher: Fetcher,
        max_pixels: int,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._fetcher = fetcher
        self._max_pixels = max_pixels
        self._chunk_size = chunk_size
        self._retry_failed = retry_failed
        # Threads wait for the network, but a decoded picture may take 300 MB: only as many decode as there are cores.
        self._decoding = BoundedSemaphore(os.cpu_count() or 1)

    def run(
        self,
        items: Iterable[SourceItem | RejectedItem],
        *,
        progress: Callable[[IngestReport], None] = lambda report: None,
    ) -> IngestReport:
        """Ingest the items and return what became of them; what is stored stays stored if this is interrupted.

        `progress` is called with the report so far after every write.

        Raises:
            ModelMismatchError: the collection's vectors come from another model.
            DatabaseUnavailableError: the database went away.
        """
        self._store.check_model(self._embedder.identity)  # before a single picture is fetched in vain
        report = IngestReport()
        in_hand: set[str] = set()
        executor = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="prepare")
        try:
            wanted = self._wanted(items, report, in_hand)
            for chunk in _batched(self._prepare_ahead(wanted, executor), self._chunk_size):
                self._write(chunk, report)
                in_hand.difference_update(_reference(outcome) for outcome in chunk)
                progress(report)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
        progress(report)
        return report

    def _wanted(
        self, items: Iterable[SourceItem | RejectedItem], report: IngestReport, in_hand: set[str]
    ) -> Iterator[SourceItem | FailedImage]:
        """Pass on what is neither stored as it is, nor known to fail, nor already on its way."""
        for chunk in _batched(items, self._chunk_size):
            references = [item.image for item in chunk]
            stored = self._store.stored(references)
            failed = {} if self._retry_failed else self._store.failed(references)
            for item in chunk:
                if item.image in in_hand:
                    continue
                if item.image in stored and stored[item.image].matches(item):
                    report.unchanged += 1
                elif item.image in failed and failed[item.image].matches(item):
                    report.known_failures += 1
                else:
                    in_hand.add(item.image)
                    yield _rejected(item) if isinstance(item, RejectedItem) else item

    def _prepare_ahead(
        self, items: Iterable[SourceItem | FailedImage], executor: ThreadPoolExecutor
    ) -> Iterator[DecodedImage | FailedImage]:
        """Prepare items in threads, at most LOOK_AHEAD beyond what was taken, and yield them as they get ready."""
        ready: SimpleQueue[Future[DecodedImage | FailedImage]] = SimpleQueue()
        pending = 0
        for item in items:
            executor.submit(self._prepare, item).add_done_callback(ready.put)
            pending += 1
            if pending >= LOOK_AHEAD:
                yield ready.get().result()
                pending -= 1
        for _ in range(pending):
            yield ready.get().result()

    def _prepare(self, item: SourceItem | FailedImage) -> DecodedImage | FailedImage:
        if isinstance(item, FailedImage):
            return item
        try:
            fetched = self._fetcher.fetch(item)
            with self._decoding:
                decoded = decode(fetched, max_pixels=self._max_pixels)
                return replace(decoded, pixels=self._embedder.resize(decoded.pixels))
        except PictureError as exc:
            return FailedImage(image=item.image, source=item.source, error=exc, item=item)

    def _write(self, outcomes: Sequence[DecodedImage | FailedImage], report: IngestReport) -> None:
        failed = [outcome for outcome in outcomes if isinstance(outcome, FailedImage)]
        decoded = [outcome for outcome in outcomes if isinstance(outcome, DecodedImage)]
        self._store.record_failures(failed)
        report.failed.update(type(failure.error).__name__ for failure in failed)
        embedded, copied = self._embed(decoded)
        self._store.upsert(embedded, self._embedder.identity)
        report.stored += len(embedded)
        report.copied += copied

    def _embed(self, decoded: Sequence[DecodedImage]) -> tuple[list[EmbeddedImage], int]:
        """Embed each distinct content once; return the pictures and how many took another's vector."""
        if not decoded:
            return [], 0
        vectors = self._store.embeddings_of([picture.sha256 for picture in decoded], self._embedder.identity)
        fresh = {picture.sha256: picture.pixels for picture in decoded if picture.sha256 not in vectors}
        vectors |= zip(fresh, self._embedder.embed_images(list(fresh.values())), strict=True)
        embedded = [EmbeddedImage(decoded=picture, embedding=vectors[picture.sha256]) for picture in decoded]
        return embedded, len(decoded) - len(fresh)


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


def _rejected(item: RejectedItem) -> FailedImage:
    return FailedImage(image=item.image, source=item.source, error=item.error)


def _reference(outcome: DecodedImage | FailedImage) -> str:
    return outcome.image if isinstance(outcome, FailedImage) else outcome.item.image
