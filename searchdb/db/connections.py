"""Makes SQLAlchemy's engine: connections with the same encoding, limits and types, directly or through a pooler."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from searchdb.database_url import parameters
from searchdb.db.driver_errors import database_error
from searchdb.db.extension import APPEND, MISSING_SCHEMA, use_vectors
from searchdb.db.times import load_all_times
from searchdb.errors import DatabaseError, SchemaError

POOL_SIZE = 8
"""Connections kept open: more than a few cores can make use of; more are opened for one use and closed."""
POOL_OVERFLOW = 12
"""Extra connections under load: 20 for each process let five processes share PostgreSQL's default of 100."""
OWNER_ENGINE = "searchdb_owner"
"""Execution option of a reader's engine: the engine of the owner, with which its users write."""
ENCODING = "UTF8"

APPLICATION, PAGE_APPLICATION = "searchdb", "searchdb page"
"""What pg_stat_activity calls a program, and a server of the page."""

LOCKED = "55P03"
"""SQLSTATE of a statement that waited for a lock for longer than lock_timeout."""
LOCKED_S = 2.0
"""Seconds after such a statement for which few others may try: the lock is probably held for longer."""
TRIES_WHILE_LOCKED = 3
"""Connections that may be in use meanwhile, so that the end of the lock is noticed."""

_POOLER = "searchdb.pooler"
"""Key in a connection's `info`: whether it leads to a pooler."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long to wait for the database, in seconds.

    Attributes:
        connect: for a server that does not answer; at least 2. A connect_timeout in DATABASE_URL takes precedence.
        pool: for a free connection when the pool is exhausted.
        statement: for one statement, which PostgreSQL then cancels; None means no limit. Migrations have no limit.
        lock: for a lock that another session holds, as on a table that is being altered; None means no limit.
        silence: for a connected server that stops responding; None leaves it to the operating system.
    """

    connect: int = 10
    pool: float = 30.0
    statement: float | None = None
    lock: float | None = None
    silence: float | None = None

    @property
    def settings(self) -> dict[str, int]:
        """PostgreSQL's settings for the limits that it keeps itself, in milliseconds."""
        limits = {"statement_timeout": self.statement, "lock_timeout": self.lock}
        return {name: _milliseconds(limit) for name, limit in limits.items() if limit is not None}


DEFAULT_TIMEOUTS = Timeouts()


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """How many connections are kept open, and how many more may be opened for one use."""

    size: int = POOL_SIZE
    overflow: int = POOL_OVERFLOW


DEFAULT_POOL = PoolLimits()


class ImpatientPool(sa.QueuePool):
    """A pool in which no thread waits for a connection after a wait has timed out, until a connection comes back.

    While the database is stuck, as by a locked table, threads would otherwise wait in vain one after the other. For the
    same reason few connections are given out for a while after a statement has waited for a lock in vain.

    A connection that comes back to a disposed pool is closed: a thread in the background may end after the engine has
    been disposed of, and nobody would close the connection that it leaves.
    """

    _stuck = False
    _locked_until = 0.0
    _disposed = False

    def connect(self) -> PoolProxiedConnection:
        """Return a connection.

        Raises:
            TimeoutError: none becomes free in time, or none has for a while.
            DatabaseError: locks are held, and TRIES_WHILE_LOCKED connections are in use already.
        """
        if self.checkedout() >= TRIES_WHILE_LOCKED and time.monotonic() < self._locked_until:
            error = DatabaseError("other statements wait for locks in vain: try again in a few seconds")
            error.sqlstate = LOCKED
            raise error
        if self._stuck and self.checkedout() >= self.size() + self._max_overflow:
            raise PoolTimeoutError("every connection to the database has been in use for a while")
        try:
            return super().connect()
        except PoolTimeoutError:
            self._stuck = True
            raise

    def dispose(self) -> None:
        """Close the idle connections now, and those in use when they come back."""
        self._disposed = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self._disposed:
            record.close()
        super()._do_return_conn(record)

    def came_back(self) -> None:
        """Note that a connection was returned."""
        self._stuck = False

    def lock_timed_out(self) -> None:
        """Note that a statement waited for a lock in vain."""
        self._locked_until = time.monotonic() + LOCKED_S


def make_engine(
    url: URL,
    timeouts: Timeouts,
    *,
    prepare: bool = True,
    open_connection: Callable[..., psycopg.Connection[Any]] = psycopg.connect,
    pool: PoolLimits = DEFAULT_POOL,
    application: str = APPLICATION,
) -> Engine:
    """Return an engine that raises our errors instead of psycopg's.

    Args:
        url: the database, as `parse_url` returns it.
        timeouts: the limits of waiting.
        prepare: whether psycopg may prepare statements on the server; it never does so through a pooler.
        open_connection: called with psycopg's arguments.
        pool: the number of connections.
        application: what pg_stat_activity calls us, unless the URL says otherwise.
    """
    engine = sa.create_engine(
        "postgresql+psycopg://",
        poolclass=ImpatientPool,
        pool_pre_ping=True,
        pool_use_lifo=True,  # the connection used last has its statements planned and its pages cached
        pool_size=pool.size,
        max_overflow=pool.overflow,
        pool_timeout=timeouts.pool,
        connect_args=driver_arguments(url, timeouts, application) | ({} if prepare else {"prepare_threshold": None}),
    )
    engine.url = url  # only to show: SQLAlchemy itself would not understand all that libpq does
    engine.dialect.do_ping = partial(_ping, engine.dialect.do_ping)  # type: ignore[method-assign]
    event.listen(engine, "do_connect", partial(_connect, open_connection, timeouts))
    event.listen(engine, "handle_error", partial(_translate, timeouts))
    event.listen(engine, "begin", partial(_set_up_transaction, timeouts))
    event.listen(engine, "checkin", lambda *_: cast(ImpatientPool, engine.pool).came_back())
    return engine


def driver_arguments(url: URL, timeouts: Timeouts = DEFAULT_TIMEOUTS, application: str = APPLICATION) -> dict[str, Any]:
    """Return psycopg's arguments for a connection; what the URL or the environment says takes precedence."""
    arguments: dict[str, Any] = {"fallback_application_name": application}
    if "PGCONNECT_TIMEOUT" not in os.environ:
        arguments["connect_timeout"] = timeouts.connect
    if timeouts.silence is not None:
        arguments |= {
            "tcp_user_timeout": _milliseconds(timeouts.silence),
            "keepalives_idle": round(timeouts.silence),
        }
    return arguments | parameters(url) | {"client_encoding": ENCODING}


def behind_pooler(connection: Connection) -> bool:
    """Whether a pooler such as PgBouncer is between this connection and the server."""
    return bool(connection.info.get(_POOLER))


def _connect(
    open_connection: Callable[..., psycopg.Connection[Any]],
    timeouts: Timeouts,
    _dialect: object,
    record: Any,
    _positional: object,
    arguments: dict[str, Any],
) -> psycopg.Connection[Any]:
    try:
        connection = open_connection(**arguments)
    except UnicodeError as exc:  # of a host name with a part of more than 63 characters
        raise psycopg.OperationalError(f"the host name is malformed: {exc}") from exc
    try:
        _require_encoding(connection)
        pooler = record.info[_POOLER] = _leads_to_pooler(connection)
        use_vectors(connection, record.info, session=not pooler)
        load_all_times(connection)
        if pooler:
            connection.prepare_threshold = None  # a prepared statement stays in the process that prepared it
        elif timeouts.settings:
            # Not as a connection option, which PgBouncer refuses; and not in a pooler's session, which others use.
            connection.execute(_setting(timeouts.settings, local=False).encode())
            connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def _require_encoding(connection: psycopg.Connection[Any]) -> None:
    found = (connection.pgconn.parameter_status(b"server_encoding") or ENCODING.encode()).decode()
    if found != ENCODING:
        raise SchemaError(
            f"this database has the encoding {found}, but searchdb needs a UTF-8 database: "
            "make one with `createdb -E UTF8 -T template0 NAME` and name it in DATABASE_URL"
        )


def _leads_to_pooler(connection: psycopg.Connection[Any]) -> bool:
    """Whether a connection leads to a pooler.

    The server tells its clients the process that serves them. A pooler makes up another number, because the process may
    change with each transaction.
    """
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    connection.commit()
    return row != (connection.info.backend_pid,)


def _set_up_transaction(timeouts: Timeouts, connection: Connection) -> None:
    """Set for one transaction what behind a pooler cannot be set for the session, which other clients use as well."""
    driver: Any = connection.connection.dbapi_connection  # which a detached connection has, too
    if not behind_pooler(connection) or driver.autocommit:
        return
    # Not with a cursor on the server, even if the statement that begins the transaction has one.
    at_once = {"stream_results": False, "yield_per": None}
    if timeouts.settings:
        connection.exec_driver_sql(_setting(timeouts.settings, local=True), execution_options=at_once).close()
    if (schema := connection.info.get(MISSING_SCHEMA)) is not None:
        connection.exec_driver_sql(APPEND, (schema, True), execution_options=at_once).close()


def lift_time_limits(connection: Connection, *, local: bool) -> None:
    """Let statements and their waits for locks take any time, in this session or, if `local`, in this transaction.

    For work in the background on a connection of the page, which has limits because visitors wait.
    """
    connection.exec_driver_sql(_setting({"statement_timeout": 0, "lock_timeout": 0}, local=local)).close()


def _setting(values: Mapping[str, int], *, local: bool) -> str:
    """Return one statement that sets all, for the session or the transaction."""
    return "SELECT " + ", ".join(f"set_config('{name}', '{value}', {local})" for name, value in values.items())


def _ping(query_server: Callable[[Any], bool], connection: psycopg.Connection[Any]) -> bool:
    """Return whether an idle connection is alive; query the server only if data has arrived on the connection.

    A server that closes a connection sends a message, so a connection without one needs no round trip. A server that
    stopped responding would answer this query no sooner than the caller's own statement.
    """
    return query_server(connection) if connection.closed or wait([connection.fileno()], 0) else True


def _translate(timeouts: Timeouts, context: ExceptionContext) -> None:
    """Turn the driver's exceptions into ours, for every statement that goes through the engine."""
    original = context.original_exception
    # A connection that turns out to be dead before use is replaced by the pool itself.
    if context.is_pre_ping or not isinstance(original, psycopg.Error) or context.engine is None:
        return
    if original.sqlstate == LOCKED and timeouts.lock is not None:
        cast(ImpatientPool, context.engine.pool).lock_timed_out()
    lost = context.connection is None or context.is_disconnect
    raise database_error(original, context.engine.url, lost=lost) from original


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
