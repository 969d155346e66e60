"""The database restarts, crashes and goes away for a while in the midst of an ingest; or for good."""

from __future__ import annotations

import functools
import itertools
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db import embedded_start
from searchdb.db.database import Database
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.schema import migrate
from searchdb.db.vectors import current_column
from tests.helpers.image_server import ImageServer
from tests.helpers.runs import (
    CHUNK,
    IMAGES,
    QUICK_RECOVERY,
    Runs,
    age_heartbeat,
    assert_complete,
    enqueue,
    workers,
    write_list,
)
from tests.helpers.tiny_models import demo_twin
from tests.helpers.waiting import until
from tests.helpers.watching import draw, ids, until_equal

SHORT_OUTAGE = "import searchdb.db.retry\nsearchdb.db.retry.MAX_OUTAGE_S = 2.0"
MIGRATED = "migrated"
_numbers = itertools.count(1)


class Restartable:
    """A PostgreSQL server of this module's own."""

    def __init__(self, home: Path) -> None:
        self.server = EmbeddedServer.at(home)

    def restart(self, how: str) -> None:
        embedded_start.stop(self.server.data, how)
        self.start()

    def stop(self) -> None:
        embedded_start.stop(self.server.data)

    def start(self) -> None:
        if not self.server.is_running():
            embedded_start.start(self.server.data)


def settings_of(restartable: Restartable, name: str, home: Path, *, template: str) -> Settings:
    """Create a database, and return the settings that name it."""
    admin = sa.create_engine(restartable.server.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    admin.dispose()
    url = libpq_url(restartable.server.url.set(database=name))
    return Settings(database_url=url, home=home, model="demo", allow_private_addresses=True)


@pytest.fixture(scope="module")
def restartable() -> Iterator[Restartable]:
    home = Path(tempfile.mkdtemp(prefix="sdb-"))
    restartable = Restartable(home)
    restartable.server.join()
    with Database(settings_of(restartable, MIGRATED, home, template="template0")) as database:
        migrate(database)
    yield restartable
    restartable.server.leave()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def settings(restartable: Restartable, tmp_path: Path) -> Settings:
    """Settings that name a fresh, migrated database on the server that restarts."""
    restartable.start()
    return settings_of(restartable, f"outage_{next(_numbers)}", tmp_path, template=MIGRATED)


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Iterator[Runs]:
    """Starts processes on the test's collection."""
    with Runs(settings, tmp_path) as runs:
        yield runs


def stored(collection: SearchDB) -> int:
    return collection.store.counts()["images"]


def test_an_ingest_outlasts_a_restart_and_a_crash_of_the_database(
    restartable: Restartable, collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer(delay_s=0.5) as server:
        listed = write_list(tmp_path, server)
        ingest = runs.start("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json")
        for before, how in ((8, "fast"), (48, "immediate")):
            until(functools.partial(lambda least: stored(collection) >= least, before), "some images")
            restartable.restart(how)
        report = ingest.report()
        assert report["stored"] == report["done"] == report["total"] == IMAGES
        assert "cannot reach the database" in ingest.stderr
        assert "the database is back" in ingest.stderr
        assert len(server.hits) == IMAGES
        assert max(server.hits.values()) == 1
    assert collection.store.counts() == {"images": IMAGES, "failed": 0, "pending": 0}


def test_a_switch_to_another_model_outlasts_a_restart_and_a_crash_of_the_database(
    restartable: Restartable, collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    twin = demo_twin(tmp_path / "twin", 768)

    def embedded() -> int:
        status = collection.switch_status()
        return 0 if status is None else status.done

    with ImageServer() as server:
        count = 48
        assert collection.ingest_urls(str(write_list(tmp_path, server, count))).stored == count
        server.delay_s = 0.5
        small = "import searchdb.switch.feed, searchdb.switch.again\nsearchdb.switch.feed.JOB_IMAGES = 8\n"
        switch = runs.start("model", "switch", str(twin), "--json", before=f"{small}searchdb.switch.again.BATCH = 4")
        for least, how in ((4, "fast"), (16, "immediate")):
            until(functools.partial(lambda least: embedded() >= least, least), "some images")
            restartable.restart(how)
        assert switch.report()["images"] == count
    with collection.database.connect() as connection:
        assert current_column(connection).dimension == 768


def test_a_worker_outlasts_a_database_that_is_away_for_a_while(
    restartable: Restartable, collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer(delay_s=0.5) as server:
        enqueue(collection, write_list(tmp_path, server))
        worker = runs.start("worker", "--drain", "--json")
        until(lambda: stored(collection) >= 8, "the first images")
        restartable.stop()
        until(lambda: "Trying again" in worker.stderr, "the worker to notice the outage")
        time.sleep(3)  # so that several retries and heartbeats fail
        restartable.start()
        worker.report()
        assert worker.stderr.count("Trying again") == worker.stderr.count("the database is back") == 1
        assert max(server.hits.values()) == 1
    assert_complete(collection)


def test_a_worker_gives_up_with_one_line_when_the_database_stays_away(
    restartable: Restartable, collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer(delay_s=0.5) as server:
        idle = runs.start("worker", before=SHORT_OUTAGE)
        until(lambda: workers(collection) == {idle.pid}, "the worker")
        enqueue(collection, write_list(tmp_path, server))
        until(lambda: stored(collection) >= 8, "the first images")
        restartable.stop()
        try:
            assert idle.wait() == 1
        finally:
            restartable.start()
        errors = [line for line in idle.stderr.splitlines() if line.startswith("Error:")]
        assert len(errors) == 1
        assert "cannot reach the database" in errors[0]
        counts = collection.store.counts()
        assert counts["failed"] == 0
        assert counts["images"] + counts["pending"] == IMAGES
        age_heartbeat(collection, idle)
        runs.start("worker", "--drain", "--json", before=QUICK_RECOVERY).report()
    assert_complete(collection)


def test_a_watch_outlasts_a_database_that_is_away_longer_than_an_ingest_waits(
    restartable: Restartable, collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    paths = draw(photos, 5)
    watch = runs.start("watch", str(photos), "--settle", "0.2", "--json", before=SHORT_OUTAGE)
    until(lambda: stored(collection) == 5, "the first scan")
    before = ids(collection)
    restartable.stop()
    paths[0].rename(photos / "renamed.jpg")
    paths[1].unlink()
    draw(photos / "new", 3, first=20)
    until(lambda: "The watch goes on" in watch.stderr, "the watch to notice")
    time.sleep(3)  # so that several attempts fail
    restartable.start()
    until_equal(collection, photos)
    assert ids(collection)[str(photos / "renamed.jpg")] == before[str(paths[0])]
    restartable.stop()
    try:
        draw(photos, 1, first=30)
        until(lambda: watch.stderr.count("The watch goes on") == 2, "the watch to notice again")
        watch.send(signal.SIGTERM)
        assert watch.wait() == 0
    finally:
        restartable.start()


def test_a_worker_that_waits_for_the_database_can_be_stopped(
    restartable: Restartable, collection: SearchDB, runs: Runs
) -> None:
    worker = runs.start("worker")
    until(lambda: workers(collection) == {worker.pid}, "the worker")
    restartable.stop()
    try:
        until(lambda: "Trying again" in worker.stderr, "the worker to notice")
        worker.send(signal.SIGTERM)
        assert worker.wait() in (0, 1)
    finally:
        restartable.start()
