"""SearchDB: one collection of images, as the command line and Python programs use it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import date, datetime
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image
from sqlalchemy import Engine

from searchdb.config import Settings
from searchdb.db.current_model import model_to_use
from searchdb.db.database import open_database
from searchdb.errors import ImageError, QueryError
from searchdb.index.build import build_index
from searchdb.index.on_demand import IndexWatch, rebuild_on_demand
from searchdb.index.rebuild import rebuild_if_stale
from searchdb.index.status import IndexStatus
from searchdb.ingest.gone import Prune, check_missing, check_prune, find_gone
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.pipeline import DEFAULT_CHUNK_SIZE, DEFAULT_CONCURRENCY, Ingest, IngestReport
from searchdb.ingest.queue import Queue
from searchdb.ingest.run import ProgressCallback, no_progress, run_ingest, run_worker
from searchdb.ingest.store import Store
from searchdb.ingest.verify import Difference, VerifyReport, verify
from searchdb.media.decode import decode
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.fetch import Fetcher
from searchdb.records import Hit, RejectedItem, SourceItem, mask_credentials
from searchdb.search.filter_table import Orientation
from searchdb.search.filters import Filters
from searchdb.search.query_cache import QueryCache
from searchdb.search.searcher import Query, Searcher
from searchdb.sources.exclusion import Exclusion
from searchdb.sources.files import files, folders, missing, named_paths
from searchdb.sources.urls import urls
from searchdb.status import CollectionStatus, collection_status
from searchdb.unsplash import loader
from searchdb.unsplash.loader import LoadProgress, LoadReport
from searchdb.unsplash.photos import DEFAULT_RENDITION
from searchdb.unsplash.reader import find_parts

LONG_LIVED_S = 60.0
"""A program that searches for longer than this has a stale index rebuilt in the background. A single search, as by
`searchdb search`, would end during the build."""


class SearchDB:
    """One collection of images: a database and the model that its vectors come from.

    Settings come from the environment unless given: `SearchDB()`, `SearchDB(model="demo")`. The model is loaded when
    it is first needed. Use as a context manager, or call `close`. If it is used for longer than LONG_LIVED_S, searches
    have a stale index rebuilt in the background.

    Raises:
        ConfigError: a setting is malformed.
        DatabaseError: the database cannot be reached, or needs migrating.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = settings or Settings(**overrides)
        self.database = open_database(self.settings)
        self.store = Store(self.database.engine)
        self.queue = Queue(self.database.engine)
        self._index_watch = IndexWatch(after_s=LONG_LIVED_S)

    def close(self) -> None:
        """Close all connections; the embedded server stops if this was its last user."""
        self._index_watch.close()
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
        like: int | Collection[int] | None = None,
        unlike: int | Collection[int] | None = None,
        exclude: str | None = None,
        text_weight: float | None = None,
        threshold: float = 0.0,
        min_relevance: float = 0.0,
        count: int = 10,
        offset: int = 0,
        country: str | Collection[str] | None = None,
        city: str | Collection[str] | None = None,
        camera: str | Collection[str] | None = None,
        tag: str | Collection[str] | None = None,
        any_tag: str | Collection[str] | None = None,
        source: str | Collection[str] | None = None,
        taken_after: date | datetime | str | None = None,
        taken_before: date | datetime | str | None = None,
        orientation: Orientation | None = None,
        min_size: int | None = None,
        near: tuple[float, float] | str | None = None,
        radius_km: float | None = None,
        words: str | None = None,
        exclude_id: int | Collection[int] | None = None,
        where: str | None = None,
    ) -> list[Hit]:
        """Return the images nearest to a text, an image (file, URL or PIL), stored images by id, or a combination.

        Each part counts, whatever its similarities' spread; `text_weight` (0 to 1) shifts the balance from the images
        to the text. `exclude` (a text) and `unlike` (stored images) are subtracted with about half a part's weight.
        `threshold` is the lowest cosine similarity (-1 to 1); with CLIP, a text and an image are rarely more similar
        than 0.35. `min_relevance` is the lowest relevance (0 to 1). `count` hits are returned, after the first
        `offset`. The other arguments are filters: see `searchdb.Filters`.

        Raises:
            QueryError: the query is empty or out of bounds, its `image` cannot be read, or a filter's value is wrong;
                its `field` names the argument.
            ImageNotFoundError: `like` or `unlike` names no stored image.
            ModelError: the model cannot be loaded or is not the collection's.
        """
        pil_image = image if image is None or isinstance(image, Image.Image) else self._read(str(image))
        return self.searcher.search(
            Query(
                text=text,
                image=pil_image and pil_image.convert("RGB"),
                like=like,
                unlike=unlike,
                exclude=exclude,
                text_weight=text_weight,
            ),
            filters=Filters(
                country=country,
                city=city,
                camera=camera,
                tag=tag,
                any_tag=any_tag,
                source=source,
                taken_after=taken_after,
                taken_before=taken_before,
                orientation=orientation,
                min_size=min_size,
                near=near,
                radius_km=radius_km,
                words=words,
                exclude_id=exclude_id,
                where=where,
            ),
            threshold=threshold,
            min_relevance=min_relevance,
            count=count,
            offset=offset,
        )

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of texts, float32 of shape (n, 512), and store them for `text_embedding()` in SQL.

        Raises:
            DatabaseError: they are not stored yet, and the database or our role may only read. `searcher.embed` returns
                them even then.
        """
        return self.searcher.embed(texts, must_store=True)

    # --- ingesting ------------------------------------------------------------------------------

    def ingest_files(
        self,
        *paths: str | Path,
        exclude: str | Sequence[str] = (),
        prune: Prune = False,
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
        `exclude` (patterns of .gitignore files) matches are left out.

        The report counts the stored images of these folders whose files no longer exist. `prune=True` removes them,
        unless most of a folder's are gone, as if its disk was not mounted: then none are removed, and the report's
        `losses` has the folders. `prune="always"` removes them in any case, and also takes paths that no longer exist.
        See `ingest` for the other arguments.

        Raises:
            SourceError: a path does not exist, or a pattern is malformed.
            ConfigError: `prune` has another value.
        """
        check_prune(prune)
        exclusion = Exclusion(patterns=exclude)
        absent = missing(paths)
        check_missing(self.store, absent.values(), prune)
        present = [path for path in paths if path not in absent]
        roots = [*folders(present, exclusion=exclusion), *absent.values()]
        report = IngestReport(total=0)
        if present:
            report = self.ingest(
                islice(files(present, exclusion=exclusion), limit),
                chunk_size=chunk_size,
                retry_failed=retry_failed,
                reread=reread,
                enqueue_only=enqueue_only,
                progress=progress,
            )
        found = find_gone(self.store, roots)
        report.excluded, report.gone, report.losses = exclusion.count, len(found.images), found.losses
        removes = prune == "always" or (prune and not found.losses)
        report.removed = self.store.delete_images(found.images) if removes else 0
        return report

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
        return [image_id for image_id, _ in find_gone(self.store, folders(paths)).images]

    def ingest_urls(
        self,
        source: str,
        *,
        limit: int | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        enqueue_only: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> IngestReport:
        """Ingest a list of URLs, the first `limit`: a file with one a line, CSV, TSV or JSONL; `-` is standard input.

        See `ingest` for the other arguments.

        Raises:
            SourceError: the list cannot be read, or has no URL column.
        """
        return self.ingest(
            islice(urls(source), limit),
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

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseUnavailableError: the database was unavailable for longer than five minutes.
        """
        if not enqueue_only:
            self.store.check_model(self.embedder.identity)  # before anything is queued
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
            rebuild=self._rebuild_index,
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
        )

    def _rebuild_index(self, engine: Engine) -> bool:
        return rebuild_if_stale(engine, cache=self._query_cache, target=self.settings.recall)

    def _query_cache(self) -> QueryCache:
        return QueryCache(self.embedder)

    def _make_ingest(self) -> Ingest:
        self.store.check_model(self.embedder.identity)
        return Ingest(
            store=self.store,
            queue=self.queue,
            embedder=self.embedder,
            fetcher=self.fetcher,
            max_pixels=self.settings.max_image_pixels,
            outage_log=self.database.outage_log,
        )

    def build_index(
        self,
        *,
        method: str | None = None,
        value_type: str | None = None,
        lists: int | None = None,
        m: int | None = None,
        ef_construction: int | None = None,
    ) -> IndexStatus | None:
        """Rebuild the vector index, and tune it to `settings.recall`; return None if another process is at it.

        See `searchdb.index.build.build_index` for the arguments and errors.
        """
        return build_index(
            self.database.engine,
            method=method,
            value_type=value_type,
            lists=lists,
            m=m,
            ef_construction=ef_construction,
            cache=self._query_cache,
            target=self.settings.recall,
        )

    # --- state ----------------------------------------------------------------------------------

    def status(self) -> CollectionStatus:
        """Return the numbers of images, pending and failed references, and the state of queue, index and server."""
        return collection_status(self.database)

    # --- parts ----------------------------------------------------------------------------------

    @cached_property
    def embedder(self) -> CLIPEmbedder:
        """The model: the one in SEARCHDB_MODEL, otherwise the one that the stored images were embedded with."""
        with self.database.connect() as connection:
            name = model_to_use(connection, self.settings.explicit_model, self.settings.model)
        return CLIPEmbedder(name, device=self.settings.device, dtype=self.settings.dtype)

    @cached_property
    def searcher(self) -> Searcher:
        """Searches the collection."""
        engine, watch = self.database.engine, self._index_watch
        rebuild = partial(rebuild_on_demand, cache=self._query_cache, target=self.settings.recall)
        return Searcher(engine, self.embedder, on_search=lambda: watch.searched(engine, rebuild))

    @cached_property
    def fetcher(self) -> Fetcher:
        """Reads images from files and URLs, within the limits of the settings."""
        return Fetcher(
            max_bytes=self.settings.max_image_bytes,
            allow_private_addresses=self.settings.allow_private_addresses,
        )

    def _read(self, reference: str) -> Image.Image:
        if not reference:
            raise QueryError("the image to search by has an empty name", field="image")
        is_url = reference.startswith(("http://", "https://"))
        item = SourceItem(image=reference if is_url else str(Path(reference).expanduser()), source="query")
        try:
            needed = self.embedder.shortest_edge
            return decode(self.fetcher.fetch(item), max_pixels=self.settings.max_image_pixels, needed=needed).pixels
        except ImageError as exc:
            raise QueryError(f"cannot search by {mask_credentials(reference)}: {exc}", field="image") from exc
