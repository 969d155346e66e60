"""The memory of the page while it is sent images and bodies that take much of it."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests

from tests.helpers.helper_processes import helpers_of
from tests.helpers.hostile_files import scan_bomb
from tests.helpers.large_images import LARGE_IMAGES
from tests.helpers.waiting import GIVE_UP_S, until

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from tests.helpers.gunicorn import Serve, Server

ABOVE_IDLE = 1_500_000_000
"""Bytes that a process may take above its idle, with any uploads and the default settings."""


def worker_pid(server: Server) -> int:
    pid = server.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def worker_memory(server: Server, field: str) -> int:
    """Return `VmRSS` or `VmHWM`, its peak, of the only worker, in bytes."""
    lines = Path(f"/proc/{worker_pid(server)}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("stored_images")
def test_three_hostile_uploads_at_once_stay_within_the_bound(serve: Serve) -> None:
    server = serve(new_interpreter=True)
    float_tiff = LARGE_IMAGES["tiff F"](10_000, 10_000)

    def upload(_: int) -> int:
        files = {"image": ("f.tif", float_tiff)}
        return requests.post(f"{server.url}/api/search", files=files, timeout=GIVE_UP_S).status_code

    idle = worker_memory(server, "VmRSS")
    with ThreadPoolExecutor(3) as clients:
        statuses = [*clients.map(upload, range(3)), upload(3)]  # the last one alone: what was freed has returned
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert worker_memory(server, "VmHWM") - idle < ABOVE_IDLE
    assert worker_memory(server, "VmRSS") - idle < ABOVE_IDLE / 5


def test_an_image_that_takes_more_than_the_budget_is_named(client: FlaskClient) -> None:
    webp = LARGE_IMAGES["webp lossless"](10_000, 10_000)
    response = client.post("/api/search", data={"image": (BytesIO(webp), "x.webp")})
    assert response.status_code == 413
    assert "SEARCHDB_DECODE_MEMORY" in response.json["detail"]  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("stored_images")
def test_a_stopping_server_ends_the_decoding_of_costly_images(serve: Serve) -> None:
    server = serve()
    worker = worker_pid(server)
    bomb = scan_bomb(8000, 30)  # few enough scans to be tried

    def upload() -> requests.Response:
        return requests.post(f"{server.url}/api/search", files={"image": ("a.jpg", bomb)}, timeout=GIVE_UP_S)

    with ThreadPoolExecutor(1) as client:
        answer = client.submit(upload)
        until(lambda: helpers_of(worker), "the helper")
        (helper,) = helpers_of(worker)
        server.process.send_signal(signal.SIGTERM)
        assert answer.result().status_code == 503
        assert "Retry-After" in answer.result().headers
    server.process.wait(GIVE_UP_S)
    assert not Path(f"/proc/{helper}").exists()
