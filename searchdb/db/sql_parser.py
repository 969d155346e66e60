"""Parses SQL of users with sqlglot, within bounds: its parser is recursive, and slow on some long input."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlglot
from sqlglot import exp

from searchdb.errors import SQLTooComplexError

MAX_PARSED_CHARACTERS = 200_000
"""Longest text that is parsed, in about a second. sqlglot takes four seconds for a list of 150,000 numbers."""
MAX_BRACKETS = 200
"""Most opening brackets: for thousands of subscripts in a row sqlglot takes ten seconds."""
NESTING = "about 40"
"""How deep parentheses, calls, NOT and CASE may be nested in each other: Python's limit of recursion, and the frames
that sqlglot needs for each."""

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # its parser warnings are no use to the user; PostgreSQL decides


def parse(statement: str) -> Sequence[Any]:
    """Return the syntax trees of PostgreSQL statements.

    Raises:
        SqlglotError: they are not SQL that the parser understands.
        SQLTooComplexError: they are too long or nested too deeply.
    """
    _require_simple(statement)
    try:
        return [tree for tree in sqlglot.parse(statement, dialect="postgres") if tree is not None]
    except RecursionError:
        raise _nested() from None


def parse_condition(condition: str) -> Any:
    """Return the syntax tree of one expression; the errors are those of `parse`."""
    _require_simple(condition)
    try:
        return sqlglot.parse_one(condition, dialect="postgres", into=exp.Condition)
    except RecursionError:
        raise _nested() from None


def _require_simple(text: str) -> None:
    if len(text) > MAX_PARSED_CHARACTERS:
        raise SQLTooComplexError(f"it has {len(text):,} characters, the limit is {MAX_PARSED_CHARACTERS:,}")
    if (brackets := text.count("[")) > MAX_BRACKETS:
        raise SQLTooComplexError(f"it has {brackets:,} brackets [, the limit is {MAX_BRACKETS}")


def _nested() -> SQLTooComplexError:
    return SQLTooComplexError(
        f"it is nested too deeply: parentheses, calls, NOT and CASE may be in each other {NESTING} times"
    )
