"""Runs gunicorn with the configuration that operators are told to use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from searchdb.config import Settings
from tests.helpers.waiting import GIVE_UP_S

ROOT = Path(__file__).parents[2]


@dataclass(kw_only=True)
class Server:
    """A running gunicorn; `log` is what it wrote, once it has stopped."""

    url: str
    process: subprocess.Popen[str]
    log: str = ""

    def get(self, path: str, **options: object) -> requests.Response:
        return requests.get(self.url + path, timeout=GIVE_UP_S, **options)  # type: ignore[arg-type]

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
        _, self.log = self.process.communicate(timeout=GIVE_UP_S)
        assert self.process.returncode == 0, self.log
        assert "Traceback" not in self.log, self.log


Serve = Callable[..., Server]
"""Starts gunicorn with environment variables as keyword arguments, and waits until it is ready."""


@contextmanager
def serving(settings: Settings) -> Iterator[Serve]:
    """Give a function that starts gunicorn over the database of the settings; at the end all are stopped."""
    servers: list[Server] = []

    def start(*options: str, **environment: str) -> Server:
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
        config = "--config=python:web.ops.serving"
        command = [sys.executable, "-m", "gunicorn", config, f"--bind={address}", *options]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        servers.append(Server(url=f"http://{address}", process=process))
        servers[-1].until_ready()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
