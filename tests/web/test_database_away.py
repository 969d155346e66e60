"""The application survives a database that stops and comes back, under load and when idle."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import make_server

from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db import embedded_start
from searchdb.db.connections import Timeouts
from searchdb.db.database import Database
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.schema import migrate
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.stored_images import StoredImages
from tests.helpers.waiting import GIVE_UP_S, until
from web import backend as web_backend
from web import create_app
from web.backend import EXTENSION

pytestmark = pytest.mark.slow  # starts servers of its own

CLIENTS = 16
"""Fewer than connections, so that none is refused because it waits for one."""


class Stoppable:
    """A PostgreSQL server for this module alone, which the application knows only by its URL."""

    def __init__(self, home: Path) -> None:
        self.server = EmbeddedServer.at(home)
        self.server.join()

    def stop(self, how: str = "fast") -> None:
        embedded_start.stop(self.server.data, how)

    def start(self) -> None:
        if not self.server.is_running():
            embedded_start.start(self.server.data)


@pytest.fixture(scope="module")
def stoppable() -> Iterator[Stoppable]:
    home = Path(tempfile.mkdtemp(prefix="sdb-"))
    stoppable = Stoppable(home)
    yield stoppable
    stoppable.start()
    stoppable.server.leave()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def settings(stoppable: Stoppable, tmp_path: Path) -> Settings:
    """Settings for a new database on that server."""
    stoppable.start()
    engine = sa.create_engine(stoppable.server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE IF EXISTS away WITH (FORCE)")
        connection.exec_driver_sql("CREATE DATABASE away")
    engine.dispose()
    url = libpq_url(stoppable.server.url.set(database="away"))
    settings = Settings(database_url=url, home=tmp_path, model="demo")
    with Database(settings) as database:
        migrate(database)
    return settings


@pytest.fixture
def site(
    settings: Settings, stored_images: StoredImages, embedder: CLIPEmbedder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of a page that serves one image, in threads, as many as there are requests.

    A server that is not there refuses connections at once, so that only a busy machine makes requests wait for long.
    """
    patient = replace(web_backend.TIMEOUTS, connect=GIVE_UP_S, pool=GIVE_UP_S, statement=GIVE_UP_S)
    monkeypatch.setattr(web_backend, "TIMEOUTS", patient)
    monkeypatch.setattr(web_backend, "OPEN_WAIT_S", GIVE_UP_S)
    stored_images.add("a red boat")
    app: Flask = create_app(settings, embedder=embedder)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    app.extensions[EXTENSION].close()


def status_of(url: str) -> int:
    """Return the status of the response."""
    response = requests.get(url, timeout=GIVE_UP_S)
    if response.status_code == 503:
        assert int(response.headers["Retry-After"]) > 0
    return response.status_code


def statuses_of(url: str) -> list[int]:
    """Send the request from CLIENTS clients at once, and return the statuses."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        return list(clients.map(status_of, [url] * CLIENTS))


def until_ready(site: str) -> None:
    until(lambda: requests.get(f"{site}/readyz", timeout=GIVE_UP_S).status_code == 200, "the application to recover")


def test_a_database_outage_shows_a_page_and_search_recovers(site: str, stoppable: Stoppable) -> None:
    search, alive, ready = f"{site}/?q=a+red+boat", f"{site}/healthz", f"{site}/readyz"
    assert status_of(ready) == 200
    assert status_of(search) == 200  # from now on the text is cached: the model would be busy with CLIENTS at once
    assert set(statuses_of(search)) == {200}
    for how in ("fast", "immediate"):
        stoppable.stop(how)
        for _ in range(3):
            assert statuses_of(search) == [503] * CLIENTS
            assert status_of(alive) == 200
            assert status_of(ready) == 503
            assert "searchdb_database_up 0.0" in requests.get(f"{site}/metrics", timeout=GIVE_UP_S).text
        assert "The database cannot be reached" in requests.get(search, timeout=GIVE_UP_S).text
        stoppable.start()
        until_ready(site)
        assert statuses_of(search) == [200] * CLIENTS


def test_requests_during_an_outage_end(site: str, stoppable: Stoppable) -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def visit() -> None:
        while not stop.is_set():
            statuses.append(status_of(f"{site}/?q=a+red+boat"))

    visitors = [threading.Thread(target=visit) for _ in range(8)]
    for visitor in visitors:
        visitor.start()
    try:
        until(lambda: 200 in statuses, "a search before the outage")
        stoppable.stop("immediate")
        until(lambda: 503 in statuses, "a search during the outage")
        stoppable.start()
        until_ready(site)
    finally:
        stop.set()
        for visitor in visitors:
            visitor.join(GIVE_UP_S)
    assert not any(visitor.is_alive() for visitor in visitors)
    assert set(statuses) == {200, 503}
    assert status_of(f"{site}/?q=a+red+boat") == 200


def test_a_server_that_does_not_respond_blocks_one_request_at_a_time(
    embedder: CLIPEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its machine hangs: only a timeout ends the wait, and there are few threads."""
    monkeypatch.setattr(web_backend, "REOPEN_INTERVAL_S", 0.0)
    monkeypatch.setattr(web_backend, "TIMEOUTS", Timeouts(connect=2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(2 * CLIENTS)
        silent.setblocking(False)
        url = f"postgresql://someone@127.0.0.1:{silent.getsockname()[1]}/nothing"
        app = create_app(Settings(database_url=url, home=tmp_path, model="demo"), embedder=embedder)
        assert app.test_client().get("/").status_code == 503
        with ThreadPoolExecutor(CLIENTS) as clients:
            statuses = list(clients.map(lambda _: app.test_client().get("/").status_code, range(CLIENTS)))
        assert statuses == [503] * CLIENTS
        app.extensions[EXTENSION].close()
        tries = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                tries += 1
    assert 2 <= tries <= 4, "one before, and one or a few more for all concurrent requests"
