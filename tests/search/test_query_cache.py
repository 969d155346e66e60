"""The query cache: its limits, when it asks the database and the model, and what it leaves in the database."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.db.database import Database
from searchdb.db.tables import query_embeddings
from searchdb.errors import DatabaseError
from searchdb.media.embed import CLIPEmbedder
from searchdb.search import query_cache
from searchdb.search.query_cache import ROW_BYTES, QueryCache, stored_bytes


class Recorder:
    """The small CLIP, which records the texts that it embeds."""

    def __init__(self, embedder: CLIPEmbedder) -> None:
        self.identity = embedder.identity
        self.shortest_edge = embedder.shortest_edge
        self.dimension = embedder.dimension
        self.resize = embedder.resize
        self.embedded: list[list[str]] = []
        self._embedder = embedder

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded.append(list(texts))
        return self._embedder.embed_texts(texts)

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self._embedder.embed_images(images)


def embed(database: Database, cache: QueryCache, *texts: str) -> np.ndarray:
    with database.connect() as connection:
        return cache.embed(connection, texts)


def stored(database: Database) -> set[str]:
    with database.connect() as connection:
        return set(connection.scalars(sa.select(query_embeddings.c.query)))


def test_texts_are_computed_once_and_returned_in_order(embedder: CLIPEmbedder) -> None:
    recorder = Recorder(embedder)
    cache = QueryCache(recorder)
    cache.compute(["a boat", "a tree"])
    vectors = cache.compute(["a tree", "a cat", "a boat", "a cat"])
    assert recorder.embedded == [["a boat", "a tree"], ["a cat"]]
    assert np.allclose(vectors, embedder.embed_texts(["a tree", "a cat", "a boat", "a cat"]), atol=1e-3)
    assert cache.compute([]).shape == (0, 512)


def test_a_text_has_one_vector_in_each_unicode_form(database: Database, embedder: CLIPEmbedder) -> None:
    recorder = Recorder(embedder)
    cache = QueryCache(recorder)
    vectors = embed(database, cache, "cafe\u0301", "caf\u00e9")
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(cache.compute(["cafe\u0301"])[0], vectors[0])
    assert recorder.embedded == [["caf\u00e9"]]
    assert stored(database) == {"caf\u00e9"}


def test_the_least_recently_used_texts_are_evicted_from_memory(embedder: CLIPEmbedder) -> None:
    recorder = Recorder(embedder)
    cache = QueryCache(recorder, capacity=2)
    for text in ("a boat", "a tree", "a boat", "a cat", "a boat", "a tree"):
        cache.compute([text])
    assert recorder.embedded == [["a boat"], ["a tree"], ["a cat"], ["a tree"]]


def test_cached_values_cannot_be_modified_by_callers(embedder: CLIPEmbedder) -> None:
    cache = QueryCache(embedder)
    for _ in range(2):
        vectors = cache.compute(["a boat"])
        assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-3)
        vectors[:] = 0


def test_memory_is_trusted_for_a_limited_time(database: Database, embedder: CLIPEmbedder) -> None:
    now, hits = 1000.0, []
    cache = QueryCache(
        embedder, trust_memory_s=60, on_hit=lambda where, count: hits.append((where, count)), clock=lambda: now
    )
    embed(database, cache, "a boat")
    hits.clear()
    now = 1059.9
    embed(database, cache, "a boat")
    assert hits == [("memory", 1)]
    now = 1060.0
    embed(database, cache, "a boat")
    assert hits[1:] == [("memory", 0), ("database", 1)]


def test_by_default_the_database_is_always_asked(database: Database, embedder: CLIPEmbedder) -> None:
    hits: list[tuple[str, int]] = []
    cache = QueryCache(embedder, on_hit=lambda where, count: hits.append((where, count)))
    for _ in range(2):
        embed(database, cache, "a boat")
    assert hits == [("memory", 0), ("database", 0), ("memory", 0), ("database", 1)]


def test_a_remembered_text_is_not_looked_up(database: Database, embedder: CLIPEmbedder) -> None:
    hits: list[tuple[str, int]] = []

    def make_cache() -> QueryCache:
        return QueryCache(embedder, trust_memory_s=3600, on_hit=lambda where, count: hits.append((where, count)))

    cache = make_cache()
    first = embed(database, cache, "a boat", "a tree")
    assert (embed(database, cache, "a tree", "a boat") == first[::-1]).all()
    assert hits == [("memory", 0), ("database", 0), ("memory", 2)]
    other = make_cache()  # as in another process
    assert np.allclose(embed(database, other, "a boat"), first[0], atol=1e-6)
    assert hits[3:] == [("memory", 0), ("database", 1)]


def test_a_computed_text_is_stored_once_it_is_searched_for(database: Database, embedder: CLIPEmbedder) -> None:
    """A text that was only computed, as for relevance, is not in the database until a search needs it there."""
    recorder = Recorder(embedder)
    cache = QueryCache(recorder, trust_memory_s=3600)
    cache.compute(["a boat"])
    assert stored(database) == set()
    embed(database, cache, "a boat")
    assert recorder.embedded == [["a boat"]]
    with database.connect() as connection:
        assert connection.scalar(sa.text("SELECT vector_dims(text_embedding('a boat'))")) == 512


def test_a_text_that_could_not_be_stored_is_not_computed_again(database: Database, embedder: CLIPEmbedder) -> None:
    recorder = Recorder(embedder)
    cache = QueryCache(recorder, trust_memory_s=3600)
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE query_embeddings ADD CONSTRAINT no_boats CHECK (query <> 'a boat')")
    with pytest.raises(DatabaseError, match="no_boats"):
        embed(database, cache, "a boat")
    with database.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE query_embeddings DROP CONSTRAINT no_boats")
    embed(database, cache, "a boat")
    assert recorder.embedded == [["a boat"]]
    assert stored(database) == {"a boat"}


def test_the_stored_texts_of_all_processes_have_a_bound_in_bytes(database: Database, embedder: CLIPEmbedder) -> None:
    limit = 40_000
    caches = [QueryCache(embedder, max_bytes=limit) for _ in range(3)]  # as in three processes
    for n in range(30):
        embed(database, caches[n % 3], f"text {n} " + "x" * 200 * (n % 5))
        with database.connect() as connection:
            assert stored_bytes(connection) <= limit
    assert "text 29 " + "x" * 800 in stored(database)
    with database.connect() as connection:
        assert stored_bytes(connection) >= limit / 2


def test_a_long_time_without_measuring_ends_at_a_share_of_the_limit(
    database: Database, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_cache, "UNMEASURED_SHARE", 0.5)
    cache = QueryCache(embedder, max_bytes=10 * ROW_BYTES)
    for n in range(40):
        embed(database, cache, f"text {n}")
        with database.connect() as connection:
            assert stored_bytes(connection) <= 15 * ROW_BYTES
