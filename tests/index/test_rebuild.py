"""Rebuilds of a stale vector index, in the foreground and in the background."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from searchdb.db.database import Database
from searchdb.index import rebuild
from searchdb.index.rebuild import BackgroundRebuilder, rebuild_if_stale
from searchdb.index.status import index_status
from tests.helpers.vectors import clustered, fill
from tests.helpers.waiting import GIVE_UP_S


def test_the_index_is_rebuilt_when_stale_and_only_then(database: Database) -> None:
    assert not rebuild_if_stale(database.engine)
    fill(database, clustered(1000))
    assert rebuild_if_stale(database.engine)
    assert not rebuild_if_stale(database.engine)
    fill(database, clustered(999, seed=1), first=1000)
    assert not rebuild_if_stale(database.engine)
    fill(database, clustered(1, seed=2), first=1999)
    assert rebuild_if_stale(database.engine)
    with database.connect() as connection:
        assert index_status(connection).rows_at_build == 2000


def test_requests_during_a_rebuild_lead_to_one_more(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, calls = 0, 0, 0
    started, proceed = threading.Event(), threading.Event()

    def rebuild_slowly(_engine: sa.Engine) -> bool:
        nonlocal running, most, calls
        running, calls = running + 1, calls + 1
        most = max(most, running)
        started.set()
        proceed.wait(GIVE_UP_S)
        running -= 1
        return True

    monkeypatch.setattr(rebuild, "rebuild_if_stale", rebuild_slowly)
    rebuilder = BackgroundRebuilder()
    rebuilder.request(database.engine)
    assert started.wait(GIVE_UP_S)
    for _ in range(20):
        rebuilder.request(database.engine)
    proceed.set()
    rebuilder.join()
    assert most == 1
    assert calls == 2  # for the first request, and once for all that came during it


def test_a_stale_index_is_rebuilt_in_the_background(database: Database) -> None:
    fill(database, clustered(1000))
    with database.connect() as connection:
        assert index_status(connection).stale
    rebuilder = BackgroundRebuilder()
    rebuilder.request(database.engine)
    rebuilder.join()
    with database.connect() as connection:
        assert not index_status(connection).stale
