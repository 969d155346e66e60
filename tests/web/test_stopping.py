"""SIGTERM to the application, however it runs: it stops the embedded server if it was the last user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from searchdb.db.embedded import EmbeddedServer
from tests.helpers.waiting import GIVE_UP_S, until

pytestmark = pytest.mark.slow  # runs servers in processes of their own

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "flask run": ("flask", "run"),
    "flask run --debug": ("flask", "run", "--debug"),
    "serve": ("searchdb", "serve"),
    "serve with two workers": ("searchdb", "serve", "--workers", "2"),
    "serve --debug": ("searchdb", "serve", "--debug"),
}


@contextmanager
def running(home: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the application until it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"SEARCHDB_HOME": str(home), "SEARCHDB_MODEL": "demo", "FLASK_APP": "web"}
    command = [sys.executable, "-m", *arguments, f"--port={port}"]
    log = (home.parent / f"{home.name}.log").open("wb")
    with log, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, start_new_session=True) as process:

        def ready() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
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
            Path(log.name).unlink()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_last_user_stops_the_embedded_server(short_home: Path, name: str) -> None:
    server = EmbeddedServer.at(short_home)
    with running(short_home, COMMANDS[name]) as process:
        assert server.is_running()
        process.send_signal(signal.SIGTERM)
        process.wait(GIVE_UP_S)
    assert not server.is_running()


def test_an_interrupted_reloader_leaves_no_server(short_home: Path) -> None:
    server = EmbeddedServer.at(short_home)
    with running(short_home, COMMANDS["serve --debug"]) as process:
        process.send_signal(signal.SIGINT)  # which the reloader does not pass on to its child
        process.wait(GIVE_UP_S)
    assert not server.is_running()


def test_another_user_keeps_the_embedded_server(short_home: Path) -> None:
    server = EmbeddedServer.at(short_home)
    server.join()
    with running(short_home, COMMANDS["flask run"]) as process:
        process.send_signal(signal.SIGTERM)
        process.wait(GIVE_UP_S)
    assert server.is_running()
    server.leave()
    assert not server.is_running()
