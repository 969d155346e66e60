"""`kill -9` of the embedded server: whoever uses it starts it again, and goes on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.embedded import EmbeddedServer
from searchdb.errors import DatabaseUnavailableError, EmbeddedServerError
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.runs import Runs
from tests.helpers.waiting import until
from tests.helpers.watching import draw
from web import create_app
from web.backend import EXTENSION


@pytest.fixture(scope="module")
def prepared_home() -> Iterator[Path]:
    """A home with a migrated database, whose server does not run: to make and migrate one takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    SearchDB(Settings(home=folder, model="demo")).close()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def settings(prepared_home: Path, short_home: Path) -> Settings:
    """Settings with a copy of that home."""
    subprocess.run(["cp", "-a", f"{prepared_home}/.", short_home], check=True)
    return Settings(home=short_home, model="demo")


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Iterator[Runs]:
    with Runs(settings, tmp_path) as runs:
        yield runs


def kill_server(home: Path) -> None:
    """Kill the server's first process, and return once no process listens."""
    server = EmbeddedServer.at(home)
    os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    until(lambda: not server.is_running(), "the end of the killed server")


def stored(home: Path) -> int:
    """Return the number of images, asked without joining: the run alone has to start the server."""
    try:
        with psycopg.connect(host=str(home / "postgres"), user="postgres", dbname="postgres") as connection:
            row = connection.execute("SELECT count(*) FROM images").fetchone()
            return row[0] if row else 0
    except psycopg.Error:  # not started or migrated yet
        return 0


def finds_nothing(collection: SearchDB) -> bool:
    """Search an empty collection; False if that meets a process of a killed server that is about to end."""
    try:
        return collection.search("a boat") == []
    except DatabaseUnavailableError:
        return False


@pytest.mark.parametrize("command", ["ingest", "worker"])
def test_an_ingest_goes_on(settings: Settings, runs: Runs, album: Path, command: str) -> None:
    ingest = ["ingest", "files", str(album), "--limit", "60", "--chunk-size", "4"]
    if command == "worker":
        runs.start(*ingest, "--enqueue-only").wait()
        run = runs.start("worker", "--drain", "--json")
    else:
        run = runs.start(*ingest, "--json")
    until(lambda: stored(settings.home) >= 8, "the first images")
    kill_server(settings.home)
    report = run.report()
    assert report["done"] == 60
    assert "the embedded server had died and was started again" in run.stderr
    assert not EmbeddedServer.at(settings.home).is_running()
    with SearchDB(settings) as collection:
        counts = collection.store.counts()
    assert (counts["images"], counts["pending"]) == (report["stored"], 0)


def test_a_watch_goes_on(settings: Settings, runs: Runs, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    draw(photos, 3)
    watch = runs.start("watch", str(photos), "--settle", "0.2", "--json")
    until(lambda: stored(settings.home) == 3, "the first scan")
    kill_server(settings.home)
    draw(photos, 2, first=20)
    until(lambda: stored(settings.home) == 5, "the new files")
    watch.send(signal.SIGTERM)
    assert watch.report()["stored"] == 5


def test_a_search_in_a_long_lived_process_starts_it(settings: Settings, embedder: CLIPEmbedder) -> None:
    with SearchDB(settings) as collection:
        collection.embedder = embedder
        assert collection.search("a boat") == []
        kill_server(settings.home)
        until(lambda: finds_nothing(collection), "a search after the end of the server's processes")
        EmbeddedServer.at(settings.home).stop()
        assert collection.search("a boat") == []


def test_a_server_that_another_process_has_just_started_is_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_connection = psycopg.connect
    refusals = ["Connection refused"]

    def connect(**arguments: Any) -> psycopg.Connection[Any]:
        if refusals:
            raise psycopg.OperationalError(refusals.pop())
        return open_connection(**arguments)

    with SearchDB(settings) as collection:
        collection.database.engine.dispose()
        monkeypatch.setattr(psycopg, "connect", connect)
        assert collection.search("a boat") == []


def test_the_page_starts_it(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings, embedder=embedder)
    client = app.test_client()
    until(lambda: client.get("/readyz").status_code == 200, "the page")
    kill_server(settings.home)
    until(lambda: client.get("/readyz").status_code == 200, "the page to recover")
    app.extensions[EXTENSION].close()
    assert not EmbeddedServer.at(settings.home).is_running()


def test_a_server_that_does_not_start_again_ends_the_run_with_the_reason(
    settings: Settings, runs: Runs, album: Path
) -> None:
    run = runs.start("ingest", "files", str(album), "--chunk-size", "4")
    until(lambda: stored(settings.home) >= 8, "the first images")
    with (settings.home / "postgres" / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    kill_server(settings.home)
    assert run.wait() == 1
    [error] = [line for line in run.stderr.splitlines() if line.startswith("Error:")]
    assert 'the embedded server does not start: invalid value for parameter "shared_buffers"' in error
    with pytest.raises(EmbeddedServerError, match="shared_buffers"):
        EmbeddedServer.at(settings.home).join()
