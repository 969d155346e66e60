"""SIGTERM to the application, however it runs: it stops the embedded server if it was the last user."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from searchdb.db.embedded import EmbeddedServer
from tests.helpers import warm_processes
from tests.helpers.waiting import GIVE_UP_S, until

pytestmark = pytest.mark.slow  # runs servers in processes of their own

ROOT = Path(__file__).parents[2]
COMMANDS = ["flask run", "flask run --debug", "searchdb serve", "searchdb serve --workers 2", "searchdb serve --debug"]


@pytest.fixture(scope="module")
def used_home() -> Iterator[Path]:
    """A home for all tests, so that only the first makes a database."""
    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(used_home: Path) -> Iterator[Path]:
    """A home whose server does not run."""
    yield used_home
    EmbeddedServer.at(used_home).stop()


@contextmanager
def running(home: Path, command: str, *, new_interpreter: bool = False) -> Iterator[warm_processes.Process]:
    """Run the application, and wait until it is ready. With --debug its child is a new interpreter anyway."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SEARCHDB_HOME": str(home), "SEARCHDB_MODEL": "demo", "FLASK_APP": "web"}
    begin = warm_processes.start_interpreter if new_interpreter else warm_processes.start
    log = home.parent / f"{home.name}.log"
    with log.open("wb") as stderr:
        process = begin(
            ["-m", *command.split(), f"--port={port}"],
            cwd=ROOT,
            env=environment,
            stderr=stderr,
            start_new_session=True,
        )

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=GIVE_UP_S).status_code == 200
        except requests.ConnectionError:
            return False

    try:
        until(ready, "the application")
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(GIVE_UP_S)
        log.unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_last_user_stops_the_embedded_server(home: Path, command: str) -> None:
    server = EmbeddedServer.at(home)
    with running(home, command, new_interpreter=command == "flask run") as process:
        assert server.is_running()
        process.send_signal(signal.SIGTERM)
        process.wait(GIVE_UP_S)
    assert not server.is_running()


def test_an_interrupted_reloader_leaves_no_server(home: Path) -> None:
    server = EmbeddedServer.at(home)
    with running(home, "searchdb serve --debug") as process:
        process.send_signal(signal.SIGINT)  # which the reloader does not pass on to its child
        process.wait(GIVE_UP_S)
    assert not server.is_running()


def test_another_user_keeps_the_embedded_server(home: Path) -> None:
    server = EmbeddedServer.at(home)
    server.join()
    with running(home, "flask run") as process:
        process.send_signal(signal.SIGTERM)
        process.wait(GIVE_UP_S)
    assert server.is_running()
    server.leave()
    assert not server.is_running()
