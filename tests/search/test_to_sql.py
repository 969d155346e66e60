"""The SQL written for a search finds the same images as the search."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from searchdb.client import SearchDB
from searchdb.db import user_sql as sql
from searchdb.errors import QueryError
from searchdb.search.filters import Filters
from searchdb.search.searcher import Query
from searchdb.search.to_sql import search_to_sql

COUNT = 15
QUERIES: dict[str, dict[str, Any]] = {
    "text": {"text": "a red boat"},
    "quotes": {"text": "it's a \"boat\"; -- 100% 'red' \\ :x"},
    "like": {"like": 7},
    "text and image": {"text": "snow", "like": 7},
    "without": {"text": "a boat", "exclude": "night"},
    "text weight": {"text": "snow", "like": 7, "text_weight": 0.7},
    "only the image": {"text": "snow", "like": 7, "text_weight": 0},
    "several liked": {"like": [7, 3, 250]},
    "liked and disliked": {"like": [7, 3], "unlike": [12, 40, 41]},
    "all of it": {"text": "a boat", "like": [7, 8], "exclude": "it's raining", "unlike": 9, "text_weight": 0.4},
}
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "tags": {"any_tag": ["boat", "it's", "100%"], "orientation": "landscape"},
    "dates": {"taken_after": datetime(2000, 1, 1, tzinfo=UTC), "min_size": 10},
    "words": {"words": 'boat or "red sea" -night', "source": "demo"},
    "place": {"near": (48.1, 11.6), "radius_km": 5000.0},
    "folders": {"folder": ["album", "it's_100%"]},
    "not these": {"exclude_id": [1, 2, 3], "camera": "o'Neill"},
    "where": {"where": "width > 10 AND description LIKE '%boat%'"},
}


def found_by_sql(collection: SearchDB, statement: str) -> tuple[list[int], list[float]]:
    """Return the ids and the similarities that a statement finds."""
    collection.embed(sql.texts_to_embed(statement) or ["nothing"])
    with collection.database.connect() as connection:
        result = sql.run_sql(connection, statement)
    assert result.columns == ["id", "image", "similarity"]
    return [row[0] for row in result.rows], [row[2] for row in result.rows]


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_finds_what_the_search_finds(demo_collection: SearchDB, query: dict[str, Any], filters: dict[str, Any]) -> None:
    asked, filtered = Query(**query), Filters(**filters)
    hits = demo_collection.searcher.search(asked, filters=filtered, threshold=0.01, count=COUNT)
    weights = demo_collection.searcher.weights(asked)
    statement = search_to_sql(asked, filtered, weights=weights, threshold=0.01, count=COUNT)
    ids, similarities = found_by_sql(demo_collection, statement)
    assert ids == [hit.id for hit in hits]
    assert similarities == pytest.approx([hit.similarity for hit in hits], abs=1e-5)
    if not filters:
        assert len(hits) == COUNT


def test_a_vector_is_written_as_a_literal(demo_collection: SearchDB) -> None:
    vector = demo_collection.embed(["a green tree"])[0]
    statement = search_to_sql(Query(vector=vector), count=COUNT)
    hits = demo_collection.searcher.search(Query(vector=vector), count=COUNT)
    assert found_by_sql(demo_collection, statement)[0] == [hit.id for hit in hits]


@pytest.mark.parametrize("query", [Query(), Query(exclude="rain")], ids=["nothing", "only what is excluded"])
def test_an_empty_query_is_an_error(query: Query) -> None:
    with pytest.raises(QueryError, match="nothing to look for"):
        search_to_sql(query)


def test_the_filters_under_test_match_some_images(demo_collection: SearchDB) -> None:
    left = {name for name, filters in FILTERS.items() if demo_collection.search("a boat", **filters)}
    assert left >= {"none", "tags", "words", "where"}
