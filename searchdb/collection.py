"""SearchDB: one collection of pictures, as the CLI and Python programs use it; everything composed, nothing decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from searchdb import index
from searchdb.config import Settings
from searchdb.database import open_database
from searchdb.decode import decode
from searchdb.embed import Embedder
from searchdb.errors import PictureError, QueryError
from searchdb.fetch import Fetcher
from searchdb.ingest import DEFAULT_CHUNK_SIZE, Ingest, IngestReport, gone_files
from searchdb.models import current_model, model_to_use
from searchdb.records import Hit, RejectedItem, SourceItem, mask_credentials
from searchdb.search import Query, Searcher
from searchdb.sources.files import files, folders
from searchdb.sources.urls import urls
from searchdb.store import Store

Progress = Callable[[IngestReport], None]


def _silent(report: IngestReport) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class CollectionStatus:
    """What `searchdb status` tells."""

    images: int
    pending: int
    failed: int
    model: str | None
    index: index.IndexStatus
    server: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, but for dates."""
        return {**asdict(self), "index": self.index.to_json()}


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
        count: int = 10,
        offset: int = 0,
    ) -> list[Hit]:
        """Return the pictures nearest to a text, a picture (file, URL or PIL), a stored picture's id, or all of them.

        Several parts are combined as the unit mean of their unit vectors, minus that of `exclude`. `threshold` is the
        least cosine similarity (-1 to 1); text and pictures are seldom more similar than 0.35 with CLIP.

        Raises:
            QueryError: the query is empty or out of bounds, or its `image` cannot be read.
            ImageNotFoundError: `like` names no stored picture.
            ModelError: the model cannot be loaded or is not the collection's.
        """
        picture = image if image is None or isinstance(image, Image.Image) else self._read(str(image))
        query = Query(text=text, picture=picture and picture.convert("RGB"), like=like, exclude=exclude)
        return self.searcher.search(query, threshold=threshold, count=count, offset=offset)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of texts, float32 of shape (n, 512), and store them for `text_embedding()` in SQL."""
        return self.searcher.embed(texts)

    # --- ingesting ------------------------------------------------------------------------------

    def ingest_files(
        self, *paths: str | Path, prune: bool = False, progress: Progress = _silent, **options: Any
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

    def ingest_urls(self, source: str, *, progress: Progress = _silent, **options: Any) -> IngestReport:
        """Ingest a list of URLs: a file with one a line, CSV, TSV or JSONL; `-` is standard input.

        Raises:
            SourceError: the list cannot be read, or has no URL column.
        """
        return self.ingest(urls(source), progress=progress, **options)

    def ingest(
        self,
        items: Iterable[SourceItem | RejectedItem],
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        retry_failed: bool = False,
        progress: Progress = _silent,
    ) -> IngestReport:
        """Ingest items from any source, then rebuild the vector index if the collection has outgrown it.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
        """
        run = Ingest(
            store=self.store,
            embedder=self.embedder,
            fetcher=self.fetcher,
            max_pixels=self.settings.max_image_pixels,
            chunk_size=chunk_size,
            retry_failed=retry_failed,
        )
        report = run.run(items, progress=progress)
        if report.stored:
            report.index_rebuilt = index.rebuild_if_stale(self.database.engine)
        return report

    # --- state ----------------------------------------------------------------------------------

    def status(self) -> CollectionStatus:
        """Return how many pictures and failures there are, and how model, index and server are."""
        counts = self.store.counts()
        with self.database.connect() as connection:
            model = current_model(connection)
            server = connection.exec_driver_sql("SHOW server_version").scalar_one()
            return CollectionStatus(
                images=counts["images"],
                pending=0,  # every ingest works off what it was given; there is no queue
                failed=counts["failed"],
                model=None if model is None else model.name,
                index=index.status(connection),
                server={
                    "version": server,
                    "embedded": self.database.embedded,
                    "url": self.database.masked_url,
                },
            )

    # --- parts ----------------------------------------------------------------------------------

    @cached_property
    def embedder(self) -> Embedder:
        """The model: the one that SEARCHDB_MODEL names, else the one that the stored pictures carry."""
        with self.database.connect() as connection:
            name = model_to_use(connection, self.settings.explicit_model, self.settings.model)
        return Embedder(name, device=self.settings.device, dtype=self.settings.dtype)

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
            return decode(self.fetcher.fetch(item), max_pixels=self.settings.max_image_pixels).pixels
        except PictureError as exc:
            raise QueryError(f"cannot search by {mask_credentials(reference)}: {exc}") from exc
