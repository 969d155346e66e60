"""Several processes on one queue: they share it, die at it, are stopped in the midst of it, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import ingest_chunks, ingest_pending, ingest_workers, procrastinate_jobs
from searchdb.ingest.pipeline import MAX_ATTEMPTS
from tests.helpers.image_server import PictureServer

PICTURES = 160
CHUNK = 16
DEATH = 9
"""Exit status of a worker that a picture killed."""

SHORT_SILENCE = """
import searchdb.ingest.worker, searchdb.ingest.queue
from searchdb.db.tables import procrastinate_workers
import sqlalchemy

searchdb.ingest.worker.HEARTBEAT_S, searchdb.ingest.worker.STALLED_AFTER_S = 0.2, 2.0
searchdb.ingest.queue.ALIVE = procrastinate_workers.c.last_heartbeat > sqlalchemy.text("now() - interval '2 seconds'")
"""
"""A worker that takes another for dead after two seconds of silence."""

FRAGILE = f"""{SHORT_SILENCE}
import os
import searchdb.cli.worker, searchdb.client, searchdb.ingest.pipeline
import torch, transformers

decode = searchdb.ingest.pipeline.decode

def die_at_the_fifth(fetched, **options):
    if fetched.item.image.endswith("seed=5"):
        os._exit({DEATH})
    return decode(fetched, **options)

searchdb.ingest.pipeline.decode = die_at_the_fifth
while child := os.fork():
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != {DEATH}:
        os._exit(status)
    print("died", flush=True)
"""
"""A worker that dies at one picture, under a supervisor that starts it again."""


class Run:
    """One searchdb process. What it prints goes to files, so that it never waits for its reader."""

    def __init__(self, settings: Settings, output: Path, arguments: Sequence[str], *, before: str = "") -> None:
        assert settings.database_url is not None
        environment = os.environ | {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "SEARCHDB_HOME": str(settings.home),
            "SEARCHDB_MODEL": "demo",
            "SEARCHDB_ALLOW_PRIVATE_ADDRESSES": "1",
            "SEARCHDB_MAX_IMAGE_BYTES": "1000000",
        }
        program = ["-c", f"{before}\nfrom searchdb.cli import main\nmain()"] if before else ["-m", "searchdb"]
        self._stdout, self._stderr = output.with_suffix(".out"), output.with_suffix(".err")
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                env=environment,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait(self, timeout_s: float = 120) -> int:
        """Return the exit status; there was no traceback."""
        status = self.process.wait(timeout=timeout_s)
        assert "Traceback" not in self.stderr, self.stderr
        return status

    def report(self, timeout_s: float = 120) -> dict[str, Any]:
        """Return the report of a run that ended well."""
        assert self.wait(timeout_s) == 0, self.stderr
        return json.loads(self.stdout)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it and what it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=60)


class Runs:
    """Starts searchdb processes; those that still live at the end of its `with` are killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._runs: list[Run] = []

    def start(self, *arguments: str, before: str = "") -> Run:
        output = self._folder / f"run-{len(self._runs)}"
        run = Run(self._settings, output, arguments, before=before)
        self._runs.append(run)
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.kill()


def until(condition: Callable[[], object], what: str, *, timeout_s: float = 120) -> None:
    """Wait for a condition that is certain to come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Iterator[Runs]:
    """Starts processes on the test's collection."""
    with Runs(settings, tmp_path) as runs:
        yield runs


def write_list(folder: Path, server: PictureServer, count: int = PICTURES) -> Path:
    """Write a list of so many different pictures."""
    listed = folder / "list.tsv"
    lines = (f"{server.url(f'/ok.jpg?seed={n}')}\tpicture {n}\n" for n in range(count))
    listed.write_text("url\tdescription\n" + "".join(lines))
    return listed


def enqueue(collection: SearchDB, listed: Path, *, chunk_size: int = CHUNK) -> None:
    collection.ingest_urls(str(listed), enqueue_only=True, chunk_size=chunk_size)


def is_done(collection: SearchDB) -> bool:
    return collection.queue.is_empty() and collection.store.counts()["pending"] == 0


def workers(collection: SearchDB) -> set[int]:
    """The process ids of the workers that are alive."""
    return {worker.pid for worker in collection.status().queue.workers}


@contextmanager
def held_back(collection: SearchDB) -> Iterator[None]:
    """Let no worker take up a chunk meanwhile."""
    with collection.database.begin() as connection:
        connection.execute(sa.text("LOCK TABLE procrastinate_jobs IN EXCLUSIVE MODE"))
        yield


def stored_by(collection: SearchDB) -> Counter[int]:
    """How many pictures each worker stored, by process id."""
    stored: Counter[int] = Counter()
    with collection.database.connect() as connection:
        for row in connection.execute(sa.select(ingest_chunks)):
            stored[int(row.worker.rpartition(":")[2])] += row.stored
    return stored


def in_hand(collection: SearchDB, pid: int) -> set[str]:
    """The references in the chunks that a worker holds."""
    jobs = procrastinate_jobs.c
    statement = (
        sa.select(ingest_pending.c.image)
        .join(procrastinate_jobs, jobs.id == ingest_pending.c.job_id)
        .join(ingest_workers, ingest_workers.c.id == jobs.worker_id)
        .where(ingest_workers.c.pid == pid, jobs.status == "doing")
    )
    with collection.database.connect() as connection:
        return set(connection.scalars(statement))


def assert_complete(collection: SearchDB, count: int = PICTURES) -> None:
    assert collection.store.counts() == {"images": count, "failed": 0, "pending": 0}
    status = collection.status().queue
    assert (status.queued, status.running) == (0, 0)
    with collection.database.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM procrastinate_jobs")).mappings().all() == []


# --- sharing --------------------------------------------------------------------------------------


def test_three_workers_share_a_queue_and_fetch_no_picture_twice(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with PictureServer(delay_s=0.1) as server:
        listed = write_list(tmp_path, server)
        queueing = runs.start("ingest", "urls", str(listed), "--enqueue-only", "--chunk-size", str(CHUNK), "--json")
        report = queueing.report()
        assert (report["queued"], report["stored"], report["done"]) == (PICTURES, 0, 0)
        assert "searchdb worker" in queueing.stderr
        assert not server.hits
        with held_back(collection):  # so that none is done before the last has begun
            started = [runs.start("worker", "--drain", "--json", "--concurrency", "1") for _ in range(3)]
            until(lambda: len(workers(collection)) == 3, "three workers")
            status = runs.start("status", "--json").report()
            assert {worker["pid"] for worker in status["queue"]["workers"]} == {run.pid for run in started}
            assert (status["pending"], status["queue"]["queued"]) == (PICTURES, PICTURES)
        reports = [run.report() for run in started]
        assert all(report["stored"] > 0 for report in reports), reports
        assert sum(report["stored"] for report in reports) == PICTURES
        assert stored_by(collection) == {
            run.pid: report["stored"] for run, report in zip(started, reports, strict=True)
        }
        assert len(server.hits) == PICTURES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)
    assert workers(collection) == set()


def test_two_ingests_of_one_list_at_once_fetch_each_picture_once(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with PictureServer(delay_s=0.1) as server:
        listed = write_list(tmp_path, server)
        started = [runs.start("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json") for _ in range(2)]
        for run in started:
            report = run.report()
            assert report["stored"] + report["unchanged"] == report["done"] == PICTURES
        assert len(server.hits) == PICTURES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)


def test_an_ingest_and_a_worker_that_waited_share_the_list(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    with PictureServer(delay_s=0.5) as server:
        listed = write_list(tmp_path, server)
        worker = runs.start("worker", "--concurrency", "1")
        until(lambda: workers(collection) == {worker.pid}, "the worker")
        ingest = runs.start("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json")
        report = ingest.report()
        assert report["stored"] == report["done"] == report["total"] == PICTURES
        stored = stored_by(collection)
        assert stored.keys() == {worker.pid, ingest.pid}
        assert min(stored.values()) > 0
        assert set(server.hits.values()) == {1}
        assert worker.process.poll() is None
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert_complete(collection)


# --- stopping -------------------------------------------------------------------------------------


def test_a_worker_that_is_told_to_end_stores_what_it_has_begun_and_gives_back_the_rest(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with PictureServer(delay_s=0.2) as server:
        enqueue(collection, write_list(tmp_path, server))
        worker = runs.start("worker", "--json")
        until(lambda: collection.store.counts()["images"] >= CHUNK, "the first pictures")
        worker.send(signal.SIGTERM)
        report = worker.report()
        assert "stopping" in worker.stderr
        stored = len(server.hits)
        assert CHUNK <= stored < PICTURES
        assert report["stored"] == stored
        assert collection.store.counts() == {"images": stored, "failed": 0, "pending": PICTURES - stored}
        status = collection.status().queue
        assert (status.queued, status.running, list(status.workers)) == (PICTURES - stored, 0, [])
        report = runs.start("worker", "--drain", "--json").report()
        assert report["stored"] == PICTURES - stored
        assert len(server.hits) == PICTURES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)


def test_an_interrupted_ingest_leaves_the_rest_in_the_queue_and_the_same_command_completes_it(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with PictureServer(delay_s=0.2) as server:
        listed = write_list(tmp_path, server)
        command = ("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json")
        interrupted = runs.start(*command)
        until(lambda: collection.store.counts()["images"] >= CHUNK, "the first pictures")
        interrupted.send(signal.SIGINT)
        assert interrupted.wait() == 1
        stored = len(server.hits)
        counts = collection.store.counts()
        assert counts == {"images": stored, "failed": 0, "pending": counts["pending"]}
        assert 0 < counts["pending"] <= PICTURES - stored
        assert re.search(r"stopped; \d+ pictures were stored before that and stay", interrupted.stderr)
        assert "the same command" in interrupted.stderr
        assert collection.status().queue.running == 0
        with collection.database.connect() as connection:
            assert set(connection.scalars(sa.select(procrastinate_jobs.c.priority))) == {0}
        report = runs.start(*command).report()
        assert (report["stored"], report["unchanged"]) == (PICTURES - stored, stored)
        assert len(server.hits) == PICTURES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)


# --- dying ----------------------------------------------------------------------------------------


def test_the_chunks_of_a_killed_worker_are_done_by_the_others(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    with PictureServer(delay_s=0.2) as server:
        started = [runs.start("worker", "--concurrency", "1") for _ in range(3)]
        until(lambda: len(workers(collection)) == 3, "three workers")
        enqueue(collection, write_list(tmp_path, server))
        victim, *others = started

        def stopped_in_the_midst() -> bool:
            victim.send(signal.SIGSTOP)
            if stored_by(collection)[victim.pid] and in_hand(collection, victim.pid):
                return True
            victim.send(signal.SIGCONT)
            return False

        until(stopped_in_the_midst, "a chunk in the victim's hands")
        victim.kill()
        lost = in_hand(collection, victim.pid)
        assert lost
        until(lambda: is_done(collection), "the others", timeout_s=120)
        assert stored_by(collection).keys() == {run.pid for run in started}
        twice = {server.url(path) for path, hits in server.hits.items() if hits > 1}
        assert twice <= lost
        assert max(server.hits.values()) <= 2
        assert any("1 chunks of dead workers" in run.stderr for run in others)
        for run in others:  # which wait for more
            assert run.process.poll() is None
            run.send(signal.SIGTERM)
        assert [run.wait() for run in others] == [0, 0]
    assert_complete(collection)


def test_a_picture_at_which_every_worker_dies_becomes_a_failure_and_harms_no_other(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with PictureServer() as server:
        enqueue(collection, write_list(tmp_path, server, 32), chunk_size=8)
        supervised = runs.start("worker", "--drain", "--concurrency", "1", before=FRAGILE)
        assert supervised.wait() == 0, supervised.stderr
        assert supervised.stdout.count("died") == 2 * MAX_ATTEMPTS
        (failure,) = collection.store.failures()
        assert (failure.image, failure.error) == (server.url("/ok.jpg?seed=5"), "WorkerLostError")
        assert f"{MAX_ATTEMPTS} workers" in failure.message
        assert collection.store.counts() == {"images": 31, "failed": 1, "pending": 0}
        assert collection.queue.is_empty()
