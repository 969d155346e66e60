"""Says which rights a connection has that reading does not need, and runs SQL of users so that nothing of it stays."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, text

from searchdb.db.version_table import find_collection
from searchdb.errors import DatabaseError, SchemaError

POWERFUL = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files", "pg_write_all_data")
"""PostgreSQL's own roles that reach the server's files, or write all tables."""

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
def traceless(connection: Connection, timeout: str) -> Generator[None]:
    """Run a user's SQL read-only, and undo what read-only transactions may do: locks, notifications, settings.

    The caller fetches the rows inside. The transaction ends by ROLLBACK.

    Args:
        connection: its transaction, if it is in one, has written nothing.
        timeout: the longest run of one statement, such as `60s`.
    """
    connection.execute(
        text("SELECT set_config('transaction_read_only', 'on', true), set_config('statement_timeout', :timeout, true)"),
        {"timeout": timeout},
    ).close()
    connection.exec_driver_sql("SAVEPOINT user_sql")
    try:
        yield
    finally:
        # Locks of the session survive a ROLLBACK. They are released in the same transaction: behind a pooler, the next
        # one may be in another session. A statement that ended the transaction, COMMIT, took the savepoint with it.
        if not connection.invalidated:
            try:
                connection.exec_driver_sql("ROLLBACK TO SAVEPOINT user_sql")
                connection.exec_driver_sql("SELECT pg_advisory_unlock_all()").close()
            except DatabaseError:
                pass
        connection.rollback()


def refused(error: DatabaseError, advice: str) -> DatabaseError:
    """Return the error of a missing privilege with other advice than to connect as another role."""
    cause = error.__cause__
    message = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    advised = DatabaseError(f"{message or error}: {advice}")
    advised.sqlstate = error.sqlstate
    return advised
