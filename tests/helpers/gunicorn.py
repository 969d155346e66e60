"""Runs the application under gunicorn, as operators do, and waits until it is ready."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import requests

from searchdb.config import Settings
from tests.helpers import warm_processes
from tests.helpers.waiting import GIVE_UP_S

ROOT = Path(__file__).parents[2]
CONFIGURATION = "python:web.ops.serving"


@dataclass(kw_only=True)
class Server:
    """A running gunicorn; `log` is what it wrote, once it has stopped."""

    url: str
    process: warm_processes.Process
    written: IO[str]
    log: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), GIVE_UP_S)

    def get(self, path: str, **options: object) -> requests.Response:
        return requests.get(self.url + path, timeout=GIVE_UP_S, **options)  # type: ignore[arg-type]

    def ask(self, *headers: str, target: str = "/api/random", version: str = "1.1") -> tuple[int, str]:
        """Send exactly these header lines, in Latin-1; return the answer's status and all of it."""
        lines = (f"GET {target} HTTP/{version}", *headers, "Connection: close", "", "")
        with self.connect() as connection:
            connection.sendall("\r\n".join(lines).encode("latin-1"))
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return int(answer.split(b" ", 2)[1]), answer.decode("utf-8", "replace")

    def until_ready(self) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/readyz").status_code == 200:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.1)
        pytest.fail("gunicorn does not become ready")

    def stop(self) -> None:
        if self.log:
            return
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(GIVE_UP_S)
        with self.written as written:
            written.seek(0)
            self.log = written.read()
        assert self.process.returncode == 0, self.log
        assert "Traceback" not in self.log, self.log


def start(
    settings: Settings,
    *options: str,
    configuration: str = CONFIGURATION,
    new_interpreter: bool = False,
    **environment: str,
) -> Server:
    """Start gunicorn on a free port; the caller waits until it is ready, and stops it.

    It is forked from a process that has imported torch, or a new interpreter, as it must be for a test of its memory,
    or of variables that torch reads when it is imported.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert settings.database_url is not None
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": "demo",
        **environment,
    }
    arguments = ["-m", "gunicorn", f"--config={configuration}", f"--bind={address}", *options]
    # Not a pipe, which would be full after a few hundred requests.
    written = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `stop` closes it
    begin = warm_processes.start_interpreter if new_interpreter else warm_processes.start
    process = begin(arguments, cwd=ROOT, env=environment, stderr=written)
    return Server(url=f"http://{address}", process=process, written=written)


Serve = Callable[..., Server]
"""Starts gunicorn with the options of `start`, and waits until it is ready."""


@contextmanager
def serving(settings: Settings) -> Iterator[Serve]:
    """Give a function that starts gunicorn over the database of the settings; at the end all are stopped."""
    servers: list[Server] = []

    def start_and_wait(*options: str, new_interpreter: bool = False, **environment: str) -> Server:
        servers.append(start(settings, *options, new_interpreter=new_interpreter, **environment))
        servers[-1].until_ready()
        return servers[-1]

    yield start_and_wait
    for server in servers:
        server.stop()
