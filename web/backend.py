"""Opens the database and the model for the web application, and opens the database again after an outage."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cached_property, partial
from typing import cast

import sqlalchemy as sa
from flask import current_app, g, has_request_context
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import ServiceUnavailable

from searchdb.config import THUMBNAILS, UPLOADS, Settings
from searchdb.db.connections import POOL_SIZE, Timeouts
from searchdb.db.current_model import check_model
from searchdb.db.database import Database, open_database
from searchdb.db.schema import check_schema
from searchdb.embedder import Embedder
from searchdb.errors import DatabaseError, DatabaseUnavailableError, EmbeddedServerError, ModelError, ModelMismatchError
from searchdb.index.on_demand import IndexWatch, rebuild_on_demand
from searchdb.ingest.adoption import adopt_model
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.media.memory import FILES_BYTES, MemoryBudget
from searchdb.records import StoredImage
from searchdb.search.facets import NO_FACETS, Facets
from searchdb.search.searcher import Query, Searcher
from searchdb.switch.notice import loading

from .background_model import WARM_UP_TEXT, BackgroundModel
from .files.recent_query_images import RecentQueryImages
from .files.thumbnails import ThumbnailCache
from .files.visitor_fetcher import VisitorFetcher
from .model_choice import Look, ModelChoice, look
from .ops.metrics import Metrics
from .slots import WorkSlots
from .timed_cache import TimedCache

EXTENSION = "searchdb"
"""Key of the Backend in `app.extensions`."""
_MODEL = "searchdb_model"
"""Name of the request's model in `flask.g`."""
REOPEN_INTERVAL_S = 2.0
"""Seconds between attempts to open the database: requests in between fail with the error of the last attempt."""
TIMEOUTS = Timeouts(connect=3, pool=1.0, statement=15.0, lock=1.5, silence=5.0)
"""Limits in seconds. Visitors wait for the response, and there are few threads: slower requests end with an error. A
lock that lasts longer than `lock` is that of a migration or of an administrator, which may last for hours; it is above
PostgreSQL's deadlock_timeout of a second, so that deadlocks are reported as such."""
OPEN_WAIT_S = 3.0
"""Longest wait for another request that opens the database, in seconds; then requests fail at once until it is open, as
during an outage."""
FACETS_MAX_AGE_S = 60.0
"""Seconds for which the filters' values are cached: counting them takes 0.1 s, and they change slowly."""

log = logging.getLogger(__name__)


def backend() -> Backend:
    """Return the current application's backend."""
    return cast(Backend, current_app.extensions[EXTENSION])


def raise_if_switched(error: ModelError) -> None:
    """Raise an error that ends when the request is repeated with the model that the collection was switched to."""
    if isinstance(error, ModelMismatchError) and error.switched:
        raise error


class Backend:
    """The database, opened on first use and again after an outage, the model, and the searcher that uses both.

    Args:
        settings: name the database; the embedded server is started if it does not run.
        make_embedder: returns the model with a given name, not loaded yet.
        loaded: whether the first model that `make_embedder` returns is loaded already.
    """

    def __init__(
        self,
        settings: Settings,
        make_embedder: Callable[[str], Embedder],
        *,
        loaded: bool = False,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.slots = WorkSlots(self.metrics)
        self.memory = MemoryBudget(settings.decode_memory)
        self.files_memory = MemoryBudget(FILES_BYTES)
        self.stopping = threading.Event()
        self.index_watch = IndexWatch()
        self.thumbnails = ThumbnailCache(settings.home / THUMBNAILS, max_bytes=settings.max_thumbnails_bytes)
        self.uploads = BoundedFolder(settings.home / UPLOADS, settings.max_uploads_bytes)
        self._make_embedder = make_embedder
        self._loaded = loaded
        self._lock = threading.Lock()
        self._warming = threading.Lock()
        self._database: Database | None = None
        self._closed = False
        self._suspect = False
        self._failure: DatabaseError | None = None
        self._failed_at = 0.0
        self.recent_query_images = RecentQueryImages()
        self._facets = TimedCache(lambda: self.searcher.facets(), FACETS_MAX_AGE_S)
        self._models = ModelChoice(settings.explicit_model, self._look, self._make_model, self._loading_next)
        self._searcher_lock = threading.Lock()
        self._searcher: tuple[Database, BackgroundModel, Searcher] | None = None

    @cached_property
    def fetcher(self) -> VisitorFetcher:
        """Fetches images from URLs that visitors enter, within the limits of the settings."""
        return VisitorFetcher(self.settings, self.slots.fetches)

    @property
    def searcher(self) -> Searcher:
        """The searcher with the collection's model; opens the database if it is not open.

        Raises:
            DatabaseError: the database cannot be opened.
        """
        return self.searcher_with(self.model())

    def searcher_with(self, model: BackgroundModel) -> Searcher:
        """Return the searcher with this model: the same object as long as the database and the model stay the same."""
        database = self.database()
        with self._searcher_lock:
            if self._searcher is not None and self._searcher[:2] == (database, model):
                return self._searcher[2]
            rebuild = partial(rebuild_on_demand, cache=lambda: model.query_cache, target=self.settings.recall)
            searcher = Searcher(
                database.reader,
                model.embedder,
                model.query_cache,
                on_search=lambda: self.index_watch.searched(database.engine, rebuild),
            )
            self._searcher = (database, model, searcher)
            return searcher

    def facets(self) -> Facets:
        """Return the values that the collection can be filtered by; none while the first count takes long."""
        try:
            return self._facets.get()
        except ServiceUnavailable:
            return NO_FACETS

    def get(self, image_id: int) -> StoredImage:
        """Return a stored image; does not query which model the collection uses.

        Raises:
            ImageNotFoundError: there is no image with this id.
            DatabaseError: the database cannot be opened.
        """
        return self.searcher_with(self._models.last or self.model()).get(image_id)

    @property
    def model_name(self) -> str:
        """The model's name, as far as it is known without a query."""
        model = self._models.last
        return self.settings.model if model is None else model.name

    def model(self) -> BackgroundModel:
        """Return the model that the settings name, or else the stored images' model; does not wait until it is loaded.

        A request has one model from its beginning to its end.

        Raises:
            DatabaseError: the database, which records the stored images' model, cannot be opened.
        """
        if not has_request_context():
            return self._models.current()
        model: BackgroundModel | None = g.get(_MODEL)
        if model is None:
            model = self._models.current()
            setattr(g, _MODEL, model)
        return model

    @property
    def model_will_change(self) -> bool:
        """Whether the collection is about to be switched to another model."""
        return self._models.upcoming is not None

    def follow(self) -> bool:
        """Use the collection's current model from now on; return whether this request had another one.

        Raises:
            DatabaseError: the database cannot be opened.
        """
        earlier: BackgroundModel | None = g.pop(_MODEL, None) if has_request_context() else self._models.last
        return self._models.renewed() is not earlier

    def dimension(self) -> int:
        """Return how many numbers the stored vectors have, without the model.

        Raises:
            DatabaseError: the database cannot be opened.
        """
        return self._models.dimension()

    def _adopt_model(self, embedder: Embedder) -> None:
        """Check a model against vectors that came from elsewhere under its name, and adopt its weights."""
        adopt_model(
            self.database().engine,
            embedder,
            max_bytes=self.settings.max_image_bytes,
            max_pixels=self.settings.max_image_pixels,
            memory=self.memory,
        )

    def warm_up(self) -> None:
        """Open the database and load the model in the background, so that the first search is fast."""
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def database(self) -> Database:
        """Return the open database.

        One request at a time tries to open it. Others wait for OPEN_WAIT_S, and during an outage fail at once with the
        error of the last attempt: an attempt may take seconds, and there are few threads.

        Raises:
            DatabaseError: it cannot be opened; the next attempt is made after REOPEN_INTERVAL_S.
        """
        database, failure = self._database, self._failure
        if database is not None and not (self._suspect or self._closed):
            return database
        if not self._lock.acquire(timeout=OPEN_WAIT_S if failure is None else 0):
            failure = self._failure = failure or DatabaseError("the database is still being opened")
            raise failure.with_traceback(None)
        try:
            if self._closed:
                raise DatabaseError("the application is closing")
            self._check_suspect()
            if self._database is None:
                if self._failure is not None and time.monotonic() - self._failed_at < REOPEN_INTERVAL_S:
                    raise self._failure.with_traceback(None)  # otherwise the traceback grows with every request
                try:
                    self._database = _open(self.settings, self.metrics)
                except DatabaseError as exc:
                    self._failure, self._failed_at = exc, time.monotonic()
                    raise
                self._failure = None
            return self._database
        finally:
            self._lock.release()

    def check(self) -> None:
        """Check that the database can be reached and has the schema that this version needs.

        Raises:
            DatabaseError: the database cannot be reached.
            SchemaError: its schema has another version, or lacks a table or function.
        """
        with self.database().reading() as connection:
            check_schema(connection)

    def check_model(self) -> None:
        """Check that the stored images were embedded with this model's weights.

        Raises:
            ModelMismatchError: they were embedded with other weights.
            DatabaseError: the database cannot be opened.
        """
        model = self.model().embedder.identity
        with self.database().reading() as connection:
            check_model(connection, model)

    @property
    def empty(self) -> bool:
        """Whether the collection has no images.

        Raises:
            DatabaseError: the database cannot be opened.
        """
        with self.database().reading() as connection:
            return not connection.scalar(sa.text("SELECT EXISTS (SELECT FROM images)"))

    def suspect(self, error: DatabaseError) -> None:
        """Have the next request check whether the database is up, unless this error is an answer from it.

        The embedded server may have to be started again.
        """
        if error.sqlstate is None:
            self._suspect = True

    def close(self) -> None:
        """Close the connections; the embedded server stops when this was its last user."""
        self.stopping.set()
        self.index_watch.close()
        with self._lock:
            self._closed = True
        with self._warming, self._lock:
            if "fetcher" in self.__dict__:
                self.fetcher.close()
            if self._database is not None:
                self._database.close()
                self._database = None

    def _look(self) -> Look:
        with self.database().reading() as connection:
            return look(connection, self.settings)

    def _make_model(self, name: str) -> BackgroundModel:
        embedder = self._make_embedder(name)
        return BackgroundModel(
            name,
            embedder,
            self.slots,
            self.metrics,
            max_cache_bytes=self.settings.max_query_cache_bytes,
            loaded=self._loaded and self._models.last is None,
            on_loaded=partial(self._adopt_model, embedder),
        )

    def _loading_next(self) -> AbstractContextManager[None]:
        database = self._database
        return nullcontext() if database is None else loading(database.reader)

    def _check_suspect(self) -> None:
        """Check a suspect database with a new connection, which starts a dead embedded server again."""
        if not self._suspect or self._database is None:
            return
        if isinstance(self._failure, EmbeddedServerError) and time.monotonic() - self._failed_at < REOPEN_INTERVAL_S:
            raise self._failure.with_traceback(None)
        self._suspect = False
        try:
            with self._database.connect():
                self._failure = None
        except (DatabaseUnavailableError, EmbeddedServerError) as exc:
            self._suspect, self._failure, self._failed_at = True, exc, time.monotonic()
            raise

    def _warm_up(self) -> None:
        try:
            with self._warming:
                with ExitStack() as held:
                    for _ in range(POOL_SIZE):
                        held.enter_context(self.database().reader.connect())
                if self.empty:  # the first ingest may use a model other than the default
                    return
                model = self.model()
            model.load()
            if model.failure is None:
                with self._warming:
                    self.searcher.search(Query(text=WARM_UP_TEXT), count=1)
        except (DatabaseError, ModelError, PoolTimeoutError) as exc:
            if not self._closed:
                log.warning("%s", exc)


def _open(settings: Settings, metrics: Metrics) -> Database:
    """Open the database and its reader, so that an error of either is one of opening."""
    database = open_database(settings, TIMEOUTS, page=True)
    try:
        metrics.watch(*{database.reader: None, database.engine: None})
    except BaseException:
        database.close()
        raise
    return database
