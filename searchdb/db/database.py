"""Opens the database: chooses the server, and checks that the schema is the one we work with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from searchdb.config import Settings
from searchdb.database_url import libpq_url, masked_url
from searchdb.db.connections import (
    APPLICATION,
    DEFAULT_POOL,
    DEFAULT_TIMEOUTS,
    OWNER_ENGINE,
    PAGE_APPLICATION,
    PoolLimits,
    Timeouts,
    behind_pooler,
    driver_arguments,
    make_engine,
)
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_reader import READER, ensure_reader
from searchdb.db.embedded_start import CONNECTION_PARAMETERS
from searchdb.db.reading import powerful_role, require_same_collection
from searchdb.db.retry import OutageLog
from searchdb.db.schema import SCHEMA_REVISION, check_complete, migrate, schema_advice
from searchdb.db.version_table import find_collection
from searchdb.errors import ConfigError, DatabaseError, SchemaError

READER_POOL = PoolLimits(size=1, overflow=7)
"""Connections of the reader in a program, which needs them for raw SQL only."""
PAGE_READER_POOL = PoolLimits(size=8, overflow=6)
PAGE_OWNER_POOL = PoolLimits(size=1, overflow=5)
"""The page reads with one role, and writes little with the other; together they have DEFAULT_POOL's connections."""

logger = logging.getLogger(__name__)


class Database:
    """One PostgreSQL database: the one in DATABASE_URL, or else the embedded one, which is started if necessary.

    If the embedded server dies, the next connection starts it again. Use it as a context manager, or call `close`. The
    schema is not checked: see `open_database`.

    Args:
        settings: name the database, and the reader's.
        timeouts: the limits of waiting.
        page: whether most connections are the reader's, as in the page's server.

    Raises:
        EmbeddedServerError: the embedded server cannot run.
        ConfigError: only the reader's database is named.
    """

    def __init__(self, settings: Settings, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, page: bool = False) -> None:
        self._server: EmbeddedServer | None = None
        url, self._reader_url = settings.url(), settings.reader_url()
        if url is None:
            if self._reader_url is not None:
                raise ConfigError(
                    "DATABASE_URL_READ is set, but DATABASE_URL is not: set it, too, or unset both for the embedded "
                    "server, which has a reader of its own"
                )
            self._server = EmbeddedServer.at(settings.home)
            url = self._server.join()
            self._reader_url = url.set(username=READER)
        self._timeouts = timeouts
        self._prepare = settings.prepared_statements != "off"
        self._page = page
        self._reader_pool = PAGE_READER_POOL if page else READER_POOL
        split = page and self._reader_url is not None
        self.engine = self._make_engine(url, PAGE_OWNER_POOL if split else DEFAULT_POOL)
        self._reader: Engine | None = None
        self._reader_lock = threading.Lock()
        self.outage_log = OutageLog()

    @property
    def reader(self) -> Engine:
        """The engine for raw SQL and the page's reads, whose role may only read: see DATABASE_URL_READ.

        Where there is no such role it is `engine`; if its role has other rights, programs log that once.

        Raises:
            DatabaseError: the reader cannot be connected, or be made in the embedded database.
            SchemaError: it leads to another collection.
        """
        with self._reader_lock:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded server's database."""
        return self._server is not None

    @property
    def url(self) -> URL:
        """The database's URL."""
        return self.engine.url

    @property
    def libpq_url(self) -> str:
        """The database's URL for psql and other clients, including the secrets."""
        return libpq_url(self.url)

    @property
    def masked_url(self) -> str:
        """The database's URL for messages, without secrets."""
        return masked_url(self.url)

    @property
    def behind_pooler(self) -> bool:
        """Whether a pooler such as PgBouncer is between us and the server; connects to find out.

        Sessions then may not be ours: what is set in one, or locked, or listened for, may be lost or another client's.
        """
        with self.connect() as connection:
            return behind_pooler(connection)

    def driver_arguments(self) -> dict[str, Any]:
        """Return psycopg's arguments for a connection outside the pool, which is then set up like those in it."""
        with self.connect() as connection:
            threshold = connection.connection.driver_connection.prepare_threshold  # type: ignore[union-attr]
        return driver_arguments(self.url) | self._own_parameters | {"prepare_threshold": threshold}

    @contextmanager
    def connect(self) -> Generator[Connection]:
        """Yield a pooled connection; uncommitted changes are rolled back."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Generator[Connection]:
        """Yield a pooled connection in a transaction that commits at the end.

        Use it for frequent reads, too: after a ROLLBACK psycopg discards its prepared statements.
        """
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """Yield a connection of the reader, in a transaction as by `begin`."""
        with self.reader.begin() as connection:
            yield connection

    @property
    def _own_parameters(self) -> dict[str, Any]:
        return CONNECTION_PARAMETERS if self.embedded else {}

    def _make_engine(self, url: URL, pool: PoolLimits) -> Engine:
        return make_engine(
            url,
            self._timeouts,
            prepare=self._prepare,
            open_connection=self._open_connection,
            pool=pool,
            application=PAGE_APPLICATION if self._page else APPLICATION,
        )

    def _open_reader(self) -> Engine:
        if self._reader_url is None:
            if not self._page:  # which runs no SQL of users
                with self.connect() as connection:
                    role = powerful_role(connection)
                if role is not None:
                    logger.warning(
                        "this SQL has all rights of the role %s: `searchdb db reader` makes a role that may only read",
                        role,
                    )
            return self.engine
        reader = self._make_engine(self._reader_url, self._reader_pool)
        reader.update_execution_options(**{OWNER_ENGINE: self.engine})
        try:
            with self.connect() as own:
                if self.embedded:
                    ensure_reader(own)
                with reader.connect() as connection:
                    require_same_collection(connection, own, masked_url(reader.url))
        except BaseException:
            reader.dispose()
            raise
        return reader

    def _open_connection(self, **arguments: Any) -> psycopg.Connection[Any]:
        """Open a connection, for which an embedded server that has died is started again."""
        arguments |= self._own_parameters
        try:
            return psycopg.connect(**arguments)
        except psycopg.OperationalError:
            if self._server is None:
                raise
            if self._server.start_again():
                logger.warning("the embedded server had died and was started again")
            return psycopg.connect(**arguments)  # also if another thread or process has just started it

    def close(self) -> None:
        """Close the connections and leave the embedded server.

        Those that threads in the background still use, or open afterwards, are closed when they give them back.
        """
        for engine in (self.engine, self._reader):
            if engine is not None:
                engine.dispose()
                engine.pool.dispose()  # the new one, which the line above makes
        if self._server is not None:
            self._server.leave()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_database(settings: Settings, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, page: bool = False) -> Database:
    """Return a Database whose schema is the one we work with; the arguments are those of Database.

    The embedded database is migrated automatically, and gets its reader; any other database must be migrated by its
    owner.

    Raises:
        DatabaseUnavailableError, EmbeddedServerError: the database cannot be reached.
        SchemaError: the schema needs `searchdb db migrate`, or a newer searchdb.
    """
    database = Database(settings, timeouts, page=page)
    try:
        with database.connect() as connection:
            collection = find_collection(connection)
            if collection.revision == SCHEMA_REVISION:
                check_complete(connection, collection)
        if collection.revision != SCHEMA_REVISION:
            if not database.embedded:
                raise SchemaError(schema_advice(collection.revision))
            migrate(database)
        if database.embedded:
            with database.connect() as connection, suppress(DatabaseError):  # it is an error when it is needed
                ensure_reader(connection)
    except BaseException:
        database.close()
        raise
    return database
