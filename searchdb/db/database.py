"""Opens the database: chooses the server, and checks that the schema is the one we work with."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from searchdb.config import Settings
from searchdb.database_url import libpq_url, masked_url
from searchdb.db.connections import DEFAULT_TIMEOUTS, Timeouts, behind_pooler, driver_arguments, make_engine
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_start import CONNECTION_PARAMETERS
from searchdb.db.retry import OutageLog
from searchdb.db.schema import SCHEMA_REVISION, check_complete, migrate, schema_advice
from searchdb.db.version_table import find_collection
from searchdb.errors import SchemaError

logger = logging.getLogger(__name__)


class Database:
    """One PostgreSQL database: the one in DATABASE_URL, or else the embedded one, which is started if necessary.

    If the embedded server dies, the next connection starts it again. Use it as a context manager, or call `close`. The
    schema is not checked: see `open_database`.

    Raises:
        EmbeddedServerError: the embedded server cannot run.
    """

    def __init__(self, settings: Settings, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> None:
        self._server: EmbeddedServer | None = None
        url = settings.url()
        if url is None:
            self._server = EmbeddedServer.at(settings.home)
            url = self._server.join()
        self.engine = make_engine(
            url, timeouts, prepare=settings.prepared_statements != "off", open_connection=self._open_connection
        )
        self.outage_log = OutageLog()

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

    @property
    def _own_parameters(self) -> dict[str, Any]:
        return CONNECTION_PARAMETERS if self.embedded else {}

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
        """Close the connections and leave the embedded server."""
        self.engine.dispose()
        if self._server is not None:
            self._server.leave()
            self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_database(settings: Settings, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> Database:
    """Return a Database whose schema is the one we work with.

    The embedded database is migrated automatically; any other database must be migrated by its owner.

    Raises:
        DatabaseUnavailableError, EmbeddedServerError: the database cannot be reached.
        SchemaError: the schema needs `searchdb db migrate`, or a newer searchdb.
    """
    database = Database(settings, timeouts)
    try:
        with database.connect() as connection:
            collection = find_collection(connection)
            if collection.revision == SCHEMA_REVISION:
                check_complete(connection, collection)
        if collection.revision != SCHEMA_REVISION:
            if not database.embedded:
                raise SchemaError(schema_advice(collection.revision))
            migrate(database)
    except BaseException:
        database.close()
        raise
    return database
