"""Writes a search as SQL that finds the same images, to continue with in psql."""

from __future__ import annotations

import numpy as np
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql

from searchdb.errors import QueryError
from searchdb.search.filters import Filters
from searchdb.search.searcher import Query

_DIALECT = postgresql.dialect(paramstyle="named")  # others double each percent sign


def search_to_sql(query: Query, filters: Filters | None = None, *, threshold: float = 0.0, count: int = 10) -> str:
    """Return a SELECT of id, image and similarity of the `count` images nearest to the query, best first.

    Texts become calls of text_embedding(), which finds them in the query cache once they were searched for. With
    filters all images that meet them are compared, so that no index can miss one.

    Raises:
        QueryError: the query is empty, or has an image instead of its vector.
    """
    vector = _vector(query)
    if not filters:
        matches, where, limit = count, "", ""
        if query.like is not None:  # one match more, because the image itself is the nearest
            matches, where, limit = count + 1, f"\nWHERE m.id <> {query.like:d}", f"\nLIMIT {count:d}"
        return (
            "SELECT i.id, i.image, m.similarity\n"
            f"FROM match_images({vector}, {threshold:g}, {matches:d}) AS m\n"
            f"JOIN images AS i ON i.id = m.id{where}\nORDER BY m.similarity DESC, i.id{limit};"
        )
    conditions = [f"({_condition(filters.condition())})"]
    if query.like is not None:
        conditions.append(f"images.id <> {query.like:d}")
    conditions.append(f"1 - (images.embedding <=> query.embedding) >= {threshold:g}")
    where = "\n  AND ".join(conditions)
    return (
        f"WITH query AS MATERIALIZED (\n  SELECT {vector} AS embedding\n)\n"
        "SELECT images.id, images.image, 1 - (images.embedding <=> query.embedding) AS similarity\n"
        f"FROM images, query\nWHERE {where}\n"
        f"ORDER BY similarity DESC, images.id\nLIMIT {count:d};"
    )


def _vector(query: Query) -> str:
    """Return the expression for the query's unit vector: the unit mean of its parts, minus the excluded text."""
    if query.image is not None:
        raise QueryError("an image cannot be written as SQL: give its vector")
    parts: list[str] = []
    if query.text is not None:
        parts.append(_text(query.text))
    if query.vector is not None:
        parts.append(_literal(query.vector))
    if query.like is not None:
        parts.append(f"(SELECT embedding FROM images WHERE id = {query.like:d})")  # noqa: S608 - a number
    if not parts:
        raise QueryError("there is nothing to look for: give a text, a vector or the id of a stored image")
    # The mean and the sum have the same direction.
    mean = parts[0] if len(parts) == 1 else f"l2_normalize({' + '.join(parts)})"
    return mean if query.exclude is None else f"l2_normalize({mean} - {_text(query.exclude)})"


def _text(text: str) -> str:
    quoted = text.replace("\x00", "").strip().replace("'", "''")
    return f"text_embedding('{quoted}')"


def _literal(vector: np.ndarray) -> str:
    return f"'[{','.join(f'{number:.7g}' for number in vector)}]'::vector({len(vector)})"


def _condition(condition: ColumnElement[bool]) -> str:
    return str(condition.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
