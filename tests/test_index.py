"""The vector index: fitted to the rows, rebuilt in time, honest about its state."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb import index
from searchdb.database import Database
from searchdb.models import claim_model
from searchdb.records import ModelIdentity
from searchdb.tables import VECTOR_INDEX, images

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32)


def clustered(rows: int, *, clusters: int = 60, seed: int = 0) -> np.ndarray:
    """Return unit vectors of shape (rows, 512) around common centres, as pictures of common subjects are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 512))
    vectors = centres[rng.integers(clusters, size=rows)] + 0.8 * rng.normal(size=(rows, 512))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fill(database: Database, vectors: np.ndarray, first: int = 0) -> None:
    common: dict[str, object] = {"source": "test", "sha256": b"", "width": 1, "height": 1, "byte_size": 1}
    with database.begin() as connection:
        common["embedding_model_id"] = claim_model(connection, MODEL)
        rows = [{**common, "image": f"/{first + n}", "embedding": vector} for n, vector in enumerate(vectors)]
        connection.execute(sa.insert(images), rows)


@pytest.mark.parametrize(
    ("rows", "rows_at_build", "expected"),
    [
        (0, 0, False),
        (999, 0, False),
        (1000, 0, True),
        (1000, 1000, False),
        (1999, 1000, False),
        (2000, 1000, True),
        (2000, 1500, False),
        (500, 2000, False),
        (5_000_000, 2_500_000, True),
    ],
)
def test_a_rebuild_is_due_when_the_rows_have_at_least_doubled(rows: int, rows_at_build: int, expected: bool) -> None:
    assert index.needs_rebuild(rows, rows_at_build) is expected


def test_lists_and_probes_grow_with_the_rows() -> None:
    assert index.fit_lists(0) == index.fit_lists(999) == 1
    assert index.fit_lists(1000) == 31
    assert index.fit_lists(25_000) == 158
    assert index.fit_lists(4_000_000) == 4000
    assert [index.fit_probes(lists) for lists in (1, 31, 158, 4000)] == [1, 31, 40, 159]


def test_an_unbuilt_index_is_exact(database: Database) -> None:
    vectors = clustered(500)
    fill(database, vectors)
    assert recall(database, vectors, clustered(20, seed=1)) == 1


def test_building_fits_the_index_and_the_function_and_keeps_recall(database: Database) -> None:
    vectors = clustered(3000)
    fill(database, vectors)
    built = index.build(database.engine)
    assert built is not None
    assert (built.method, built.lists, built.probes, built.valid) == ("ivfflat", 54, 40, True)
    assert (built.rows, built.rows_at_build, built.stale) == (3000, 3000, False)
    with database.connect() as connection:
        definition = connection.scalar(sa.text("SELECT pg_get_indexdef(to_regclass(:name))"), {"name": VECTOR_INDEX})
        assert definition.endswith("USING ivfflat (embedding vector_cosine_ops) WITH (lists='54')")
    assert recall(database, vectors, clustered(50, seed=1)) >= 0.95


def recall(database: Database, vectors: np.ndarray, queries: np.ndarray, count: int = 10) -> float:
    found = 0
    with database.connect() as connection:
        for query in queries:
            exact = {f"/{n}" for n in np.argsort(-(vectors @ query))[:count]}
            statement = sa.text("SELECT image FROM match_images(:query, -1, :count)")
            found += len(exact & set(connection.scalars(statement, {"query": query, "count": count})))
    return found / (count * len(queries))


def test_the_index_is_rebuilt_when_stale_and_only_then(database: Database) -> None:
    assert not index.rebuild_if_stale(database.engine)
    fill(database, clustered(1000))
    assert index.rebuild_if_stale(database.engine)
    assert not index.rebuild_if_stale(database.engine)
    fill(database, clustered(999, seed=1), first=1000)
    assert not index.rebuild_if_stale(database.engine)
    fill(database, clustered(1, seed=2), first=1999)
    assert index.rebuild_if_stale(database.engine)
    with database.connect() as connection:
        assert index.status(connection).rows_at_build == 2000


def test_two_builds_at_once_are_one(database: Database) -> None:
    fill(database, clustered(3000))
    results: list[index.IndexStatus | None] = []
    threads = [threading.Thread(target=lambda: results.append(index.build(database.engine))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(result is not None for result in results)
    with database.connect() as connection:
        assert index.status(connection).valid
        invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert connection.scalar(sa.text(invalid)) == 0


def test_what_a_killed_build_left_is_cleaned_up(database: Database) -> None:
    with database.begin() as connection:
        connection.execute(sa.text(f"CREATE INDEX {VECTOR_INDEX}_ccnew ON images (width)"))
        connection.execute(
            sa.text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{VECTOR_INDEX}_ccnew'::regclass")
        )
    assert index.build(database.engine) is not None
    with database.connect() as connection:
        assert connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": f"{VECTOR_INDEX}_ccnew"}) is None


def test_the_status_is_told_in_words(database: Database) -> None:
    with database.connect() as connection:
        status = index.status(connection)
    assert "every search is exact" in status.in_words()
    fill(database, clustered(1000))
    with database.connect() as connection:
        assert "stale: run `searchdb index build`" in index.status(connection).in_words()
    built = index.build(database.engine, lists=10)
    assert built is not None
    assert "10 lists, 10 probed; 1,000 rows now, built at 1,000 rows: fits" in built.in_words()
