"""Connects to PostgreSQL: chooses the server, pools connections, translates errors."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, ExceptionContext

from searchdb.config import Settings, libpq_url
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.extension import use_vectors
from searchdb.db.retry import OutageLog
from searchdb.db.schema import SCHEMA_REVISION, advice_on_missing, check_complete, migrate, schema_advice
from searchdb.db.version_table import find_collection
from searchdb.errors import DatabaseError, DatabaseUnavailableError, SchemaError

POOL_SIZE = 8
"""Connections kept open, one for each thread of the page's server; more are opened for one use and closed."""
POOL_OVERFLOW = 12
"""Extra connections under load: 20 for each process let five processes share PostgreSQL's default of 100."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long to wait for the database, in seconds.

    Attributes:
        connect: for a server that does not answer; at least 2.
        pool: for a free connection when the pool is exhausted.
        statement: for one statement, which PostgreSQL then cancels; None means no limit. Migrations have no limit.
        silence: for a connected server that stops responding; None leaves it to the operating system.
    """

    connect: int = 10
    pool: float = 30.0
    statement: float | None = None
    silence: float | None = None


class Database:
    """One PostgreSQL database: the one in DATABASE_URL, or else the embedded one, which is started if necessary.

    Use it as a context manager, or call `close`. The schema is not checked: see `open_database`.

    Raises:
        EmbeddedServerError: the embedded server cannot run.
    """

    def __init__(self, settings: Settings, timeouts: Timeouts = Timeouts()) -> None:
        self._server: EmbeddedServer | None = None
        url = settings.url()
        if url is None:
            self._server = EmbeddedServer.at(settings.home)
            url = self._server.join()
        self.engine = _make_engine(url, timeouts)
        self.outage_log = OutageLog()

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded server's database."""
        return self._server is not None

    @property
    def url(self) -> URL:
        """The database's URL for SQLAlchemy."""
        return self.engine.url

    @property
    def libpq_url(self) -> str:
        """The database's URL for psql and other clients, including the password."""
        return libpq_url(self.url)

    @property
    def masked_url(self) -> str:
        """The database's URL for messages, without the password."""
        return libpq_url(self.url, hide_password=True)

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


def open_database(settings: Settings, timeouts: Timeouts = Timeouts()) -> Database:
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


def _make_engine(url: URL, timeouts: Timeouts) -> Engine:
    arguments: dict[str, Any] = {"connect_timeout": timeouts.connect, "application_name": "searchdb"}
    if timeouts.silence is not None:
        milliseconds = round(timeouts.silence * 1000)
        arguments |= {"tcp_user_timeout": milliseconds, "keepalives_idle": round(timeouts.silence)}
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_use_lifo=True,  # the connection used last has its statements planned and its pages cached
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=timeouts.pool,
        connect_args=arguments,
    )
    engine.dialect.do_ping = partial(_ping, engine.dialect.do_ping)  # type: ignore[method-assign]
    event.listen(engine, "handle_error", _translate)
    event.listen(engine, "connect", use_vectors)
    if timeouts.statement is not None:
        limit = f"SET statement_timeout = {round(timeouts.statement * 1000)}"

        # Not as a connection option: PgBouncer rejects those.
        def limit_statements(connection: psycopg.Connection[Any], _record: object) -> None:
            connection.execute(limit.encode())
            connection.commit()

        event.listen(engine, "connect", limit_statements)
    return engine


def _ping(query_server: Callable[[Any], bool], connection: psycopg.Connection[Any]) -> bool:
    """Return whether an idle connection is alive; query the server only if data has arrived on the connection.

    A server that closes a connection sends a message, so a connection without one needs no round trip. A server that
    stopped responding would answer this query no sooner than the caller's own statement.
    """
    return query_server(connection) if connection.closed or wait([connection.fileno()], 0) else True


def _translate(context: ExceptionContext) -> None:
    """Turn the driver's exceptions into ours, for every statement that goes through the engine."""
    original = context.original_exception
    if context.is_pre_ping or not isinstance(original, psycopg.Error):  # the pool itself replaces a dead connection
        return
    lost = context.connection is None or context.is_disconnect
    if lost and context.engine is not None:
        url = libpq_url(context.engine.url, hide_password=True)
        error: DatabaseError = DatabaseUnavailableError(url, _first_line(original))
    else:
        message = original.diag.message_primary or _first_line(original)
        advice = advice_on_missing(original.sqlstate, message)
        parts = (message, original.diag.message_hint, advice)
        error = (SchemaError if advice else DatabaseError)(". ".join(part.rstrip(".") for part in parts if part))
        error.sqlstate = original.sqlstate
    raise error from original


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
