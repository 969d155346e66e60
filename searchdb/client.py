"""SearchDB: one collection of images, as the command line and Python programs use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from searchdb.comparing import ComparingCollection
from searchdb.config import Settings
from searchdb.errors import ImageError, QueryError
from searchdb.index.build import build_index
from searchdb.index.on_demand import IndexWatch, rebuild_on_demand
from searchdb.index.status import IndexStatus
from searchdb.ingest.gone import Prune
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.run import no_progress
from searchdb.media.decode import decode
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import Hit, SourceItem, is_url, mask_credentials
from searchdb.search.filter_table import Orientation
from searchdb.search.filters import Filters
from searchdb.search.query_cache import QueryCache
from searchdb.search.searcher import Query, Searcher
from searchdb.status import CollectionStatus, collection_status
from searchdb.watch.follow import Watch
from searchdb.watch.records import POLL_S, WatchOptions, WatchReport
from searchdb.watch.roots import folders_to_watch
from searchdb.watch.settling import SETTLE_S

LONG_LIVED_S = 60.0
"""A program that searches for longer than this has a stale index rebuilt in the background. A single search, as by
`searchdb search`, would end during the build."""


class SearchDB(ComparingCollection):
    """One collection of images: a database and the model that its vectors come from.

    Settings come from the environment unless given: `SearchDB()`, `SearchDB(model="demo")`. The model is loaded when
    it is first needed. Use as a context manager, or call `close`. If it is used for longer than LONG_LIVED_S, searches
    have a stale index rebuilt in the background.

    Raises:
        ConfigError: a setting is malformed.
        DatabaseError: the database cannot be reached, or needs migrating.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        super().__init__(settings, **overrides)
        self._index_watch = IndexWatch(after_s=LONG_LIVED_S)

    def close(self) -> None:
        """Close all connections; the embedded server stops if this was its last user."""
        self._index_watch.close()
        super().close()

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
        one_per_video: bool = False,
        country: str | Collection[str] | None = None,
        city: str | Collection[str] | None = None,
        camera: str | Collection[str] | None = None,
        tag: str | Collection[str] | None = None,
        any_tag: str | Collection[str] | None = None,
        source: str | Collection[str] | None = None,
        folder: str | Collection[str] | None = None,
        rating: int | None = None,
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
        `offset`. Each frame of a video is a hit, or with `one_per_video` only its best frame. The other arguments are
        filters: see `searchdb.Filters`.

        Raises:
            QueryError: the query is empty or out of bounds, its `image` cannot be read, or a filter's value is wrong;
                its `field` names the argument.
            ImageNotFoundError: `like` or `unlike` names no stored image.
            ModelError: the model cannot be loaded or is not the collection's.
        """
        pil_image = image if image is None or isinstance(image, Image.Image) else self._read(str(image))
        if not (text is None and image is None and exclude is None):
            self.adopt_model()
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
                folder=folder,
                rating=rating,
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
            one_per_video=one_per_video,
        )

    def _find(self, **arguments: Any) -> list[Hit]:
        return self.search(**arguments)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of texts, float32 of shape (n, dimension), and store them for `text_embedding()` in SQL.

        Raises:
            DatabaseError: they are not stored yet, and the database or our role may only read. `searcher.embed` returns
                them even then.
        """
        self.adopt_model()
        return self.searcher.embed(texts, must_store=True)

    # --- following folders ----------------------------------------------------------------------

    def watch(
        self,
        *paths: str | Path,
        exclude: str | Sequence[str] = (),
        prune: Prune = True,
        poll: bool | None = None,
        poll_interval_s: float = POLL_S,
        settle_s: float = SETTLE_S,
        stop: threading.Event | None = None,
        on_step: Callable[[WatchReport], None] = no_progress,
    ) -> WatchReport:
        """Follow folders until `stop` is set: ingest new, changed and moved files, and remove images of deleted ones.

        See `ingest_files` for `exclude` and `prune`; with True, only the folders that lost most of their images keep
        them. Changes are reported by the system; `poll` looks for them instead, None: on network mounts. A file is read
        when it has not changed for `settle_s` seconds. `on_step` is called with what each step has done.

        Raises:
            SourceError: a path is not a folder, or does not exist and no images are stored from there.
            ConfigError: a number is out of range.
            ModelError: the model cannot be loaded or is not the collection's.
        """
        options = WatchOptions(
            exclude=exclude, prune=prune, poll=poll, poll_interval_s=poll_interval_s, settle_s=settle_s
        )
        return Watch(
            folders_to_watch(paths, options, self.store),
            options,
            store=self.store,
            limits=Limits.of(self.settings),
            ingest=self.ingest,
            stop=stop or threading.Event(),
            on_step=on_step,
        ).run()

    # --- index and state ------------------------------------------------------------------------

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

    def status(self) -> CollectionStatus:
        """Return the numbers of images, pending and failed references, and the state of queue, index and server."""
        return collection_status(self.database, self.settings)

    @cached_property
    def searcher(self) -> Searcher:
        """Searches the collection."""
        engine, watch, embedder = self.database.engine, self._index_watch, self.embedder
        rebuild = partial(rebuild_on_demand, cache=self._query_cache, target=self.settings.recall)
        return Searcher(
            engine,
            embedder,
            QueryCache(embedder, max_bytes=self.settings.max_query_cache_bytes),
            on_search=lambda: watch.searched(engine, rebuild),
            raw_sql_engine=lambda: self.database.reader,
            successor=lambda: self._searcher_after(embedder),
        )

    def _searcher_after(self, earlier: CLIPEmbedder) -> Searcher:
        self.follow_model(earlier)
        return self.searcher

    def _forget_model(self) -> None:
        super()._forget_model()
        self.__dict__.pop("searcher", None)

    def _read(self, reference: str) -> Image.Image:
        if not reference:
            raise QueryError("the image to search by has an empty name", field="image")
        item = SourceItem(image=reference if is_url(reference) else str(Path(reference).expanduser()), source="query")
        try:
            needed = self.embedder.shortest_edge
            fetched, max_pixels = self.fetcher.fetch(item), self.settings.max_image_pixels
            return decode(fetched, max_pixels=max_pixels, needed=needed, memory=self.memory).pixels
        except ImageError as exc:
            raise QueryError(f"cannot search by {mask_credentials(reference)}: {exc}", field="image") from exc
