"""The numbers behind the status page's plots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.charts import rate_history, similarity_histogram
from searchdb.client import SearchDB
from searchdb.db.database import Database
from searchdb.db.tables import ingest_chunks

END = datetime(2026, 5, 1, 12, tzinfo=UTC)


def add_chunks(database: Database, *chunks: tuple[float, int, int]) -> None:
    """Add chunks that ended so many seconds before END, with so many stored and failed."""
    rows = [
        {
            "run_id": uuid4(),
            "worker": "here:1",
            "stored": stored,
            "copied": 0,
            "unchanged": 0,
            "failed": {"NotAnImageError": failed} if failed else {},
            "finished_at": END - timedelta(seconds=before),
        }
        for before, stored, failed in chunks
    ]
    with database.begin() as connection:
        connection.execute(sa.insert(ingest_chunks), rows)


def test_the_rate_is_that_of_the_last_run(database: Database) -> None:
    hour = 3600
    add_chunks(database, (0, 60, 0), (60, 50, 10), (120, 0, 120), (120 + hour, 1000, 0))
    with database.connect() as connection:
        history = rate_history(connection)
    assert history is not None
    assert (history.start, history.end, history.step_s) == (END - timedelta(seconds=120), END, 2)
    assert history.pictures == 240
    assert sum(history.per_s) * history.step_s == pytest.approx(240)
    assert [history.per_s[0], history.per_s[30], history.per_s[-1]] == [60, 30, 30]


def test_a_single_chunk_is_a_run_of_one_step(database: Database) -> None:
    add_chunks(database, (0, 7, 0))
    with database.connect() as connection:
        history = rate_history(connection)
    assert history is not None
    assert (list(history.per_s), history.step_s) == ([7], 1)


def test_an_empty_collection_has_no_plots(database: Database) -> None:
    with database.connect() as connection:
        assert rate_history(connection) is None
        assert similarity_histogram(connection) is None


def test_similarities_are_those_of_the_last_texts_to_the_sample(demo_collection: SearchDB) -> None:
    demo_collection.search("a red boat", count=1)
    with demo_collection.database.connect() as connection:
        histogram = similarity_histogram(connection)
    assert histogram is not None
    assert histogram.texts >= 1
    assert histogram.pictures > 100
    assert sum(histogram.pairs) == pytest.approx(1)
    assert sum(histogram.best) == pytest.approx(1)
    middles = np.linspace(histogram.low, histogram.high, 2 * len(histogram.pairs) + 1)[1::2]
    assert np.dot(middles, histogram.best) > np.dot(middles, histogram.pairs)
