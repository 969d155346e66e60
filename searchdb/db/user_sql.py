"""Runs a user's SQL, and finds the texts in its text_embedding('…') and search_images('…') calls to embed first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import RawCursor
from sqlalchemy import Connection, text
from sqlglot import exp
from sqlglot.errors import SqlglotError

from searchdb.db.driver_errors import INSUFFICIENT_PRIVILEGE, QUERY_CANCELED, READ_ONLY
from searchdb.db.reading import refused, traceless
from searchdb.db.sql_parser import parse
from searchdb.errors import DatabaseError, SQLTooComplexError

EMBEDDING_FUNCTIONS = ("text_embedding", "search_images")
"""SQL functions whose first argument is a query text."""
STATEMENT_TIMEOUT_S = 60
"""Time limit of a user's statement, in seconds; a missing join condition must not occupy the server for hours."""

_EXPLAIN = re.compile(r"\A\s*EXPLAIN\b\s*(\([^)]*\)|(ANALYZE|VERBOSE)\b|\s)*", re.IGNORECASE)
_MENTIONED = re.compile("|".join(EMBEDDING_FUNCTIONS), re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SQLResult:
    """The columns and rows of a statement; both are empty if it returns no rows."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def texts_to_embed(statement: str) -> list[str]:
    """Return the distinct literal texts that the statement passes to EMBEDDING_FUNCTIONS.

    Empty for a statement that the parser does not understand, or is too complex for it: PostgreSQL then reports any
    error, such as a text without a vector.
    """
    if _MENTIONED.search(statement) is None:
        return []
    found: dict[str, None] = {}
    for tree in _parse(_EXPLAIN.sub("", statement, count=1)):
        for call in tree.find_all(exp.Anonymous):
            if call.name.lower() in EMBEDDING_FUNCTIONS and call.expressions:
                value = _literal(call.expressions[0])
                if value is not None:
                    found[value] = None
    return list(found)


def _parse(statement: str) -> Sequence[Any]:
    try:
        return parse(statement)
    except (SqlglotError, SQLTooComplexError):
        return []


def _literal(argument: Any) -> str | None:
    """Return the text of an argument that may be named, cast or in parentheses; None if it is not a literal."""
    while isinstance(argument, exp.Kwarg | exp.PropertyEQ | exp.Cast | exp.Paren):
        argument = argument.this if isinstance(argument, exp.Cast | exp.Paren) else argument.expression
    if isinstance(argument, exp.Literal) and not argument.is_string:
        return None
    # 'text', $$text$$ and E'text'
    return argument.this if isinstance(argument, exp.Literal | exp.RawString | exp.ByteString) else None


def run_sql(connection: Connection, statement: str, *, write: bool = False) -> SQLResult:
    """Run one statement and return its rows; without `write` it is read-only, and leaves nothing in the session.

    Raises:
        DatabaseError: the statement failed, with PostgreSQL's message and hint; or it exceeded STATEMENT_TIMEOUT_S.
    """
    driver: Any = connection.connection.driver_connection
    factory = driver.cursor_factory
    with connection.begin() if write else traceless(connection, STATEMENT_TIMEOUT_S):
        try:
            if write:  # as the database has it: default_transaction_read_only may protect it
                connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT_S}s'"))
            # With parameters, PostgreSQL takes a single statement: "COMMIT; DELETE ..." would leave the read-only
            # transaction. This cursor takes one that the statement does not use, and leaves the statement as it is.
            driver.cursor_factory = RawCursor
            result = connection.exec_driver_sql(statement, (0,))
            if not result.returns_rows:
                return SQLResult(columns=[], rows=[])
            return SQLResult(columns=list(result.keys()), rows=[tuple(row) for row in result])
        except DatabaseError as exc:
            raise _advised(exc, statement, write=write) from exc
        finally:
            driver.cursor_factory = factory


def _advised(error: DatabaseError, statement: str, *, write: bool) -> DatabaseError:
    """Return the error with advice that PostgreSQL's own message lacks."""
    if error.sqlstate == INSUFFICIENT_PRIVILEGE and not write:
        return refused(error, "without `--write` a statement may only read, with it it runs as the owner")
    if error.sqlstate == QUERY_CANCELED:
        advice = f"the statement took longer than {STATEMENT_TIMEOUT_S} s: ask for less, or use `searchdb db shell`"
    elif error.sqlstate == "42601" and len(_parse(statement)) > 1:
        advice = "only one statement can be run at a time"
    elif error.sqlstate == READ_ONLY and not write:
        error = DatabaseError(
            "the statement would change the database, and is run read-only: use `searchdb sql --write`"
        )
        error.sqlstate = READ_ONLY
        return error
    elif any(tree.find(exp.Parameter) for tree in _parse(statement)):
        advice = "write values into the statement: parameters such as $1 have none here"
    else:
        return error
    advised = DatabaseError(f"{advice} ({error})")
    advised.sqlstate = error.sqlstate
    return advised
