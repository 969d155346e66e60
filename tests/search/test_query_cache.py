"""What is remembered of texts in a process: how many, how long, and that the database is not asked again."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.tables import query_embeddings
from searchdb.search import query_cache
from searchdb.search.query_cache import TextMemory
from searchdb.search.searcher import Searcher


def vectors(*texts: str) -> dict[str, np.ndarray]:
    return {text: np.full(512, n, np.float32) for n, text in enumerate(texts)}


def test_the_least_recently_used_go_first() -> None:
    memory = TextMemory(capacity=2)
    memory.put(vectors("a boat", "a tree"))
    memory.get(["a boat"])
    memory.put(vectors("a cat"))
    assert memory.get(["a boat", "a tree", "a cat"]).keys() == {"a boat", "a cat"}


def test_nothing_is_remembered_for_longer_than_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(query_cache, "time", clock)
    memory, now = TextMemory(seconds=60), 1000.0
    memory.put(vectors("a boat"))
    now = 1060.0
    assert memory.get(["a boat"]).keys() == {"a boat"}
    now = 1060.1
    assert memory.get(["a boat"]) == {}


def test_a_remembered_text_is_not_looked_up(collection: SearchDB) -> None:
    engine, memory, observed = collection.database.engine, TextMemory(), []
    query_cache.observe(engine, lambda where, count: observed.append((where, count)))
    searcher = Searcher(engine, collection.embedder, memory)
    first = searcher.embed(["a boat", "a tree"])
    assert (searcher.embed(["a tree", "a boat"]) == first[::-1]).all()
    assert observed == [("memory", 0), ("database", 0), ("memory", 2)]
    other = Searcher(engine, collection.embedder, TextMemory())  # of another process
    assert np.allclose(other.embed(["a boat"]), first[0], atol=1e-6)
    assert observed[3:] == [("memory", 0), ("database", 1)]


def test_what_is_remembered_was_kept_for_sql(collection: SearchDB) -> None:
    """A text that the model alone was asked for, as for relevance, is kept once it is searched for."""
    collection.embedder.embed_texts(["a boat"])
    Searcher(collection.database.engine, collection.embedder, TextMemory()).embed(["a boat"])
    with collection.database.connect() as connection:
        assert connection.scalar(sa.text("SELECT vector_dims(text_embedding('a boat'))")) == 512


def test_texts_are_counted_by_chance(collection: SearchDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_cache, "MAX_CACHED", 5)
    chances: list[float] = [0.5] * 8 + [0.001]
    monkeypatch.setattr(query_cache, "random", SimpleNamespace(random=lambda: chances.pop(0)))

    def kept(texts: Sequence[str]) -> int:
        for each in texts:
            collection.embed([each])
        with collection.database.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(query_embeddings)) or 0

    assert kept([f"text {n}" for n in range(8)]) == 8
    assert kept(["one more"]) == 4
