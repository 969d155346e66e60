"""A change of the model waits until the pages that are open have loaded the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.switch import notice
from tests.helpers.waiting import GIVE_UP_S, until


@pytest.fixture
def page(settings: Settings) -> Iterator[Database]:
    """A database as a page has it open, with one connection."""
    with Database(settings, page=True) as opened:
        with opened.connect():
            pass
        yield opened


def test_nobody_is_waited_for_without_a_page(database: Database) -> None:
    notice.give_notice(database.engine, time.monotonic() + 1e6, threading.Event())


def test_a_page_has_time_to_notice(database: Database, page: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert page.engine is not database.engine
    monkeypatch.setattr(notice, "NOTICE_S", 0.3)
    began = time.monotonic()
    notice.give_notice(database.engine, began, threading.Event())
    assert time.monotonic() - began >= 0.3
    stop = threading.Event()
    stop.set()
    notice.give_notice(database.engine, began + 1e6, stop)


def test_a_page_that_loads_the_model_is_waited_for(
    database: Database, page: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "NOTICE_S", 0.0)
    with ThreadPoolExecutor(1) as threads:
        with notice.loading(page.engine), notice.loading(page.engine):
            change = threads.submit(notice.give_notice, database.engine, time.monotonic(), threading.Event())
            time.sleep(4 * notice.POLL_S)
            assert not change.done()
        change.result(GIVE_UP_S)


def test_a_page_that_takes_too_long_is_not_waited_for(
    database: Database, page: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notice, "NOTICE_S", 0.0)
    monkeypatch.setattr(notice, "LOADING_S", 0.2)
    with notice.loading(page.engine):
        notice.give_notice(database.engine, time.monotonic(), threading.Event())
    assert "a page is still loading the model" in caplog.text


def test_a_model_is_loaded_although_the_database_fails(database: Database, page: Database) -> None:
    with notice.loading(page.engine):
        assert _loading(database) == 1
        with database.begin() as connection:
            connection.execute(
                sa.text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key"),
                {"key": notice.LOADING_LOCK_KEY},
            )
        until(lambda: not _loading(database), "the connection's end")


def _loading(database: Database) -> int:
    with database.begin() as connection:
        count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :key"
        return connection.execute(sa.text(count), {"key": notice.LOADING_LOCK_KEY}).scalar_one()
