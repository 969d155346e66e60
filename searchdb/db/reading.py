"""Says which rights a connection has that reading does not need, and runs SQL of users so that nothing of it stays."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.db.driver_errors import QUERY_CANCELED
from searchdb.db.version_table import find_collection
from searchdb.errors import DatabaseError, SchemaError

POWERFUL = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files", "pg_write_all_data")
"""PostgreSQL's own roles that reach the server's files, or write all tables."""
LAST_LIMIT = 2
"""Time limits after which the session ends: SQL can turn off the limit of the next statement, or catch its cancellation
in a DO block, but cannot prevent that."""

_POWERS = text(
    """
    SELECT CASE WHEN rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication
        OR EXISTS (
            SELECT FROM pg_roles other WHERE other.rolname = ANY (:powerful)
            AND pg_has_role(current_user, other.oid, 'MEMBER')
        )
        OR has_table_privilege(to_regclass('images'), 'INSERT, UPDATE, DELETE, TRUNCATE')
        THEN quote_ident(rolname) END
    FROM pg_roles WHERE rolname = current_user
    """
)
# The identifier is that of the data folder: a standby has its primary's.
_IDENTITY = text(
    "SELECT (SELECT system_identifier FROM pg_control_system()), "
    "(SELECT oid FROM pg_database WHERE datname = current_database())"
)


def powerful_role(connection: Connection) -> str | None:
    """Return the name of the connection's role if it may do more than read, as SQL has it; otherwise None."""
    return connection.scalar(_POWERS, {"powerful": list(POWERFUL)})


def require_same_collection(reader: Connection, owner: Connection, url: str) -> None:
    """Check that a reader's connection leads to the owner's collection; a standby of the server has it, too.

    Args:
        reader, owner: the two connections.
        url: the reader's database, without secrets.

    Raises:
        SchemaError: it leads to another server, database or schema.
    """
    found, wanted = find_collection(reader), find_collection(owner)
    if reader.execute(_IDENTITY).one() != owner.execute(_IDENTITY).one():
        where = "another database"
    elif found.schema != wanted.schema:
        where = f"the schema {found.schema} instead of {wanted.schema}"
    else:
        return
    raise SchemaError(
        f"DATABASE_URL_READ, {url}, leads to {where}, not to the collection in DATABASE_URL: "
        "run `searchdb db reader`, and set the URL that it prints"
    )


@contextmanager
def traceless(connection: Connection, timeout_s: float) -> Generator[None]:
    """Run a user's SQL read-only, and undo what read-only transactions may do: locks, notifications, settings.

    The caller fetches the rows inside. The transaction ends by ROLLBACK.

    Args:
        connection: its transaction, if it is in one, has written nothing.
        timeout_s: the longest run of one statement, in seconds; all of them have LAST_LIMIT times as long.

    Raises:
        DatabaseError: the SQL evaded the time limit of its statements, and its session was ended.
    """
    pid: int = connection.execute(
        text(
            "SELECT pg_backend_pid(), set_config('transaction_read_only', 'on', true), "
            "set_config('statement_timeout', :timeout, true)"
        ),
        {"timeout": str(round(timeout_s * 1000))},
    ).scalar_one()
    connection.exec_driver_sql("SAVEPOINT user_sql")
    over = threading.Event()
    timer = threading.Timer(LAST_LIMIT * timeout_s, _end_session, (connection.engine, pid, over))
    timer.daemon = True
    timer.start()
    try:
        yield
    except DatabaseError as exc:
        if not over.is_set():
            raise
        ended = DatabaseError(f"the SQL evaded its time limit, and was ended after {LAST_LIMIT * timeout_s:g} s")
        ended.sqlstate = QUERY_CANCELED
        raise ended from exc
    finally:
        timer.cancel()
        # Locks of the session survive a ROLLBACK. They are released in the same transaction: behind a pooler, the next
        # one may be in another session. A statement that ended the transaction, COMMIT, took the savepoint with it.
        if not connection.invalidated:
            with suppress(DatabaseError):
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT user_sql")
                connection.exec_driver_sql("SELECT pg_advisory_unlock_all()").close()
        connection.rollback()


def _end_session(engine: Engine, pid: int, over: threading.Event) -> None:
    over.set()
    with suppress(DatabaseError, PoolTimeoutError), engine.connect() as another:
        another.exec_driver_sql(f"SELECT pg_terminate_backend({pid})").close()


def refused(error: DatabaseError, advice: str) -> DatabaseError:
    """Return the error of a missing privilege with other advice than to connect as another role."""
    cause = error.__cause__
    message = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    advised = DatabaseError(f"{message or error}: {advice}")
    advised.sqlstate = error.sqlstate
    return advised
