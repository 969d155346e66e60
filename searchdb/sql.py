"""Runs a user's SQL, embedding first the texts that its text_embedding('…') and search_images('…') calls name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlalchemy import Connection, text
from sqlglot import exp
from sqlglot.errors import SqlglotError

EMBEDDING_FUNCTIONS = ("text_embedding", "search_images")
"""SQL functions whose first argument is a query text."""
STATEMENT_TIMEOUT = "60s"
"""Longest run of a user's statement; a forgotten join must not hold the server for hours."""


@dataclass(frozen=True, kw_only=True)
class SQLResult:
    """The columns and rows of a statement; both empty for one that returns none."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def literal_texts(statement: str) -> list[str]:
    """Return the texts that the statement's embedding functions are called with as literals, each once.

    What the parser does not understand it leaves to PostgreSQL to judge: then there are none.
    """
    try:
        trees = [tree for tree in sqlglot.parse(statement, dialect="postgres") if tree is not None]
    except SqlglotError:
        return []
    calls = (
        call for tree in trees for call in tree.find_all(exp.Anonymous) if call.name.lower() in EMBEDDING_FUNCTIONS
    )
    found: dict[str, None] = {}
    for call in calls:
        argument = call.expressions[0] if call.expressions else None
        if isinstance(argument, exp.Kwarg):
            argument = argument.expression
        if isinstance(argument, exp.Cast):
            argument = argument.this
        if isinstance(argument, exp.Literal) and argument.is_string:
            found[argument.this] = None
    return list(found)


def run(connection: Connection, statement: str, *, write: bool = False) -> SQLResult:
    """Run one statement, read-only unless `write`, and return its rows.

    Raises:
        DatabaseError: PostgreSQL's own message, and its hint.
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
    finally:
        driver.prepare_threshold = threshold
