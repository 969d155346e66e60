"""Writes a search as SQL that finds the same images, to continue with in psql."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import ColumnElement
from sqlalchemy.dialects import postgresql

from searchdb.errors import QueryError
from searchdb.records import DEFAULT_DIMENSION
from searchdb.search.filters import Filters
from searchdb.search.query import Query
from searchdb.search.ranking import MAX_HITS

_DIALECT = postgresql.dialect(paramstyle="named")  # others double each percent sign


def search_to_sql(
    query: Query,
    filters: Filters | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    threshold: float = 0.0,
    count: int = 10,
    one_per_video: bool = False,
    dimension: int = DEFAULT_DIMENSION,
) -> str:
    """Return a SELECT of id, image and similarity of the `count` images nearest to the query, best first.

    Texts become calls of text_embedding(), which finds them in the query cache once they were searched for. With
    filters all images that meet them are compared, so that no index can miss one.

    Args:
        query: with the vector of an image instead of the image.
        filters: conditions on the images.
        weights: of the query's parts, from `Searcher.weights`; a query of one part needs none.
        threshold: lowest cosine similarity.
        count: most images.
        one_per_video: of the frames of one video only the best, and none of the videos of liked and disliked frames.
        dimension: the numbers of a vector.

    Raises:
        QueryError: the query is invalid, or has an image instead of its vector.
    """
    query.check()
    vector = _vector(query, weights or {}, dimension)
    without = [*query.liked, *query.unliked]
    if not filters:
        matches, limit, conditions = count, "", list[str]()
        if without:  # more matches, because the images themselves are the nearest
            matches, limit = count + len(without), f"\nLIMIT {count:d}"
            conditions.append(_is_none_of("i.id", without))
        if one_per_video:  # all that a search compares, because frames of one video crowd together
            matches, limit = max(matches, MAX_HITS), f"\nLIMIT {count:d}"
            conditions += [_is_of_no_video("i.video", without)] if without else []
        where = "\nWHERE " + "\n  AND ".join(conditions) if conditions else ""
        found = f"FROM match_images({vector}, {threshold:g}, {matches:d}) AS m\nJOIN images AS i ON i.id = m.id{where}"
        if one_per_video:
            return f"WITH {_best_of_each('i.id, i.image, m.similarity', 'i', found)}{limit};"
        return f"SELECT i.id, i.image, m.similarity\n{found}\nORDER BY m.similarity DESC, i.id{limit};"
    conditions = [f"({_condition(filters.condition())})"]
    if without:
        conditions.append(_is_none_of("images.id", without))
    if without and one_per_video:
        conditions.append(_is_of_no_video("images.video", without))
    conditions.append(f"1 - (images.embedding <=> query.embedding) >= {threshold:g}")
    where = "\n  AND ".join(conditions)
    query_once = f"WITH query AS MATERIALIZED (\n  SELECT {vector} AS embedding\n)"
    columns = "images.id, images.image, 1 - (images.embedding <=> query.embedding) AS similarity"
    found = f"FROM images, query\nWHERE {where}"
    if one_per_video:
        return f"{query_once}, {_best_of_each(columns, 'images', found)}\nLIMIT {count:d};"
    return f"{query_once}\nSELECT {columns}\n{found}\nORDER BY similarity DESC, images.id\nLIMIT {count:d};"


def _best_of_each(columns: str, table: str, found: str) -> str:
    """Return the expression and the query of the best frame of each video, and of all images that are none."""
    key = f"{table}.video, CASE WHEN {table}.video IS NULL THEN {table}.id END"
    return (
        f"best AS (\nSELECT DISTINCT ON ({key}) {columns}\n{found}\nORDER BY {key}, similarity DESC, {table}.id\n)\n"
        "SELECT id, image, similarity\nFROM best\nORDER BY similarity DESC, id"
    )


def _vector(query: Query, weights: Mapping[str, float], dimension: int) -> str:
    """Return the expression for the query's vector: the sum of its parts' unit vectors times their weights."""
    if query.image is not None:
        raise QueryError("an image cannot be written as SQL: give its vector")
    parts: dict[str, str] = {}
    if query.text is not None:
        parts["text"] = _text(query.text)
    if query.vector is not None:
        parts["image"] = _literal(query.vector)
    if query.liked:
        parts["like"] = _stored(query.liked)
    if query.exclude is not None:
        parts["not"] = _text(query.exclude)
    if query.unliked:
        parts["unlike"] = _stored(query.unliked)
    if len(parts) == 1:
        return next(iter(parts.values()))
    # pgvector multiplies vectors element by element, and has no product of a number and a vector.
    terms = [
        f"{'-' if weights[name] < 0 else '+'} array_fill({abs(weights[name]):.7g}::real, ARRAY[{dimension}])"
        f"::vector({dimension}) * {part}"
        for name, part in parts.items()
    ]
    return f"l2_normalize(\n    {terms[0].removeprefix('+ ')}\n    " + "\n    ".join(terms[1:]) + "\n  )"


def _text(text: str) -> str:
    quoted = text.replace("\x00", "").strip().replace("'", "''")
    return f"text_embedding('{quoted}')"


def _literal(vector: np.ndarray) -> str:
    return f"'[{','.join(f'{number:.7g}' for number in vector)}]'::vector({len(vector)})"


def _stored(ids: Sequence[int]) -> str:
    """Return the expression for the unit vector of stored images: one's own, or that of the mean of several."""
    if len(ids) == 1:
        return f"(SELECT embedding FROM images WHERE id = {ids[0]:d})"  # noqa: S608 - a number
    return f"l2_normalize((SELECT avg(embedding) FROM images WHERE id = ANY({_array(ids)})))"  # noqa: S608 - numbers


def _is_none_of(column: str, ids: Sequence[int]) -> str:
    return f"{column} <> {ids[0]:d}" if len(ids) == 1 else f"{column} <> ALL({_array(ids)})"


def _is_of_no_video(column: str, ids: Sequence[int]) -> str:
    videos = f"SELECT f.video FROM images AS f WHERE f.id = ANY({_array(ids)}) AND f.video IS NOT NULL"  # noqa: S608 - ids
    return f"({column} IS NULL OR {column} NOT IN ({videos}))"


def _array(ids: Sequence[int]) -> str:
    return f"'{{{','.join(f'{each:d}' for each in ids)}}}'"


def _condition(condition: ColumnElement[bool]) -> str:
    return str(condition.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
