"""The demo as the README shows it: drawn, ingested, searched from the command line and in SQL, and served."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from searchdb.db.embedded import EmbeddedServer
from tests.helpers import warm_processes
from tests.helpers.waiting import GIVE_UP_S

IMAGES = 400
"""Of the demo's 1,000: enough for each list of five."""
SMALLER = f"""
import functools
import searchdb.demo.album

searchdb.demo.album.draw_album = functools.partial(searchdb.demo.album.draw_album, count={IMAGES})
from searchdb.cli import main
main()
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A SEARCHDB_HOME in which nothing was ever done."""
    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    yield folder
    EmbeddedServer.at(folder).stop()
    shutil.rmtree(folder)


def searchdb(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SEARCHDB_HOME": str(home)}
    return warm_processes.run(["-c", SMALLER, *arguments], env=environment, timeout=GIVE_UP_S)


@pytest.fixture(scope="module")
def demo(home: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """The first run of the demo, in a new interpreter as its users have; later ones need not start PostgreSQL again."""
    done = subprocess.run(
        [sys.executable, "-c", SMALLER, "demo", "--no-serve"],
        env=os.environ | {"SEARCHDB_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_S,
    )
    server = EmbeddedServer.at(home)
    server.join()
    yield done
    server.leave()


def test_the_demo_prints_three_ranked_lists_that_are_right(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stderr
    lists = demo.stdout.split("Ranked results for: ")[1:]
    assert len(lists) == 3
    for block, words in zip(lists, (["red", "car"], ["boat", "sunset"], ["cat", "snow"]), strict=True):
        captions = [line.split(".jpg", 1)[1].lower() for line in block.strip().splitlines()[2:]]
        assert len(captions) == 5
        assert sum(all(word in caption for word in words) for caption in captions) >= 4, block
    assert f"{IMAGES} stored" in demo.stderr


@pytest.mark.usefixtures("demo")
def test_search_finds_boats_at_sunset(home: Path) -> None:
    result = searchdb(home, "search", "a boat at sunset", "--count", "5", "--json")
    hits = json.loads(result.stdout)["hits"]
    assert len(hits) == 5
    assert sum({"boat", "sunset"} <= set(hit["tags"]) for hit in hits) >= 4


@pytest.mark.usefixtures("demo")
def test_sql_ranks_red_cars(home: Path) -> None:
    query = "select id, image, similarity from match_images(text_embedding('a red car'), 0.1, 5)"
    rows = json.loads(searchdb(home, "sql", query, "--json").stdout)["rows"]
    assert len(rows) == 5
    ids = ",".join(str(row["id"]) for row in rows)
    count = f"select count(*) from images where id in ({ids}) and 'red car' = any(tags)"
    assert json.loads(searchdb(home, "sql", count, "--json").stdout)["rows"][0]["count"] >= 4


def test_a_second_run_changes_nothing_and_serves_the_page_until_it_is_stopped(
    home: Path, demo: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    printed, logged = tmp_path / "stdout", tmp_path / "stderr"
    with printed.open("w") as stdout, logged.open("w") as stderr:
        process = warm_processes.start(
            ["-c", SMALLER, "demo", "--port", port],
            env=os.environ | {"SEARCHDB_HOME": str(home)},
            stdout=stdout,
            stderr=stderr,
        )
    try:
        page = wait_for(f"http://127.0.0.1:{port}/?q=a+red+car", process)
        assert "/thumbnail" in page
        taken = searchdb(home, "demo", "--port", port)
        assert taken.returncode == 1
        assert f"port {port} is taken" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(GIVE_UP_S)
    assert status == 0, logged.read_text()
    assert printed.read_text() == demo.stdout
    assert f"0 stored, {IMAGES} unchanged" in logged.read_text()
    assert "Traceback" not in logged.read_text()


def wait_for(url: str, process: warm_processes.Process) -> str:
    """Return the page once it is served."""
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            response = requests.get(url, timeout=GIVE_UP_S)
        except requests.ConnectionError:
            time.sleep(0.2)
            continue
        if response.status_code == 200:
            return response.text
        time.sleep(0.2)
    raise AssertionError(f"{url} was never served")


@pytest.mark.usefixtures("demo")
def test_removing_the_demo_frees_the_collection_for_another_model(home: Path) -> None:
    assert f"removed {IMAGES} images" in searchdb(home, "demo", "--remove").stderr
    status = json.loads(searchdb(home, "status", "--json").stdout)
    assert (status["images"], status["failed"]) == (0, 0)
