"""SearchDB: one collection of pictures, as the CLI and Python programs use it; everything composed, nothing decided."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import numpy as np
from PIL import Image

from searchdb.config import Settings
from searchdb.db.current_model import model_to_use
from searchdb.db.database import open_database
from searchdb.db.retry import retry_until_available
from searchdb.errors import DatabaseError, ImageError, QueryError
from searchdb.ingest.pipeline import DEFAULT_CHUNK_SIZE, DEFAULT_CONCURRENCY, Ingest, IngestReport, enqueue, gone_files
from searchdb.ingest.queue import Queue
from searchdb.ingest.store import Store
from searchdb.media.decode import decode
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.fetch import Fetcher
from searchdb.records import Hit, RejectedItem, SourceItem, mask_credentials
from searchdb.search.filters import Filters
from searchdb.search.searcher import Query, Searcher
from searchdb.sources.files import files, folders
from searchdb.sources.urls import urls
from searchdb.status import CollectionStatus, collection_status
from searchdb.unsplash import loader as unsplash
from searchdb.unsplash.loader import LoadProgress, LoadReport
from searchdb.unsplash.photos import DEFAULT_RENDITION
from searchdb.unsplash.reader import find_parts

if TYPE_CHECKING:
    from searchdb.ingest.worker import Worker

PROGRESS_S = 0.25
"""Seconds between two looks at how far a run is."""

ProgressCallback = Callable[[IngestReport], None]

logger = logging.getLogger(__name__)


def _silent(_report: object) -> None:
    pass


class SearchDB:
    """One collection of pictures: a database and the model that its vectors come from.

    Settings come from the environment unless given: `SearchDB()`, `SearchDB(model="demo")`. The model is loaded when
    it is first needed. Use as a context manager, or call `close`.

    Raises:
        ConfigError: a setting is malformed.
        DatabaseError: the database cannot be reached, or needs migrating.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = settings or Settings(**overrides)
        self.database = open_database(self.settings)
        self.store = Store(self.database.engine)
        self.queue = Queue(self.database.engine)

    def close(self) -> None:
        """Close all connections; the embedded server stops when we were its last user."""
        if "fetcher" in self.__dict__:
            self.fetcher.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- searching ------------------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        image: str | Path | Image.Image | None = None,
        like: int | None = None,
        exclude: str | None = None,
        threshold: float = 0.0,
        min_relevance: float = 0.0,
        count: int = 10,
        offset: int = 0,
        **filters: Any,
    ) -> list[Hit]:
        """Return the pictures nearest to a text, a picture (file, URL or PIL), a stored picture's id, or all of them.

        Several parts are combined as the unit mean of their unit vectors, minus that of `exclude`. `threshold` is the
        least cosine similarity (-1 to 1); text and pictures are seldom more similar than 0.35 with CLIP.
        `min_relevance` is the least relevance (0 to 1), which means the same for every text.

        `filters` are those of `searchdb.search.filters.Filters`: `db.search("a boat", country="Chile", min_size=1000)`.

        Raises:
            QueryError: the query is empty or out of bounds, its `image` cannot be read, or a filter's value is wrong.
            ImageNotFoundError: `like` names no stored picture.
            ModelError: the model cannot be loaded or is not the collection's.
        """
        picture = image if image is None or isinstance(image, Image.Image) else self._read(str(image))
        return self.searcher.search(
            Query(text=text, image=picture and picture.convert("RGB"), like=like, exclude=exclude),
            filters=Filters(**filters),
            threshold=threshold,
            min_relevance=min_relevance,
            count=count,
            offset=offset,
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of texts, float32 of shape (n, 512), and store them for `text_embedding()` in SQL."""
        return self.searcher.embed(texts)

    # --- ingesting ------------------------------------------------------------------------------

    def ingest_files(
        self, *paths: str | Path, prune: bool = False, progress: ProgressCallback = _silent, **options: Any
    ) -> IngestReport:
        """Ingest folders (recursively), files and globs; known, unchanged files are not read again.

        `prune` removes pictures of these folders whose files are gone. `options` are `ingest`'s.

        Raises:
            SourceError: a path does not exist.
        """
        report = self.ingest(files(paths), progress=progress, **options)
        if prune:
            self.store.delete_images(self.gone_files(*paths))
        return report

    def gone_files(self, *paths: str | Path) -> list[int]:
        """Return the ids of stored pictures below these folders whose files no longer exist."""
        return gone_files(self.store, folders(paths))

    def ingest_urls(self, source: str, *, progress: ProgressCallback = _silent, **options: Any) -> IngestReport:
        """Ingest a list of URLs: a file with one a line, CSV, TSV or JSONL; `-` is standard input.

        Raises:
            SourceError: the list cannot be read, or has no URL column.
        """
        return self.ingest(urls(source), progress=progress, **options)

    def load_unsplash(self, *paths: str | Path, progress: Callable[[LoadProgress], None] = _silent) -> LoadReport:
        """Load the Unsplash dataset's tables from its zip, its folder or parts, and bring what is stored up to them.

        Raises:
            SourceError: a path does not exist, or holds nothing of the dataset, or breaks off.
        """
        report = unsplash.load(self.database.engine, find_parts(paths), progress=progress)
        report.refreshed = unsplash.refresh(self.database.engine)
        return report

    def ingest_unsplash(
        self,
        *paths: str | Path,
        rendition: str | None = DEFAULT_RENDITION,
        limit: int | None = None,
        progress: ProgressCallback = _silent,
        **options: Any,
    ) -> IngestReport:
        """Load the Unsplash dataset's tables, then ingest its photos, the first `limit` of them, as small renditions.

        `rendition` is the query string for Unsplash's image server; None fetches the originals. `options` are
        `ingest`'s.

        Raises:
            SourceError: a path does not exist, or holds nothing of the dataset, or breaks off; or the rendition is
                malformed.
        """
        self.load_unsplash(*paths)
        return self.ingest(self.unsplash_items(*paths, rendition=rendition, limit=limit), progress=progress, **options)

    def unsplash_items(
        self, *paths: str | Path, rendition: str | None = DEFAULT_RENDITION, limit: int | None = None
    ) -> Iterator[SourceItem | RejectedItem]:
        """Yield the dataset's photos, whose tables were loaded; see `ingest_unsplash`."""
        return islice(unsplash.items(self.database.engine, find_parts(paths), rendition=rendition), limit)

    def ingest(
        self,
        items: Iterable[SourceItem | RejectedItem],
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        enqueue_only: bool = False,
        progress: ProgressCallback = _silent,
    ) -> IngestReport:
        """Queue items from any source, and work off the queue until they are done, together with other workers.

        The vector index is rebuilt if the collection has outgrown it. Interrupted, the rest stays queued.
        `enqueue_only` leaves the work to others.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseUnavailableError: the database went away for long.
        """
        if not enqueue_only:
            self.store.check_model(self.embedder.identity)  # before a single picture is queued in vain
        run_id = uuid4()
        queued = IngestReport()
        queueing = enqueue(
            items,
            run_id,
            store=self.store,
            queue=self.queue,
            chunk_size=chunk_size,
            retry_failed=retry_failed,
            waited_for=not enqueue_only,
        )

        def look() -> IngestReport:
            report = queued.after(retry_until_available(lambda: self.queue.progress(run_id)))
            progress(report)
            return report

        worker: Worker | None = None
        try:
            with ExitStack() as stack:
                for queued in queueing:
                    if queued.queued and worker is None and not enqueue_only:
                        worker = stack.enter_context(self._working(DEFAULT_CONCURRENCY))
                    look()
                queued.total = queued.done + queued.queued
                while (
                    worker is not None and look().done < queued.total and not retry_until_available(self.queue.is_empty)
                ):
                    if worker.join(PROGRESS_S):
                        break
        except BaseException:
            with suppress(DatabaseError):  # the run ends for a reason of its own
                self.queue.deprioritize(run_id)
                progress(queued.after(self.queue.progress(run_id)))
            raise
        report = look()
        if worker is not None:
            worker.rebuild_index()
            report.index_rebuilt = worker.index_rebuilt
        return report

    def work(
        self,
        *,
        drain: bool = False,
        stop: threading.Event | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        progress: ProgressCallback = _silent,
    ) -> IngestReport:
        """Work off the queue until `stop` is set or, with `drain`, it is empty; return what was done here.

        `concurrency` is the number of chunks in hand at a time. What was begun when it ends is stored.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseUnavailableError: the database went away for long.
        """
        stop = stop or threading.Event()
        with self._working(concurrency) as worker:
            while not (
                stop.is_set()
                or worker.join(PROGRESS_S)
                or (drain and retry_until_available(self.queue.is_empty, cancel=stop))
            ):
                progress(worker.report)
        progress(worker.report)
        if not stop.is_set():  # whoever stops us waits, and the next worker will see to it
            worker.rebuild_index()
        return replace(worker.report, index_rebuilt=worker.index_rebuilt)

    @contextmanager
    def _working(self, concurrency: int) -> Iterator[Worker]:
        """Run a worker; at the end, also when interrupted, wait for what it has begun."""
        from searchdb.ingest.worker import Worker  # brings Procrastinate, which a search does without

        worker = Worker(database=self.database, ingest=self._make_ingest, concurrency=concurrency)
        worker.start()
        try:
            yield worker
        except (KeyboardInterrupt, SystemExit):
            logger.warning("stopping when what is in hand is stored")
            raise
        finally:
            worker.stop()
            worker.join()

    def _make_ingest(self) -> Ingest:
        ingest = Ingest(
            store=self.store,
            queue=self.queue,
            embedder=self.embedder,
            fetcher=self.fetcher,
            max_pixels=self.settings.max_image_pixels,
        )
        self.store.check_model(self.embedder.identity)
        return ingest

    # --- state ----------------------------------------------------------------------------------

    def status(self) -> CollectionStatus:
        """Return how many pictures, pending and failed ones there are, and how queue, model, index and server are."""
        return collection_status(self.database)

    # --- parts ----------------------------------------------------------------------------------

    @cached_property
    def embedder(self) -> CLIPEmbedder:
        """The model: the one that SEARCHDB_MODEL names, else the one that the stored pictures carry."""
        with self.database.connect() as connection:
            name = model_to_use(connection, self.settings.explicit_model, self.settings.model)
        return CLIPEmbedder(name, device=self.settings.device, dtype=self.settings.dtype)

    @cached_property
    def searcher(self) -> Searcher:
        """The reading side."""
        return Searcher(self.database.engine, self.embedder)

    @cached_property
    def fetcher(self) -> Fetcher:
        """What brings pictures from files and URLs, within the limits of the settings."""
        return Fetcher(
            max_bytes=self.settings.max_image_bytes,
            allow_private_addresses=self.settings.allow_private_addresses,
        )

    def _read(self, reference: str) -> Image.Image:
        if not reference:
            raise QueryError("the picture to search by has an empty name")
        is_url = reference.startswith(("http://", "https://"))
        item = SourceItem(image=reference if is_url else str(Path(reference).expanduser()), source="query")
        try:
            needed = self.embedder.shortest_edge
            return decode(self.fetcher.fetch(item), max_pixels=self.settings.max_image_pixels, needed=needed).pixels
        except ImageError as exc:
            raise QueryError(f"cannot search by {mask_credentials(reference)}: {exc}") from exc
