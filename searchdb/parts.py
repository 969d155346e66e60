"""The parts of a collection that searching and ingesting share: its database, its queue and its model."""

from __future__ import annotations

import logging
import threading
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from searchdb.config import Settings
from searchdb.db.current_model import current_model, model_to_use
from searchdb.db.database import open_database
from searchdb.errors import ModelMismatchError
from searchdb.ingest.adoption import adopt_model
from searchdb.ingest.queue import Queue
from searchdb.ingest.store import Store
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.fetch import Fetcher
from searchdb.media.memory import MemoryBudget
from searchdb.records import ModelIdentity
from searchdb.search.query_cache import QueryCache

log = logging.getLogger(__name__)


class CollectionParts:
    """An open collection; its model is loaded when it is first needed.

    Raises:
        ConfigError: a setting is malformed.
        DatabaseError: the database cannot be reached, or needs migrating.
    """

    def __init__(self, settings: Settings | None = None, **overrides: Any) -> None:
        self.settings = settings or Settings(**overrides)
        self.database = open_database(self.settings)
        self.store = Store(self.database.engine)
        self.queue = Queue(self.database.engine)
        self._following = threading.Lock()
        self._adopted = False

    def close(self) -> None:
        """Close all connections; the embedded server stops if this was its last user."""
        if "fetcher" in self.__dict__:
            self.fetcher.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @cached_property
    def embedder(self) -> CLIPEmbedder:
        """The model: the one in SEARCHDB_MODEL, otherwise the one that the stored images were embedded with.

        After the collection was switched from it to another model, `follow_model` replaces it.
        """
        with self.database.connect() as connection:
            stored = current_model(connection)
            name = model_to_use(connection, self.settings.explicit_model, self.settings.model)
        return self._load(name, stored)

    def _load(self, name: str, stored: ModelIdentity | None) -> CLIPEmbedder:
        """Return the model with a name; `stored` is the one of the stored images."""
        return CLIPEmbedder(name, device=self.settings.device, dtype=self.settings.dtype)

    def checked_embedder(self) -> CLIPEmbedder:
        """Return the model, which is the collection's: its current one, if it was switched to another.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
        """
        embedder = self.embedder
        try:
            self.store.check_model(embedder.identity)
        except ModelMismatchError as exc:
            if not exc.switched:
                raise
            embedder = self.follow_model(embedder)
            self.store.check_model(embedder.identity)
        return embedder

    def follow_model(self, earlier: CLIPEmbedder) -> CLIPEmbedder:
        """Return the collection's current model, after it was switched from `earlier`; thread-safe."""
        with self._following:
            if self.__dict__.get("embedder") is earlier:  # no other thread has replaced it
                log.info("the collection was switched from the model %s", earlier.name)
                self._forget_model()
            return self.embedder

    def _forget_model(self) -> None:
        del self.embedder

    def adopt_model(self) -> None:
        """Check the model against vectors that came from elsewhere under its name, and adopt its weights, once.

        Raises:
            UnverifiedModelError: it gives other vectors.
            ModelError: it cannot be loaded.
        """
        if not self._adopted:
            settings = self.settings
            adopt_model(
                self.database.engine,
                self.embedder,
                max_bytes=settings.max_image_bytes,
                max_pixels=settings.max_image_pixels,
                memory=self.memory,
            )
            self._adopted = True

    @cached_property
    def fetcher(self) -> Fetcher:
        """Reads images from files and URLs, within the limits of the settings."""
        return Fetcher(
            max_bytes=self.settings.max_image_bytes,
            allow_private_addresses=self.settings.allow_private_addresses,
        )

    @cached_property
    def memory(self) -> MemoryBudget:
        """The memory for decoding images, shared by all threads."""
        return MemoryBudget(self.settings.decode_memory)

    def _query_cache(self) -> QueryCache:
        return QueryCache(self.embedder, max_bytes=self.settings.max_query_cache_bytes)
