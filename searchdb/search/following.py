"""Repeats what a searcher does where the collection was switched to another model meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from searchdb.errors import DatabaseError, ModelMismatchError, QueryError
from searchdb.search.query import Query

S = TypeVar("S")
T = TypeVar("T")

OTHER_DIMENSION = "22000"
"""SQLSTATE with which pgvector and match_images refuse a vector that has not as many numbers as the stored ones."""


def with_current_model(
    searcher: S,
    run: Callable[[S], T],
    *,
    query: Query | None,
    successor: Callable[[], S] | None,
    check: Callable[[], None],
) -> T:
    """Return what `run` returns; once more if the collection was switched to another model meanwhile.

    Then it runs with the successor, but for a query that needs no model. A vector of the earlier model cannot be
    compared any more: a query with one is not repeated.

    Args:
        searcher: what `run` takes.
        run: searches, and may run twice.
        query: what it searches for; None if it always needs the model.
        successor: returns a searcher with the collection's current model; None if nothing is to be repeated with one.
        check: raises ModelMismatchError if the searcher's model is not the collection's.
    """
    needs_model = query is None or query.needs_model
    try:
        try:
            return run(searcher)
        except (DatabaseError, QueryError) as exc:
            if not is_of_other_dimension(exc):
                raise
            if needs_model:
                _check(check, exc)
                raise
    except ModelMismatchError as exc:
        if not needs_model:
            return run(searcher)
        if successor is None or not exc.switched or (query is not None and query.vector is not None):
            raise
        return run(successor())
    return run(searcher)


def is_of_other_dimension(error: Exception) -> bool:
    """Whether PostgreSQL has refused vectors that have not as many numbers as the stored ones."""
    cause = error.__cause__ if isinstance(error, QueryError) else error
    return isinstance(cause, DatabaseError) and cause.sqlstate == OTHER_DIMENSION


def _check(check: Callable[[], None], refused: Exception) -> None:
    try:
        check()
    except ModelMismatchError as exc:
        raise exc from refused
