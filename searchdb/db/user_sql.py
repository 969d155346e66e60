"""Runs a user's SQL, embedding first the texts that its text_embedding('…') and search_images('…') calls name."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlalchemy import Connection, text
from sqlglot import exp
from sqlglot.errors import SqlglotError

from searchdb.errors import DatabaseError

EMBEDDING_FUNCTIONS = ("text_embedding", "search_images")
"""SQL functions whose first argument is a query text."""
STATEMENT_TIMEOUT = "60s"
"""Longest run of a user's statement; a forgotten join must not hold the server for hours."""

_EXPLAIN = re.compile(r"\s*EXPLAIN\b\s*(\([^)]*\)|(ANALYZE|VERBOSE)\b|\s)*", re.IGNORECASE)

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # what it cannot parse is PostgreSQL's to judge, not the user's


@dataclass(frozen=True, kw_only=True)
class SQLResult:
    """The columns and rows of a statement; both empty for one that returns none."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def literal_texts(statement: str) -> list[str]:
    """Return the texts that the statement's embedding functions are called with as literals, each once.

    What the parser does not understand it leaves to PostgreSQL to judge: then there are none.
    """
    found: dict[str, None] = {}
    for tree in _parse(_EXPLAIN.sub("", statement, count=1)):
        for call in tree.find_all(exp.Anonymous):
            if call.name.lower() in EMBEDDING_FUNCTIONS and call.expressions:
                value = _literal(call.expressions[0])
                if value is not None:
                    found[value] = None
    return list(found)


def _parse(statement: str) -> list[Any]:
    try:
        return [tree for tree in sqlglot.parse(statement, dialect="postgres") if tree is not None]
    except SqlglotError:
        return []


def _literal(argument: Any) -> str | None:
    """Return the text of an argument, named, cast or in parentheses; None when it is no literal text."""
    while isinstance(argument, exp.Kwarg | exp.PropertyEQ | exp.Cast | exp.Paren):
        argument = argument.this if isinstance(argument, exp.Cast | exp.Paren) else argument.expression
    if isinstance(argument, exp.Literal) and not argument.is_string:
        return None
    # 'text', $$text$$ and E'text'
    return argument.this if isinstance(argument, exp.Literal | exp.RawString | exp.ByteString) else None


def run(connection: Connection, statement: str, *, write: bool = False) -> SQLResult:
    """Run one statement, read-only unless `write`, and return its rows.

    Raises:
        DatabaseError: PostgreSQL's own message, and its hint; or it took longer than STATEMENT_TIMEOUT.
    """
    driver: Any = connection.connection.driver_connection
    threshold = driver.prepare_threshold
    # A prepared statement is one statement: "COMMIT; DELETE ..." would leave the read-only transaction.
    driver.prepare_threshold = 0
    try:
        with connection.begin():
            connection.execute(text("SET TRANSACTION READ WRITE" if write else "SET TRANSACTION READ ONLY"))
            connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
            result = connection.exec_driver_sql(statement.replace("%", "%%"))
            if not result.returns_rows:
                return SQLResult(columns=[], rows=[])
            return SQLResult(columns=list(result.keys()), rows=[tuple(row) for row in result])
    except DatabaseError as exc:
        raise _advised(exc, statement) from exc
    finally:
        driver.prepare_threshold = threshold


def _advised(error: DatabaseError, statement: str) -> DatabaseError:
    """Return the error with the way out, where PostgreSQL does not know it."""
    if error.sqlstate == "57014":
        advice = f"the statement took longer than {STATEMENT_TIMEOUT}: ask for less, or use `searchdb db shell`"
    elif error.sqlstate == "42601" and len(_parse(statement)) > 1:
        advice = "one statement at a time: these are several"
    else:
        return error
    advised = DatabaseError(f"{advice} ({error})")
    advised.sqlstate = error.sqlstate
    return advised
