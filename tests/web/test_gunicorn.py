"""The application under gunicorn, as it is deployed: processes, signals, and how bytes reach the socket."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest
import requests

from tests.helpers.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.helpers.gunicorn import Serve
    from tests.helpers.stored_images import StoredImages


def test_images_are_served_whole_and_searches_find_them(serve: Serve, stored_images: StoredImages) -> None:
    image = stored_images.folder / "noise.bmp"
    stored_images.draw(image.name, size=(400, 300))
    image_id = stored_images.add("a red boat", image=image)
    server = serve()
    for _ in range(2):
        assert server.get(f"/images/{image_id}/file").content == image.read_bytes()
    part = server.get(f"/images/{image_id}/file", headers={"Range": "bytes=5000-200000"})
    assert (part.status_code, part.content) == (206, image.read_bytes()[5000:200001])
    head = requests.head(f"{server.url}/images/{image_id}/file", timeout=GIVE_UP_S)
    assert head.headers["Content-Length"] == str(image.stat().st_size)
    assert server.get(f"/images/{image_id}/thumbnail").headers["Content-Type"] == "image/webp"
    assert f'id="image-{image_id}"' in server.get("/?q=a+red+boat").text


def test_several_workers_count_together_and_log_in_json(serve: Serve, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    # A new interpreter: torch reads OMP_NUM_THREADS, which several workers share, when it is imported.
    server = serve(new_interpreter=True, WEB_CONCURRENCY="2", SEARCHDB_LOG_FORMAT="json")
    for _ in range(20):
        assert server.get("/api/search?q=a+red+boat").status_code == 200
    numbers = server.get("/metrics").text
    line = r'^searchdb_http_requests_total\{method="GET",route="/api/search",status="200"\} (\S+)$'
    assert re.findall(line, numbers, re.MULTILINE) == ["20.0"]
    server.stop()
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert sum(line.get("path") == "/api/search" for line in lines) == 20
    assert any("Booting worker" in line.get("message", "") for line in lines)


def test_a_request_that_has_begun_ends_before_the_server_does(serve: Serve, stored_images: StoredImages) -> None:
    stored_images.add("a red boat")
    server = serve(SEARCHDB_WORK_LIMIT="")
    texts = [f"image number {n} of a long album" for n in range(64)]
    answers: list[int] = []

    def ask() -> None:
        answers.append(
            requests.post(f"{server.url}/api/embeddings", json={"texts": texts}, timeout=GIVE_UP_S).status_code
        )

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + GIVE_UP_S
    while not answers and time.monotonic() < deadline:
        time.sleep(0.001)
    server.stop()
    for client in clients:
        client.join(GIVE_UP_S)
    assert answers == [200] * 3
