"""Few rows are counted; the number of many comes from statistics or a sample, and is said to be an estimate."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from searchdb.db import counts
from searchdb.db.counts import RowCount, count_matching, count_rows
from searchdb.db.database import Database
from searchdb.db.samples import random_keys
from searchdb.db.tables import images, ingest_failures
from tests.helpers.statements import executed_on, reading_all_of

BOUND = 500


@pytest.fixture(autouse=True)
def _bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "EXACT_UP_TO", BOUND)


def add_failures(database: Database, rows: int, first: int = 0) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO ingest_failures (image, source, error, message, retryable) "
            f"SELECT '/' || n, 'test', 'HTTPStatusError', '', false FROM generate_series({first}, {first + rows - 1}) n"
        )
        flush_statistics(connection)


def flush_statistics(connection: sa.Connection) -> None:
    """Make PostgreSQL count the transaction's changes at its end, and not up to a second later."""
    connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")


def counted(database: Database) -> RowCount:
    with database.begin() as connection:
        return count_rows(connection, ingest_failures)


def analyze(database: Database) -> None:
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE ingest_failures")


@pytest.mark.parametrize("rows", [0, 1, BOUND])
def test_few_rows_are_counted_exactly(database: Database, rows: int) -> None:
    add_failures(database, rows)
    assert counted(database) == RowCount(rows=rows, exact=True)
    with database.begin() as connection:
        connection.exec_driver_sql("ANALYZE ingest_failures")
    assert counted(database) == RowCount(rows=rows, exact=True)


def test_many_rows_are_not_read(database: Database) -> None:
    add_failures(database, 3000)
    analyze(database)
    with executed_on(database.engine) as statements:
        assert counted(database) == RowCount(rows=3000, exact=False)
    assert not any("ingest_failures" in statement for statement, _ in statements)


def test_rows_copied_without_analyze_are_estimated_from_some_blocks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "SAMPLED_BLOCKS", 20)
    add_failures(database, 5000)
    with database.begin() as connection:
        assert connection.scalar(sa.text("SELECT reltuples FROM pg_class WHERE relname = 'ingest_failures'")) == -1
    with executed_on(database.engine) as statements:
        found = counted(database)
    assert not found.exact
    assert found.rows == pytest.approx(5000, rel=0.5)
    assert counted(database) == found  # and does not change from one page to the next
    with database.begin() as connection:
        assert reading_all_of("ingest_failures", connection, statements) == []


def test_growth_that_a_crash_made_the_server_forget_is_noticed(database: Database) -> None:
    add_failures(database, 3000)
    analyze(database)
    add_failures(database, 3000, first=3000)
    with database.begin() as connection:  # as after a crash, which loses all of these numbers
        connection.exec_driver_sql("SELECT pg_stat_reset_single_table_counters('ingest_failures'::regclass)")
    assert counted(database).rows > 4000


def test_outdated_statistics_are_not_used(database: Database) -> None:
    add_failures(database, 600)
    analyze(database)
    assert counted(database) == RowCount(rows=600, exact=False)
    add_failures(database, 2400, first=600)
    assert counted(database).rows == pytest.approx(3000, rel=0.1)
    with database.begin() as connection:
        connection.exec_driver_sql("DELETE FROM ingest_failures WHERE id > 7")
        flush_statistics(connection)
    assert counted(database) == RowCount(rows=7, exact=True)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (RowCount(rows=9999), "9,999"),
        (RowCount(rows=198_765, exact=False), "about 200,000"),
        (RowCount(rows=1_234_567, exact=False), "about 1,200,000"),
        (RowCount(rows=7, exact=False), "about 7"),
    ],
)
def test_an_estimate_is_said_to_be_one(count: RowCount, words: str) -> None:
    assert str(count) == words


def test_random_rows_of_a_large_table_are_drawn_from_some_blocks(database: Database) -> None:
    add_failures(database, 5000)
    with database.begin() as connection:
        with executed_on(database.engine) as statements:
            keys = random_keys(connection, ingest_failures.c.id, 10)
        assert len(set(keys)) == 10
        assert reading_all_of("ingest_failures", connection, statements) == []
        assert set(random_keys(connection, ingest_failures.c.id, 10)) != set(keys)
        assert len(random_keys(connection, ingest_failures.c.id, 9999)) == 5000
        connection.exec_driver_sql("DELETE FROM ingest_failures WHERE id %% 500 > 0")
        assert len(random_keys(connection, ingest_failures.c.id, 10)) == 10
        assert random_keys(connection, images.c.id, 10) == []


@pytest.mark.parametrize(("matching", "exact"), [(0, True), (BOUND, True), (2000, False)])
def test_matching_rows(database: Database, matching: int, exact: bool) -> None:
    add_failures(database, 3000)
    analyze(database)
    with database.begin() as connection:
        connection.execute(
            sa.text("UPDATE ingest_failures SET message = 'x' WHERE substr(image, 2)::int < :n"), {"n": matching}
        )
        rows = count_rows(connection, ingest_failures)
        found = count_matching(connection, ingest_failures, "message = 'x'", rows)
    assert found == matching if exact else abs(found - matching) < 0.1 * matching
