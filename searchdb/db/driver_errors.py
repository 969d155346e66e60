"""Turns psycopg's exceptions into ours, with the way out that PostgreSQL's message lacks."""

from __future__ import annotations

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from searchdb.database_url import masked_url
from searchdb.db.schema import advice_on_missing
from searchdb.errors import DatabaseError, DatabaseUnavailableError, DiskFullError, SchemaError

READ_ONLY = "25006"
"""SQLSTATE of a write on a standby, or where default_transaction_read_only is on."""
INSUFFICIENT_PRIVILEGE = "42501"
QUERY_CANCELED = "57014"
"""SQLSTATE of a statement that exceeded statement_timeout."""
TOO_COMPLEX = "54001"
"""SQLSTATE of a statement that is nested too deeply."""
CONNECTION_EXCEPTIONS = "08"
"""SQLSTATE class of lost connections, in which a pooler reports those to its server."""
ADVICE = {
    READ_ONLY: "This database or role may only read: set DATABASE_URL to a server and a role that may write",
    INSUFFICIENT_PRIVILEGE: "Connect as a role that may do this, such as the owner of the tables, or have it GRANT it",
}
"""What to do about an error, by SQLSTATE, where PostgreSQL gives no hint."""
BETTER_ADVICE = {TOO_COMPLEX: "The statement is nested too deeply: write it flatter, or in several statements"}
"""What to do about an error, by SQLSTATE, instead of PostgreSQL's hint, which tells how to reconfigure the server."""

_PARSER_FULL = "memory exhausted at or near"
"""What PostgreSQL's grammar says, as of a syntax error, of what is nested in thousands of parentheses."""
_STARTUP_PARAMETER = "unsupported startup parameter"
_IGNORE_IT = "add it to ignore_startup_parameters in pgbouncer.ini, or leave it out of DATABASE_URL and PGOPTIONS"


def database_error(exc: psycopg.Error, url: URL, *, lost: bool | None = None, failed: str = "") -> DatabaseError:
    """Return our error for psycopg's; raise it `from` the original.

    Args:
        exc: what psycopg raised.
        url: the database, whose secrets are masked.
        lost: whether the connection is lost or was never made; by default as the error tells.
        failed: what PostgreSQL refused, for the message.
    """
    if lost is None:
        without_answer = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError) and exc.sqlstate is None
        lost = without_answer or (exc.sqlstate or "").startswith(CONNECTION_EXCEPTIONS)
    if lost:
        reason = _first_line(exc)
        if _STARTUP_PARAMETER in reason:
            reason = f"{reason} ({_IGNORE_IT})"
        return DatabaseUnavailableError(masked_url(url), reason)
    message = exc.diag.message_primary or _first_line(exc)
    if exc.sqlstate == DiskFullError.sqlstate:
        return DiskFullError(f"{failed}: {message}" if failed else message)  # PostgreSQL's hint is to free space
    missing = advice_on_missing(exc.sqlstate, message)
    state = TOO_COMPLEX if message.startswith(_PARSER_FULL) else exc.sqlstate or ""
    hint = BETTER_ADVICE.get(state) or exc.diag.message_hint or ADVICE.get(state)
    reason = ". ".join(part.rstrip(".") for part in (message, hint, missing) if part)
    error = (SchemaError if missing else DatabaseError)(f"{failed}: {reason}" if failed else reason)
    error.sqlstate = exc.sqlstate
    return error


def is_read_only(connection: Connection) -> bool:
    """Whether writes are refused whatever the role: on a standby, or by default_transaction_read_only."""
    return connection.scalar(text("SELECT current_setting('transaction_read_only')")) == "on"


def require_writable(connection: Connection, action: str) -> None:
    """Check that writes are not refused whatever the role, before work that would end with one.

    Raises:
        DatabaseError: they are; the message begins with the action that is not possible.
    """
    if is_read_only(connection):
        error = DatabaseError(f"{action} is not possible. {ADVICE[READ_ONLY]}")
        error.sqlstate = READ_ONLY
        raise error


def _first_line(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[0] if lines else type(exc).__name__
