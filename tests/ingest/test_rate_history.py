"""The rate of the last ingest run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa

from searchdb.db.database import Database
from searchdb.db.tables import ingest_chunks
from searchdb.ingest.rate_history import rate_history

END = datetime(2026, 5, 1, 12, tzinfo=UTC)


def add_chunks(database: Database, *chunks: tuple[float, int, int]) -> None:
    """Add chunks, each given as seconds before END, images stored, images failed."""
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


def test_the_history_covers_the_last_run_only(database: Database) -> None:
    hour = 3600
    add_chunks(database, (0, 60, 0), (60, 50, 10), (120, 0, 120), (120 + hour, 1000, 0))
    with database.connect() as connection:
        history = rate_history(connection)
    assert history is not None
    assert (history.start, history.end, history.step_s) == (END - timedelta(seconds=120), END, 2)
    assert history.references == 240
    assert sum(history.per_s) * history.step_s == pytest.approx(240)
    assert [history.per_s[0], history.per_s[30], history.per_s[-1]] == [60, 30, 30]


def test_a_single_chunk_is_a_run_of_one_step(database: Database) -> None:
    add_chunks(database, (0, 7, 0))
    with database.connect() as connection:
        history = rate_history(connection)
    assert history is not None
    assert (list(history.per_s), history.step_s) == ([7], 1)


def test_without_a_finished_chunk_there_is_no_history(database: Database) -> None:
    with database.connect() as connection:
        assert rate_history(connection) is None
