"""Builds of the vector index while others search and write, and builds that are killed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.db.database import Database, open_database
from searchdb.db.tables import images
from searchdb.db.vectors import CURRENT_COLUMN, current_column
from searchdb.index import build
from searchdb.index.status import build_progress, leftovers, new_index
from tests.helpers.database_copies import copied_collection
from tests.helpers.databases import NewSettings
from tests.helpers.runs import Runs
from tests.helpers.vectors import clustered, fill, recall
from tests.helpers.waiting import until

ROWS = 2000


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """The vectors of the images in the test's `database`, whose index was built on them."""
    return clustered(ROWS)


@pytest.fixture(scope="module")
def filled(
    vectors: np.ndarray, new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """The settings of a database with `vectors`, of which each test has a copy."""
    with new_settings(tmp_path_factory.mktemp("home")) as settings:
        with open_database(settings) as database:
            fill(database, vectors)
            build.build_index(database.engine, method="ivfflat")
        yield settings


@pytest.fixture
def settings(filled: Settings, admin: sa.Engine, tmp_path: Path) -> Iterator[Settings]:
    """Settings that name a copy of the database of `filled`."""
    with copied_collection(admin, filled, tmp_path) as settings:
        yield settings


def left(database: Database) -> list[str]:
    with database.connect() as connection:
        return list(leftovers(connection, current_column(connection)))


@pytest.mark.parametrize("method", ["ivfflat", "hnsw"])
def test_searches_and_ingest_go_on_during_a_build(database: Database, vectors: np.ndarray, method: str) -> None:
    queries = clustered(20, seed=1)
    added = clustered(400, seed=2)
    built = threading.Event()
    pages: list[int] = []
    phases: set[str] = set()
    errors: list[Exception] = []

    def beside(work: Callable[[int], None]) -> threading.Thread:
        def go_on() -> None:
            turn = 0
            try:
                while not built.is_set() or turn < 5:
                    work(turn)
                    turn += 1
            except Exception as exc:  # noqa: BLE001 - the test's own thread raises it
                errors.append(exc)

        thread = threading.Thread(target=go_on)
        thread.start()
        return thread

    def search(turn: int) -> None:
        statement = sa.text("SELECT count(*) FROM match_images(:query, -1, 50)")
        with database.connect() as connection:
            pages.append(connection.scalar(statement, {"query": queries[turn % len(queries)]}))

    def write(turn: int) -> None:
        if turn < len(added):
            fill(database, added[turn : turn + 1], first=ROWS + turn)

    def look(_turn: int) -> None:
        with database.connect() as connection:
            progress = build_progress(connection)
        if progress is not None:
            phases.add(progress.phase)

    threads = [beside(work) for work in (search, write, look)]
    try:
        assert build.build_index(database.engine, method=method) is not None
    finally:
        built.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert set(pages) == {50}
    assert phases
    assert left(database) == []
    with database.connect() as connection:
        stored = connection.execute(sa.select(images.c.image, images.c.embedding).order_by(images.c.id)).all()
    assert len(stored) > ROWS
    everything = np.stack([row.embedding for row in stored])
    assert [row.image for row in stored] == [f"/{n}" for n in range(len(stored))]
    assert recall(database, everything, queries) >= 0.9


@pytest.mark.parametrize("how", ["kill -9", "Ctrl-C", "SIGTERM", "pg_terminate_backend"])
def test_a_killed_build_leaves_a_working_index(database: Database, runs: Runs, vectors: np.ndarray, how: str) -> None:
    with database.connect() as writer:
        # A build waits for those who write when it begins: here, for as long as we like.
        writer.execute(sa.text("UPDATE images SET description = 'held' WHERE image = '/0'"))
        run = runs.start("index", "build", "--method", "hnsw", new_interpreter=how == "Ctrl-C")
        until(lambda: new_index(CURRENT_COLUMN) in left(database), "the build to begin")
        with database.connect() as connection:
            assert build.index_status(connection).building is not None
            builder = connection.scalar(sa.text("SELECT pid FROM pg_stat_progress_create_index"))
            assert builder is not None
            if how == "pg_terminate_backend":
                connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": builder})
        signals = {"kill -9": signal.SIGKILL, "Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}
        if how in signals:
            run.send(signals[how])

        def gone() -> bool:
            with database.connect() as connection:
                alive = sa.text("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = :pid)")
                return not connection.scalar(alive, {"pid": builder})

        until(gone, "the server to give the build up")
        writer.rollback()
    assert run.wait() != 0
    assert left(database) == ([new_index(CURRENT_COLUMN)] if how == "kill -9" else [])

    with database.connect() as connection:
        state = build.index_status(connection)
    assert (state.method, state.lists, state.valid, state.building) == ("ivfflat", 44, True, None)
    assert recall(database, vectors, clustered(20, seed=1)) >= 0.9
    more = clustered(1, seed=9)
    fill(database, more, first=ROWS)
    with database.connect() as connection:
        nearest = connection.scalar(sa.text("SELECT image FROM match_images(:query)"), {"query": more[0]})
    assert nearest == f"/{ROWS}"

    if how == "kill -9":
        again = build.build_index(database.engine, method="hnsw")
        assert again is not None
        assert (again.method, again.valid, again.leftovers) == ("hnsw", True, ())
