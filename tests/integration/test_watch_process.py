"""`searchdb watch` as a process: its output, its end by signals, and a new start after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.config import Settings
from tests.helpers.cli import output, run
from tests.helpers.runs import Runs
from tests.helpers.waiting import until
from tests.helpers.watching import draw, ids, stored, until_equal
from tests.integration.conftest import PHOTOS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_report(
    collection: SearchDB, settings: Settings, runs: Runs, tmp_path: Path, number: signal.Signals
) -> None:
    photos = tmp_path / "photos"
    draw(photos, 4)
    arguments = ("watch", str(photos), "--settle", "0.2", "--json")
    watch = runs.start(*arguments, new_interpreter=number == signal.SIGINT)
    until_equal(collection, photos)
    shown = output(run(settings, "status"))
    assert f"watch     {photos}; " in shown
    assert f"process {watch.pid}" in shown
    [listed] = json.loads(output(run(settings, "status", "--json")))["watches"]
    assert (listed["pid"], listed["paths"], listed["lost"]) == (watch.pid, [str(photos)], False)
    watch.send(number)
    report = watch.report()
    assert (report["stored"], report["removed"], report["failed"]) == (4, 0, {})
    assert "4 stored, 0 removed, 0 failed" in watch.stderr
    assert collection.status().watches == []


def test_a_signal_during_the_first_scan_leaves_the_rest_queued(collection: SearchDB, runs: Runs, photos: Path) -> None:
    watch = runs.start("watch", str(photos), "--json")
    until(lambda: collection.store.counts()["pending"], "the queue")
    watch.send(signal.SIGTERM)
    watch.report()
    counts = collection.store.counts()
    assert counts["images"] + counts["pending"] + counts["failed"] <= PHOTOS
    again = runs.start("watch", str(photos), "--json")
    until(lambda: collection.store.counts()["images"] == PHOTOS, "the rest")
    again.send(signal.SIGTERM)
    assert again.wait() == 0


def test_a_new_start_after_a_kill_catches_up(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    paths = draw(photos, 6)
    killed = runs.start("watch", str(photos), "--settle", "0.2")
    until_equal(collection, photos)
    before = ids(collection)
    killed.kill()
    paths[0].rename(photos / "renamed.jpg")
    paths[1].unlink()
    draw(photos / "new", 2, first=20)
    watch = runs.start("watch", str(photos), "--settle", "0.2")
    until_equal(collection, photos)
    assert ids(collection)[str(photos / "renamed.jpg")] == before[str(paths[0])]
    assert [each.pid for each in collection.status().watches] == [watch.pid]
    watch.send(signal.SIGTERM)
    assert watch.wait() == 0
    assert len(stored(collection)) == 7


def test_wrong_arguments_are_one_line(settings: Settings, tmp_path: Path) -> None:
    result = run(settings, "watch", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"Error: '{tmp_path / 'none'}' does not exist; give a folder"
    assert run(settings, "watch", tmp_path, "--no-prune", "--yes").exit_code == 2
