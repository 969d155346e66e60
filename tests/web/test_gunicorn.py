"""The application under gunicorn, as it is deployed: what a test client cannot see is how bytes reach the socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from searchdb.config import Settings

if TYPE_CHECKING:
    from tests.web.conftest import Shelf

ROOT = Path(__file__).parents[2]
PATIENCE = 60


@pytest.fixture
def site(settings: Settings) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    assert settings.database_url is not None
    environment = os.environ | {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": "demo",
        "HOME": str(settings.home),  # where gunicorn puts its control socket
    }
    command = [sys.executable, "-m", "gunicorn", "--bind", address, "--threads=4", "web:create_app()"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _wait_until_alive(f"http://{address}/healthz", server)
        yield f"http://{address}"
    finally:
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0, log
    assert "Traceback" not in log, log


def _wait_until_alive(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            requests.get(url, timeout=5).raise_for_status()
        except requests.ConnectionError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("gunicorn does not serve")


def test_pictures_arrive_whole_and_searches_find_them(site: str, shelf: Shelf) -> None:
    image = shelf.folder / "noise.bmp"
    shelf.draw(image.name, size=(400, 300))
    picture = shelf.add("a red boat", image=image)
    with requests.Session() as session:
        for _ in range(2):
            whole = session.get(f"{site}/images/{picture}/file", timeout=PATIENCE)
            assert whole.content == image.read_bytes()
        part = session.get(f"{site}/images/{picture}/file", headers={"Range": "bytes=5000-200000"}, timeout=PATIENCE)
        assert (part.status_code, part.content) == (206, image.read_bytes()[5000:200001])
        head = session.head(f"{site}/images/{picture}/file", timeout=PATIENCE)
        assert head.headers["Content-Length"] == str(image.stat().st_size)
        assert (
            session.get(f"{site}/images/{picture}/thumbnail", timeout=PATIENCE).headers["Content-Type"] == "image/webp"
        )
        found = session.get(f"{site}/", params={"q": "a red boat"}, timeout=PATIENCE)
        assert f'id="picture-{picture}"' in found.text
