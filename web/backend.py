"""The collection as the web sees it: a database that may come and go, and the model that belongs to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import cast

import sqlalchemy as sa
from flask import current_app
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.config import Settings
from searchdb.db.current_model import check_model, model_to_use
from searchdb.db.database import POOL_SIZE, SCHEMA_REVISION, Database, Timeouts, open_database, schema_revision
from searchdb.errors import DatabaseError, DatabaseUnavailableError, ModelError, SchemaError
from searchdb.media.fetch import Fetcher
from searchdb.records import StoredImage
from searchdb.search.facets import Facets
from searchdb.search.searcher import Query, Searcher

from .background_model import BackgroundModel, RememberingEmbedder, ServedModel
from .files.thumbnails import ThumbnailCache
from .ops.metrics import Metrics
from .timed_cache import TimedCache

EXTENSION = "searchdb"
"""Key of the Backend in `app.extensions`."""
REOPEN_INTERVAL_S = 2.0
"""Seconds between two tries to open the database: requests that wait for the lock share one outcome."""
TIMEOUTS = Timeouts(connect=3, pool=5.0, statement=15.0, silence=5.0)
"""People wait for the database, and threads are few: what takes longer than this ends with a page that says so."""
FIRST_QUERY = "a picture"
"""What is searched for before anybody does, so that the first visitor need not wait for what is only done once."""
FACETS_KEPT_S = 60.0
"""Seconds for which the filters' values are kept: counting them takes a tenth of a second, and they change slowly."""

log = logging.getLogger(__name__)


def backend() -> Backend:
    """Return the current application's collection."""
    return cast(Backend, current_app.extensions[EXTENSION])


class Backend:
    """The database, opened when first needed and again after it was away, and the search over it.

    Args:
        settings: which database; the embedded one is started or joined.
        make_embedder: returns the model of a name, not loaded yet.
        loaded: whether `make_embedder` returns a loaded one after all.
    """

    def __init__(
        self, settings: Settings, make_embedder: Callable[[str], ServedModel], *, loaded: bool = False
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.thumbnails = ThumbnailCache(settings.home / "thumbnails")
        self._make_embedder = make_embedder
        self._loaded = loaded
        self._lock = threading.Lock()
        self._warming = threading.Lock()
        self._database: Database | None = None
        self._closed = False
        self._suspect = False
        self._failure: DatabaseError | None = None
        self._failed_at = 0.0
        self._facets = TimedCache(lambda: self.searcher.facets(), FACETS_KEPT_S)
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
        return self.searcher_with(self.model())

    def searcher_with(self, model: BackgroundModel) -> Searcher:
        """Return the search with a model that `model` returned a moment ago."""
        return Searcher(self.database().engine, model.embedder, model.searched)

    def facets(self) -> Facets:
        """Return what the pictures can be filtered by, as of a minute ago at most."""
        return self._facets.get()

    def get(self, image_id: int) -> StoredImage:
        """Return one stored picture, without asking which model is the collection's.

        Raises:
            ImageNotFoundError: there is none with this id.
            DatabaseError: the database cannot be opened.
        """
        return self.searcher_with(self._model or self.model()).get(image_id)

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
        name = self.settings.explicit_model
        if name is None:
            with self.database().begin() as connection:
                name = model_to_use(connection, None, self.settings.model)
        with self._model_lock:
            # The first ingest into an empty collection may bring another model than the default.
            if self._model is None or self._model.name != name:
                embedder = RememberingEmbedder(self._make_embedder(name), self.metrics)
                self._model = BackgroundModel(name, embedder, loaded=self._loaded)
            return self._model

    def warm_up(self) -> None:
        """Open the database and load the model in the background, so that the first search is fast."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def database(self) -> Database:
        """Return the open database.

        While it is away, one request at a time tries to reach it, and the others are told at once what the last try
        was told: each may take seconds, and there are few threads.

        Raises:
            DatabaseError: it cannot be opened; tried again by calls REOPEN_INTERVAL_S later.
        """
        failure = self._failure
        if not self._lock.acquire(blocking=failure is None):
            assert failure is not None  # noqa: S101 - a lock that is waited for is had
            raise failure.with_traceback(None)
        try:
            if self._closed:
                raise DatabaseError("the application is closing")
            self._look_again()
            if self._database is None:
                if self._failure is not None and time.monotonic() - self._failed_at < REOPEN_INTERVAL_S:
                    raise self._failure.with_traceback(None)  # or it would grow with every request
                try:
                    self._database = open_database(self.settings, TIMEOUTS)
                except DatabaseError as exc:
                    self._failure, self._failed_at = exc, time.monotonic()
                    raise
                self._failure = None
                self.metrics.watch(self._database.engine)
            return self._database
        finally:
            self._lock.release()

    def check(self) -> None:
        """Ask the database for the version of its schema.

        Raises:
            DatabaseError: it cannot be reached, or its schema is not the one we work with.
        """
        with self.database().begin() as connection:
            revision = schema_revision(connection)
        if revision != SCHEMA_REVISION:
            raise SchemaError(f"the database's schema is at {revision}, this searchdb needs {SCHEMA_REVISION}")

    def check_model(self) -> None:
        """Compare the model's weights with those that the stored pictures were embedded with.

        Raises:
            ModelMismatchError: they are others.
            DatabaseError: the database cannot be opened.
        """
        model = self.model().embedder.identity
        with self.database().begin() as connection:
            check_model(connection, model)

    @property
    def empty(self) -> bool:
        """Whether there is no picture.

        Raises:
            DatabaseError: the database cannot be opened.
        """
        with self.database().begin() as connection:
            return not connection.scalar(sa.text("SELECT EXISTS (SELECT FROM images)"))

    def suspect(self) -> None:
        """Take note that the database did not answer: the embedded server may have to be started again."""
        self._suspect = True

    def close(self) -> None:
        """Close the connections and leave the embedded server."""
        with self._lock:
            self._closed = True
        with self._warming, self._lock:
            if "fetcher" in self.__dict__:
                self.fetcher.close()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _look_again(self) -> None:
        """See whether a database that has not answered does now; the embedded one is closed, to be started again."""
        if not self._suspect or self._database is None:
            return
        self._suspect = False
        try:
            with self._database.connect():
                self._failure = None
        except DatabaseUnavailableError as exc:
            if not self._database.embedded:
                self._suspect, self._failure = True, exc
                raise
            self._database.close()
            self._database = None

    def _warm_up(self) -> None:
        try:
            with self._warming:
                with ExitStack() as held:
                    for _ in range(POOL_SIZE):
                        held.enter_context(self.database().connect())
                if self.empty:  # it may yet get another model than the default
                    return
                model = self.model()
            model.load()
            if model.failure is None:
                with self._warming:
                    self.searcher.search(Query(text=FIRST_QUERY), count=1)
        except (DatabaseError, ModelError, PoolTimeoutError) as exc:
            if not self._closed:
                log.warning("%s", exc)
