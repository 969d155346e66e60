"""A switch to another model by several processes, which are killed in the midst of it, as is its command."""

from __future__ import annotations

import functools
import signal
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.vectors import current_column
from tests.helpers.image_server import ImageServer
from tests.helpers.runs import SHORT_SILENCE, Run, Runs, workers, write_list
from tests.helpers.tiny_models import demo_twin
from tests.helpers.waiting import until

COUNT = 96

SMALL_JOBS = f"""{SHORT_SILENCE}
import searchdb.switch.feed, searchdb.switch.again

searchdb.switch.feed.JOB_IMAGES, searchdb.switch.feed.JOBS_AHEAD, searchdb.switch.again.BATCH = 8, 4, 4
"""
"""Jobs of a few images, so that there is time to interrupt them."""


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_twin(tmp_path_factory.mktemp("models") / "twin", 768)


def similarities(collection: SearchDB) -> np.ndarray:
    """Return the cosines of all pairs of images, in the order of their ids."""
    with collection.database.connect() as connection:
        found = connection.scalars(sa.text("SELECT embedding::vector FROM images ORDER BY id")).all()
    matrix = np.stack([vector.to_numpy() for vector in found])
    return matrix @ matrix.T


def embedded(collection: SearchDB) -> int:
    """The number of images with a vector by the new model."""
    status = collection.switch_status()
    return 0 if status is None else status.done


def assert_switched(collection: SearchDB, before: np.ndarray) -> None:
    after = similarities(collection)
    assert after.shape == before.shape
    assert np.abs(after - before).max() < 0.01  # the processes use the dtype that is fastest here
    with collection.database.connect() as connection:
        assert current_column(connection).dimension == 768
        assert connection.scalar(sa.text("SELECT count(*) FROM unembedded_images")) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM procrastinate_jobs")) == 0
    assert collection.switch_status() is None


def test_killed_workers_and_a_killed_command(collection: SearchDB, runs: Runs, tmp_path: Path, twin: Path) -> None:
    with ImageServer() as server:
        listed = write_list(tmp_path, server, COUNT)
        assert collection.ingest_urls(str(listed)).stored == COUNT
        before = similarities(collection)
        server.delay_s = 0.5

        def command(*, new_interpreter: bool = False) -> Run:
            arguments = ("model", "switch", str(twin), "--json")
            return runs.start(*arguments, before=SMALL_JOBS, new_interpreter=new_interpreter)

        # A worker that was started before the switch, and one after it.
        first = runs.start("worker", before=SMALL_JOBS)
        until(lambda: first.pid in workers(collection), "the first worker")
        switch = command()
        second = runs.start("worker", before=SMALL_JOBS)
        for least, victim in ((8, first), (24, switch), (32, second)):
            reached = functools.partial(lambda least: embedded(collection) >= least, least)
            if victim is second:
                switch = command(new_interpreter=True)
            until(reached, "some images")
            victim.send(signal.SIGKILL)
            victim.process.wait()
        assert len(collection.search("a red car", count=5)) == 5
        report = switch.report()
    assert report["changed"]
    assert report["unembedded"] == []
    assert_switched(collection, before)


def test_two_commands_run_one_switch(collection: SearchDB, runs: Runs, tmp_path: Path, twin: Path) -> None:
    joining = f"""{SMALL_JOBS}
import sys
import searchdb.switch.run

take_lease = searchdb.switch.run.take_lease

def take(engine, switch_id):
    taken = take_lease(engine, switch_id)
    print("runs it" if taken else "waits", file=sys.stderr)
    return taken

searchdb.switch.run.take_lease = take
"""
    with ImageServer() as server:
        listed = write_list(tmp_path, server, COUNT)
        assert collection.ingest_urls(str(listed)).stored == COUNT
        before = similarities(collection)
        both = [runs.start("model", "switch", str(twin), "--no-work", "--json", before=joining) for _ in range(2)]
        until(lambda: sorted(run.stderr.count("runs it") for run in both) == [0, 1], "one that runs the switch")
        until(lambda: any("waits" in run.stderr for run in both), "one that waits")
        runs.start("worker", before=SMALL_JOBS)
        assert [run.report()["changed"] for run in both] == [True, True]
    assert_switched(collection, before)


def test_an_image_that_kills_workers_is_left_out(collection: SearchDB, runs: Runs, tmp_path: Path, twin: Path) -> None:
    # Suspected images are done one by one, and a worker waits for up to POLL_S before each.
    fragile = f"""{SMALL_JOBS}
searchdb.ingest.worker.POLL_S = 0.2
import os
import searchdb.cli.worker, searchdb.client, searchdb.ingest.preparation
import torch, transformers

decode = searchdb.ingest.preparation.decode

def die_at_the_fifth(fetched, **options):
    if fetched.item.image.endswith("seed=5"):
        os._exit(9)
    return decode(fetched, **options)

searchdb.ingest.preparation.decode = die_at_the_fifth
while child := os.fork():
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 9:
        os._exit(status)
"""
    with ImageServer() as server:
        listed = write_list(tmp_path, server, 24)
        assert collection.ingest_urls(str(listed)).stored == 24
        runs.start("worker", before=fragile)
        report = runs.start("model", "switch", str(twin), "--no-work", "--json", before=SMALL_JOBS).report()
    assert [each["error"] for each in report["unembedded"]] == ["WorkerLostError"]
    assert report["unembedded"][0]["image"].endswith("seed=5")
    assert collection.status().unembedded == 1
