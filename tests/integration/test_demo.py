"""The demo as the README shows it: drawn, ingested, searched from the command line and in SQL, and served."""

from __future__ import annotations

import json
import os
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


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A SEARCHDB_HOME in which nothing was ever done."""
    import shutil

    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    yield folder
    EmbeddedServer.at(folder).stop()
    shutil.rmtree(folder)


def searchdb(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SEARCHDB_HOME": str(home)}
    return warm_processes.run(["-m", "searchdb", *arguments], env=environment, timeout=GIVE_UP_S)


@pytest.fixture(scope="module")
def demo(home: Path) -> subprocess.CompletedProcess[str]:
    """The first run of the demo, in a new interpreter as its users have."""
    return subprocess.run(
        [sys.executable, "-m", "searchdb", "demo", "--no-serve"],
        env=os.environ | {"SEARCHDB_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_S,
    )


def test_the_demo_prints_three_ranked_lists_that_are_right(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stderr
    lists = demo.stdout.split("Ranked results for: ")[1:]
    assert len(lists) == 3
    for block, words in zip(lists, (["red", "car"], ["boat", "sunset"], ["cat", "snow"]), strict=True):
        captions = [line.split(".jpg", 1)[1].lower() for line in block.strip().splitlines()[2:]]
        assert len(captions) == 5
        assert sum(all(word in caption for word in words) for caption in captions) >= 4, block
    assert "1,000 stored" in demo.stderr


def test_a_second_run_changes_nothing(home: Path, demo: subprocess.CompletedProcess[str]) -> None:
    again = searchdb(home, "demo", "--no-serve")
    assert again.returncode == 0, again.stderr
    assert "0 stored, 1,000 unchanged" in again.stderr
    assert again.stdout == demo.stdout


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


@pytest.mark.usefixtures("demo")
def test_the_demo_serves_the_page_until_it_is_stopped(home: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "searchdb", "demo", "--port", str(port)],
        env=os.environ | {"SEARCHDB_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        page = wait_for(f"http://127.0.0.1:{port}/?q=a+red+car", process)
        assert "/thumbnail" in page
        taken = searchdb(home, "demo", "--port", str(port))
        assert taken.returncode == 1
        assert f"port {port} is taken" in taken.stderr
    finally:
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=GIVE_UP_S)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output


def wait_for(url: str, process: subprocess.Popen[str]) -> str:
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
    assert "removed 1,000 images" in searchdb(home, "demo", "--remove").stderr
    status = json.loads(searchdb(home, "status", "--json").stdout)
    assert (status["images"], status["failed"]) == (0, 0)
