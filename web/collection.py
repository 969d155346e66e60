"""The collection as the web sees it: a database that may come and go, and the model that belongs to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import cast

from flask import current_app

from searchdb.config import Settings
from searchdb.database import SCHEMA_REVISION, Database, open_database, schema_revision
from searchdb.errors import DatabaseError, DatabaseUnavailableError, SchemaError
from searchdb.facets import Facets
from searchdb.fetch import Fetcher
from searchdb.models import model_to_use
from searchdb.records import StoredImage
from searchdb.search import QueryEmbedder, Searcher
from web.model import BackgroundModel
from web.thumbnails import ThumbnailCache

EXTENSION = "searchdb"
"""Key of the Collection in `app.extensions`."""
RETRY_AFTER = 2.0
"""Seconds between two tries to open the database: requests that wait for the lock share one outcome."""

FACETS_KEPT_S = 60.0
"""Seconds for which the filters' values are kept: counting them takes a tenth of a second, and they change slowly."""

log = logging.getLogger(__name__)


def collection() -> Collection:
    """Return the current application's collection."""
    return cast(Collection, current_app.extensions[EXTENSION])


class Collection:
    """The database, opened when first needed and again after it was away, and the search over it.

    Args:
        settings: which database; the embedded one is started or joined.
        make_embedder: returns the model of a name, not loaded yet.
        loaded: whether `make_embedder` returns a loaded one after all.
    """

    def __init__(
        self, settings: Settings, make_embedder: Callable[[str], QueryEmbedder], *, loaded: bool = False
    ) -> None:
        self.settings = settings
        self.thumbnails = ThumbnailCache(settings.home / "thumbnails")
        self._make_embedder = make_embedder
        self._loaded = loaded
        self._lock = threading.Lock()
        self._database: Database | None = None
        self._closed = False
        self._suspect = False
        self._failure: DatabaseError | None = None
        self._failed_at = 0.0
        self._facets_lock = threading.Lock()
        self._facets: Facets | None = None
        self._counted_at = 0.0
        self._model_lock = threading.Lock()
        self._model: BackgroundModel | None = None

    @cached_property
    def fetcher(self) -> Fetcher:
        """What brings the pictures that visitors name by URL, within the limits of the settings."""
        return Fetcher(
            max_bytes=self.settings.max_image_bytes, allow_private_addresses=self.settings.allow_private_addresses
        )

    @property
    def searcher(self) -> Searcher:
        """The search over the database, opened if need be.

        Raises:
            DatabaseError: it cannot be opened.
        """
        return Searcher(self.database().engine, self.model().embedder)

    def facets(self) -> Facets:
        """Return what the pictures can be filtered by, as of a minute ago at most."""
        with self._facets_lock:
            if self._facets is None or time.monotonic() - self._counted_at > FACETS_KEPT_S:
                self._facets, self._counted_at = self.searcher.facets(), time.monotonic()
            return self._facets

    def get(self, image_id: int) -> StoredImage:
        """Return one stored picture, without asking which model is the collection's.

        Raises:
            ImageNotFoundError: there is none with this id.
            DatabaseError: the database cannot be opened.
        """
        model = self._model or self.model()
        return Searcher(self.database().engine, model.embedder).get(image_id)

    @property
    def model_name(self) -> str:
        """The model's name as far as it is known without asking the database."""
        model = self._model
        return self.settings.model if model is None else model.name

    def model(self) -> BackgroundModel:
        """Return the model that was chosen, else the one that the stored pictures carry; not loaded by this.

        Raises:
            DatabaseError: the database, which knows it, cannot be opened.
        """
        with self.database().connect() as connection:
            name = model_to_use(connection, self.settings.explicit_model, self.settings.model)
        with self._model_lock:
            # The first ingest into an empty collection may bring another model than the default.
            if self._model is None or self._model.name != name:
                self._model = BackgroundModel(name, self._make_embedder(name), loaded=self._loaded)
            return self._model

    def warm_up(self) -> None:
        """Open the database and load the model in the background, so that the first search is fast."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def database(self) -> Database:
        """Return the open database.

        Raises:
            DatabaseError: it cannot be opened; tried again by calls RETRY_AFTER later.
        """
        with self._lock:
            if self._closed:
                raise DatabaseError("the application is closing")
            self._drop_if_dead()
            if self._database is None:
                if self._failure is not None and time.monotonic() - self._failed_at < RETRY_AFTER:
                    raise self._failure
                try:
                    self._database = open_database(self.settings)
                except DatabaseError as exc:
                    self._failure, self._failed_at = exc, time.monotonic()
                    raise
                self._failure = None
            return self._database

    def check(self) -> None:
        """Ask the database for the version of its schema.

        Raises:
            DatabaseError: it cannot be reached, or its schema is not the one we work with.
        """
        with self.database().connect() as connection:
            revision = schema_revision(connection)
        if revision != SCHEMA_REVISION:
            raise SchemaError(f"the database's schema is at {revision}, this searchdb needs {SCHEMA_REVISION}")

    def suspect(self) -> None:
        """Take note that the database did not answer: the embedded server may have to be started again."""
        self._suspect = True

    def close(self) -> None:
        """Close the connections and leave the embedded server."""
        with self._lock:
            self._closed = True
            if "fetcher" in self.__dict__:
                self.fetcher.close()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _drop_if_dead(self) -> None:
        """Close a database that has not answered, if it is the embedded one: any other comes back by itself."""
        if not self._suspect or self._database is None:
            return
        self._suspect = False
        if not self._database.embedded:
            return
        try:
            with self._database.connect():
                pass
        except DatabaseUnavailableError:
            self._database.close()
            self._database = None

    def _warm_up(self) -> None:
        try:
            if self.searcher.count():  # an empty collection may yet get another model than the default
                self.model().start()
        except DatabaseError as exc:
            log.warning("%s", exc)
