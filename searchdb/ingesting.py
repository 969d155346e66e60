"""Ingesting into a collection: from files, lists of URLs, the Unsplash dataset or the queue."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from sqlalchemy import Engine

from searchdb.config import DOWNLOADS
from searchdb.index.rebuild import rebuild_if_stale
from searchdb.ingest.enqueue import DEFAULT_CHUNK_SIZE
from searchdb.ingest.gone import Prune, check_missing, check_prune, find_gone
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY, Ingest
from searchdb.ingest.report import IngestReport
from searchdb.ingest.run import ProgressCallback, no_progress, run_ingest, run_worker
from searchdb.ingest.verify import Difference, VerifyReport, verify
from searchdb.records import RejectedItem, SourceItem
from searchdb.sources.exclusion import Exclusion
from searchdb.sources.files import files, folders, missing, named_paths
from searchdb.sources.urls import urls
from searchdb.unsplash import loader
from searchdb.unsplash.loader import LoadProgress, LoadReport
from searchdb.unsplash.photos import DEFAULT_RENDITION
from searchdb.unsplash.reader import find_parts
from searchdb.vector_ingesting import VectorIngestingCollection
from searchdb.video.sampling import parse_every


def _with_every(
    items: Iterable[SourceItem | RejectedItem], every_s: float | None
) -> Iterator[SourceItem | RejectedItem]:
    """Yield the items with the seconds between two frames, should they be videos."""
    for item in items:
        yield item if every_s is None or isinstance(item, RejectedItem) else replace(item, every_s=every_s)


class IngestingCollection(VectorIngestingCollection):
    """A collection with the methods that fill it, and that compare it with its files."""

    def ingest_files(
        self,
        *paths: str | Path,
        exclude: str | Sequence[str] = (),
        prune: Prune = False,
        every: float | Literal["key"] | None = None,
        limit: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        reread: bool = False,
        enqueue_only: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> IngestReport:
        """Ingest folders (recursively), files and globs, the first `limit` files.

        Files with the stored size and time are not read again, unless `reread`, which compares their SHA-256. A moved
        file is recognized by its content: its image keeps its id and metadata. Of folders and globs, clutter and what
        `exclude` (patterns of .gitignore files) matches are left out. Sidecars, and RAW files beside a JPEG of the same
        name, belong to their image: if only they have changed, its metadata is updated and nothing is embedded.

        `every` is the seconds between two frames of a video, or `"key"` for its key frames; videos that are stored with
        others are read again. By default new videos get a frame a second, and stored ones keep those that they have.

        The report counts the stored images of these folders whose files no longer exist. `prune=True` removes them,
        unless most of a folder's are gone, as if its disk was not mounted: then none are removed, and the report's
        `losses` has the folders. `prune="always"` removes them in any case, and also takes paths that no longer exist.
        See `ingest` for the other arguments.

        Raises:
            SourceError: a path does not exist, or a pattern is malformed.
            ConfigError: `prune` has another value, or goes with `limit` or `enqueue_only`; `every` is out of bounds.
        """
        every_s = parse_every(every)
        check_prune(prune, complete=limit is None and not enqueue_only)
        exclusion = Exclusion(patterns=exclude)
        absent = missing(paths)
        check_missing(self.store, absent.values(), prune)
        present = [path for path in paths if path not in absent]
        roots = [*folders(present, exclusion=exclusion), *absent.values()]
        report = IngestReport(total=0)
        if present:
            report = self.ingest(
                _with_every(islice(files(present, exclusion=exclusion), limit), every_s),
                chunk_size=chunk_size,
                retry_failed=retry_failed,
                reread=reread,
                enqueue_only=enqueue_only,
                progress=progress,
            )
        found = find_gone(self.store, roots)
        report.excluded, report.sidecars, report.parts = exclusion.count, exclusion.sidecars, exclusion.parts
        report.gone, report.losses = found.files, found.losses
        removes = prune == "always" or (prune and not found.losses)
        report.removed = self.store.delete_images(found.images) if removes else 0
        return report

    def ingest_urls(
        self,
        source: str,
        *,
        every: float | Literal["key"] | None = None,
        limit: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        enqueue_only: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> IngestReport:
        """Ingest a list of URLs, the first `limit`: a file with one a line, CSV, TSV or JSONL; `-` is standard input.

        `every` is as for `ingest_files`; see `ingest` for the other arguments.

        Raises:
            SourceError: the list cannot be read, or has no URL column.
            ConfigError: `every` is out of bounds.
        """
        return self.ingest(
            _with_every(islice(urls(source), limit), parse_every(every)),
            chunk_size=chunk_size,
            retry_failed=retry_failed,
            enqueue_only=enqueue_only,
            progress=progress,
        )

    def load_unsplash(self, *paths: str | Path, progress: Callable[[LoadProgress], None] = no_progress) -> LoadReport:
        """Load the Unsplash dataset's tables from its zip, its folder or parts, and update stored photos from them.

        Raises:
            SourceError: a path does not exist, or holds nothing of the dataset, or is truncated.
        """
        report = loader.load(self.database.engine, find_parts(paths), progress=progress)
        report.refreshed = loader.refresh(self.database.engine)
        return report

    def ingest_unsplash(
        self,
        *paths: str | Path,
        rendition: str | None = DEFAULT_RENDITION,
        load_tables: bool = True,
        limit: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        enqueue_only: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> IngestReport:
        """Load the Unsplash dataset's tables, then ingest its photos, the first `limit` of them, as small renditions.

        `rendition` is the query string for Unsplash's image server; None fetches the originals. `load_tables=False`
        skips the tables, for a caller that has just called `load_unsplash`. See `ingest` for the other arguments.

        Raises:
            SourceError: a path does not exist, or holds nothing of the dataset, or is truncated; or the rendition is
                malformed.
        """
        if load_tables:
            self.load_unsplash(*paths)
        return self.ingest(
            self.unsplash_items(*paths, rendition=rendition, limit=limit),
            chunk_size=chunk_size,
            retry_failed=retry_failed,
            enqueue_only=enqueue_only,
            progress=progress,
        )

    def unsplash_items(
        self, *paths: str | Path, rendition: str | None = DEFAULT_RENDITION, limit: int | None = None
    ) -> Iterator[SourceItem | RejectedItem]:
        """Yield the dataset's photos, whose tables are loaded already; see `ingest_unsplash`."""
        return islice(loader.items(self.database.engine, find_parts(paths), rendition=rendition), limit)

    def ingest(
        self,
        items: Iterable[SourceItem | RejectedItem],
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        reread: bool = False,
        enqueue_only: bool = False,
        progress: ProgressCallback = no_progress,
        stop: threading.Event | None = None,
    ) -> IngestReport:
        """Queue items from any source, and process the queue until they are done, together with other workers.

        The vector index is rebuilt if the collection has outgrown it. An interrupted run leaves the rest queued.

        Args:
            items: what to ingest, as the functions of `searchdb.sources` yield it.
            chunk_size: items in one job of the queue.
            retry_failed: also try references that failed before; those that the settings no longer refuse are always
                tried.
            reread: also compare the content of files whose size and time are those stored.
            enqueue_only: queue the items and leave the work to other workers.
            progress: called with the report a few times a second.
            stop: ends the run when it is set, as an interrupt does.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseUnavailableError: the database was unavailable for longer than five minutes.
        """
        if not enqueue_only:
            self.adopt_model()
            self.checked_embedder()  # before anything is queued
        return run_ingest(
            items,
            database=self.database,
            limits=Limits.of(self.settings),
            make_ingest=self._make_ingest,
            chunk_size=chunk_size,
            retry_failed=retry_failed,
            reread=reread,
            enqueue_only=enqueue_only,
            progress=progress,
            stop=stop,
            rebuild=self._rebuild_index,
            make_again=self._make_again,
        )

    def work(
        self,
        *,
        drain: bool = False,
        stop: threading.Event | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        progress: ProgressCallback = no_progress,
    ) -> IngestReport:
        """Process the queue until `stop` is set or, with `drain`, it is empty; return what this call did.

        `concurrency` is the number of chunks processed at a time. Images already started are stored before it returns.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseUnavailableError: the database was unavailable for longer than five minutes.
        """
        return run_worker(
            database=self.database,
            make_ingest=self._make_ingest,
            drain=drain,
            stop=stop,
            concurrency=concurrency,
            progress=progress,
            rebuild=self._rebuild_index,
            make_again=self._make_again,
        )

    def verify(
        self,
        *paths: str | Path,
        moved_to: str | Path | Sequence[str | Path] = (),
        fix_moved: bool = False,
        found: Callable[[Difference], None] = no_progress,
    ) -> VerifyReport:
        """Compare the stored images, or those from these folders and files, with their files' content.

        `found` is called with each image that differs. Missing files are searched in the paths and in `moved_to`;
        `fix_moved` gives their images the new path. Nothing else is written.

        Raises:
            SourceError: a path of `moved_to` does not exist, or another one, from which no images are stored either.
        """
        absent = missing(paths)
        check_missing(self.store, absent.values(), "always")
        present = [path for path in paths if path not in absent]
        named = [*named_paths(present), *absent.values()]
        places = [*present, *([moved_to] if isinstance(moved_to, str | Path) else moved_to)]
        # Path.is_file raises where a folder above may not be entered.
        below = [path for path in named if not os.path.isfile(path)]  # noqa: PTH113
        return verify(
            self.database.engine,
            folders=below if paths else None,
            files=named,
            elsewhere=files(places) if places else None,
            fix_moved=fix_moved,
            found=found,
        )

    def gone_files(self, *paths: str | Path) -> list[int]:
        """Return the ids of stored images below these folders whose files no longer exist."""
        return [each.id for each in find_gone(self.store, folders(paths)).images]

    def _make_ingest(self) -> Ingest:
        self.adopt_model()
        return Ingest(
            store=self.store,
            queue=self.queue,
            embedder=self.checked_embedder(),
            fetcher=self.fetcher,
            max_pixels=self.settings.max_image_pixels,
            videos=self._video_limits,
            downloads=self.settings.home / DOWNLOADS,
            memory=self.memory,
            outage_log=self.database.outage_log,
            second_model=self._second_model,
        )

    def _rebuild_index(self, engine: Engine) -> bool:
        return rebuild_if_stale(engine, cache=self._query_cache, target=self.settings.recall)
