"""Tests retries during an outage: how long they go on, what ends them, and what is logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from searchdb.config import Settings
from searchdb.db import retry
from searchdb.db.database import Database
from searchdb.db.retry import OutageLog, retry_until_available
from searchdb.errors import DatabaseError, DatabaseUnavailableError
from tests.helpers.image_server import ImageServer
from tests.helpers.waiting import GIVE_UP_S, until


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S", 0.02)


@pytest.fixture
def away() -> Iterator[Database]:
    """A database on a port that refuses connections."""
    with ImageServer() as server:
        url = SecretStr(f"postgresql://ann:secret@127.0.0.1:{server.closed_port}/photos")
        with Database(Settings(database_url=url)) as database:
            yield database


def one(database: Database) -> int:
    with database.connect() as connection:
        return connection.scalar(sa.text("SELECT 1")) or 0


class UnavailableAtFirst:
    """A database that is unavailable for the first `calls` calls."""

    def __init__(self, away: Database, back: Database, calls: int) -> None:
        self._away, self._back = away, back
        self._left = calls
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self._left -= 1
            gone = self._left >= 0
        return one(self._away if gone else self._back)


def lines(caplog: pytest.LogCaptureFixture, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


def test_an_available_database_is_called_once_and_nothing_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    calls_made: list[int] = []
    assert retry_until_available(lambda: calls_made.append(one(database)), outage_log=OutageLog()) is None
    assert calls_made == [1]
    assert caplog.records == []


def test_an_outage_is_waited_out_and_its_start_and_end_are_logged_once(
    database: Database, away: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert retry_until_available(UnavailableAtFirst(away, database, 3), outage_log=OutageLog()) == 1
    (gone,) = lines(caplog, "Trying again")
    assert "cannot reach the database" in gone
    assert "secret" not in gone
    assert len(lines(caplog, "the database is back")) == 1
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_many_threads_waiting_for_one_outage_log_it_once(
    database: Database, away: Database, caplog: pytest.LogCaptureFixture
) -> None:
    outage_log = OutageLog()
    gone = threading.Event()

    called: set[int] = set()

    def call() -> int:
        target = database if gone.is_set() else away
        called.add(threading.get_ident())
        return one(target)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(retry_until_available, call, outage_log=outage_log) for _ in range(8)]
        until(lambda: len(called) == 8 and lines(caplog, "Trying again"), "each thread to find the database away")
        gone.set()
        assert [each.result(timeout=GIVE_UP_S) for each in waiting] == [1] * 8
    assert len(lines(caplog, "Trying again")) == 1
    assert len(lines(caplog, "the database is back")) == 1


def test_a_failure_of_a_call_from_before_the_recovery_is_no_new_outage(caplog: pytest.LogCaptureFixture) -> None:
    outage_log, error = OutageLog(), DatabaseUnavailableError("the server", "connection refused")
    before = time.monotonic()
    outage_log.record_failure(error, before)
    outage_log.record_recovery()
    outage_log.record_failure(error, before)
    assert len(lines(caplog, "Trying again")) == 1
    outage_log.record_failure(error, time.monotonic())
    assert len(lines(caplog, "Trying again")) == 2


def test_retries_end_after_the_longest_outage(away: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MAX_OUTAGE_S", 0.1)
    with pytest.raises(DatabaseUnavailableError, match="cannot reach"):
        retry_until_available(lambda: one(away), outage_log=OutageLog())


def test_retries_end_when_cancelled(away: Database) -> None:
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(DatabaseUnavailableError):
        retry_until_available(lambda: one(away), outage_log=OutageLog(), cancel=cancel)


def test_an_outage_after_one_that_was_given_up_is_logged_again(
    database: Database, away: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outage_log = OutageLog()
    with monkeypatch.context() as impatient:
        impatient.setattr(retry, "MAX_OUTAGE_S", 0.1)
        with pytest.raises(DatabaseUnavailableError):
            retry_until_available(lambda: one(away), outage_log=outage_log)
    caplog.clear()
    assert retry_until_available(UnavailableAtFirst(away, database, 2), outage_log=outage_log) == 1
    assert len(lines(caplog, "Trying again")) == 1


def test_an_error_that_is_not_transient_is_raised_at_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    calls_made: list[int] = []

    def wrong() -> None:
        calls_made.append(1)
        with database.connect() as connection:
            connection.execute(sa.text("SELECT nonsense"))

    with pytest.raises(DatabaseError, match="nonsense"):
        retry_until_available(wrong, outage_log=OutageLog())
    assert calls_made == [1]
    assert caplog.records == []
