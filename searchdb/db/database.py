"""The way to PostgreSQL: which server, its connection pool, and the version of its schema."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

import psycopg
import sqlalchemy as sa
from pgvector.psycopg import register_vector
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import URL, ExceptionContext

from searchdb.companions import migrations_folder
from searchdb.config import Settings, libpq_url
from searchdb.db.embedded import EmbeddedServer
from searchdb.errors import DatabaseError, DatabaseUnavailableError, SchemaError

SCHEMA_REVISION = "0006"
"""The migration that this code works with; a test holds it equal to the newest one."""
MIN_PGVECTOR = (0, 8)
"""The first pgvector with iterative index scans, which match_images needs to fill its count."""
MIGRATION_LOCK_KEY = 0x5EA2C4DB
"""Key of the advisory lock that keeps two migrations apart."""
MIGRATION_LOCK_TIMEOUT = "60s"
"""Longest wait for that lock, or for a table that a long query holds."""
POOL_SIZE = 8
"""Connections that are kept, as many as the page's server has threads: any beyond is made for one use, and closed."""
POOL_OVERFLOW = 12
"""Connections beyond the pool, under load: 20 a process let five processes share PostgreSQL's default of 100."""

_migrating = threading.Lock()
"""Alembic's context is one per process: threads take turns, as processes do by the advisory lock."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a database is waited for, in seconds.

    Attributes:
        connect: for a server that does not answer at all; at least 2.
        pool: for a connection, where all that the pool may have are in use.
        statement: for one statement, which PostgreSQL then cancels; None waits for ever. Migrations are not cut short.
        silence: for a server that was connected and is not heard of any more; None leaves it to the operating system.
    """

    connect: int = 10
    pool: float = 30.0
    statement: float | None = None
    silence: float | None = None


class Database:
    """One PostgreSQL database: the one in DATABASE_URL, else the embedded one, which is started or joined.

    Use as a context manager, or call `close`. The schema is not looked at: see `open_database`.

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

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded server's database."""
        return self._server is not None

    @property
    def url(self) -> URL:
        """Where the database is, for SQLAlchemy."""
        return self.engine.url

    @property
    def libpq_url(self) -> str:
        """Where the database is, for psql and every other client, password included."""
        return libpq_url(self.url)

    @property
    def masked_url(self) -> str:
        """Where the database is, for people: without the password."""
        return libpq_url(self.url, hide_password=True)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a pooled connection; what is not committed is rolled back."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Yield a pooled connection in a transaction that commits at the end.

        What only reads is quicker so, too, if it is done often: at a ROLLBACK psycopg forgets what it has prepared.
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

    The embedded database is ours alone and is migrated here; any other must have been migrated by its owner.

    Raises:
        DatabaseUnavailableError, EmbeddedServerError: it cannot be reached.
        SchemaError: it needs `searchdb db migrate`, or a newer searchdb.
    """
    database = Database(settings, timeouts)
    try:
        with database.connect() as connection:
            revision = schema_revision(connection)
        if revision != SCHEMA_REVISION:
            if not database.embedded:
                raise SchemaError(_schema_advice(revision))
            migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, None for a database without one."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision; safe when several processes do so at once.

    Raises:
        SchemaError: the schema is newer than this code, or pgvector is missing or too old.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with _migrating, database.connect() as connection:
        config.attributes["connection"] = connection
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.commit()
        _require_pgvector(connection)
        try:
            command.upgrade(config, "head")
        except CommandError as exc:
            raise SchemaError(_schema_advice(schema_revision(connection))) from exc
    database.engine.dispose()  # older connections do not know the vector type


def _make_engine(url: URL, timeouts: Timeouts) -> Engine:
    arguments: dict[str, Any] = {"connect_timeout": timeouts.connect, "application_name": "searchdb"}
    if timeouts.silence is not None:
        milliseconds = round(timeouts.silence * 1000)
        arguments |= {"tcp_user_timeout": milliseconds, "keepalives_idle": round(timeouts.silence)}
    engine = sa.create_engine(
        url,
        pool_pre_ping=True,
        pool_use_lifo=True,  # the one that was used last has its statements planned, and its pages at hand
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=timeouts.pool,
        connect_args=arguments,
    )
    engine.dialect.do_ping = partial(_ping, engine.dialect.do_ping)  # type: ignore[method-assign]
    event.listen(engine, "handle_error", _translate)
    event.listen(engine, "connect", _register_vector)
    if timeouts.statement is not None:
        limit = f"SET statement_timeout = {round(timeouts.statement * 1000)}"

        # Not among the connection's options, which PgBouncer refuses.
        def limit_statements(connection: psycopg.Connection[Any], _record: object) -> None:
            connection.execute(limit.encode())
            connection.commit()

        event.listen(engine, "connect", limit_statements)
    return engine


def _ping(ask: Callable[[Any], bool], connection: psycopg.Connection[Any]) -> bool:
    """Return whether a connection that was resting is alive, asking its server only if something came on it.

    A server that closes a connection says so, and saves all others the round trip. One that fell silent would not
    answer this question sooner than the next.
    """
    return ask(connection) if connection.closed or wait([connection.fileno()], 0) else True


def _register_vector(connection: psycopg.Connection[Any], _record: object) -> None:
    with suppress(psycopg.ProgrammingError):  # no extension before the first migration, and then no vectors either
        register_vector(connection)


def _translate(context: ExceptionContext) -> None:
    """Turn the driver's exceptions into ours, here for every statement that goes through the engine."""
    original = context.original_exception
    if context.is_pre_ping or not isinstance(original, psycopg.Error):  # the pool replaces a dead connection itself
        return
    lost = context.connection is None or context.is_disconnect
    if lost and context.engine is not None:
        url = libpq_url(context.engine.url, hide_password=True)
        error: DatabaseError = DatabaseUnavailableError(url, _first_line(original))
    else:
        hint = original.diag.message_hint
        error = DatabaseError(f"{original.diag.message_primary or _first_line(original)}{f'. {hint}' if hint else ''}")
        error.sqlstate = original.sqlstate
    raise error from original


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__


def _schema_advice(revision: str | None) -> str:
    if revision is None:
        return "the database has no searchdb tables yet: run `searchdb db migrate`"
    found = f"the database's schema is at {revision}, this searchdb works with {SCHEMA_REVISION}"
    return f"{found}: {'run `searchdb db migrate`' if revision < SCHEMA_REVISION else 'upgrade searchdb'}"


def _require_pgvector(connection: Connection) -> None:
    version = connection.scalar(
        text(
            "SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
            "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector'))"
        )
    )
    connection.rollback()
    needed = ".".join(map(str, MIN_PGVECTOR))
    if version is None:
        raise SchemaError(f"the server has no pgvector: install pgvector {needed} or newer on it")
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_PGVECTOR:
        raise SchemaError(
            f"the server has pgvector {version}, searchdb needs {needed} or newer: "
            "install it and run ALTER EXTENSION vector UPDATE"
        )
