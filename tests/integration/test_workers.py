"""Several processes on one queue: they share it, die at it, are stopped in the midst of it, and nothing is lost."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.tables import ingest_chunks, ingest_pending, ingest_workers, procrastinate_jobs
from searchdb.ingest.pipeline import MAX_ATTEMPTS
from tests.helpers.image_server import ImageServer
from tests.helpers.runs import (
    CHUNK,
    IMAGES,
    QUICK_RECOVERY,
    SHORT_SILENCE,
    Runs,
    age_heartbeat,
    assert_complete,
    enqueue,
    workers,
    write_list,
)
from tests.helpers.waiting import until

DEATH = 9
"""Exit status of a worker that an image killed."""


FRAGILE = f"""{SHORT_SILENCE}
import os
import searchdb.cli.worker, searchdb.client, searchdb.ingest.pipeline
import torch, transformers

decode = searchdb.ingest.preparation.decode

def die_at_the_fifth(fetched, **options):
    if fetched.item.image.endswith("seed=5"):
        os._exit({DEATH})
    return decode(fetched, **options)

searchdb.ingest.preparation.decode = die_at_the_fifth
while child := os.fork():
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != {DEATH}:
        os._exit(status)
    print("died", flush=True)
"""
"""A worker that dies at one image, under a supervisor that starts it again."""


def is_done(collection: SearchDB) -> bool:
    return collection.queue.is_empty() and collection.store.counts()["pending"] == 0


@contextmanager
def held_back(collection: SearchDB) -> Iterator[None]:
    """Let no worker take up a chunk meanwhile."""
    with collection.database.begin() as connection:
        connection.execute(sa.text("LOCK TABLE procrastinate_jobs IN EXCLUSIVE MODE"))
        yield


def stored_by(collection: SearchDB) -> Counter[int]:
    """How many images each worker stored, by process id."""
    stored: Counter[int] = Counter()
    with collection.database.connect() as connection:
        for row in connection.execute(sa.select(ingest_chunks)):
            stored[int(row.worker.rpartition(":")[2])] += row.stored
    return stored


def references_held(collection: SearchDB, pid: int) -> set[str]:
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


# --- sharing --------------------------------------------------------------------------------------


def test_three_workers_share_a_queue_and_fetch_no_image_twice(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    with ImageServer(delay_s=0.1) as server:
        listed = write_list(tmp_path, server)
        queueing = runs.start("ingest", "urls", str(listed), "--enqueue-only", "--chunk-size", str(CHUNK), "--json")
        report = queueing.report()
        assert (report["queued"], report["stored"], report["done"]) == (IMAGES, 0, 0)
        assert "searchdb worker" in queueing.stderr
        assert not server.hits
        with held_back(collection):  # so that none is done before the last has begun
            started = [runs.start("worker", "--drain", "--json", "--concurrency", "1") for _ in range(3)]
            until(lambda: len(workers(collection)) == 3, "three workers")
            status = runs.start("status", "--json").report()
            assert {worker["pid"] for worker in status["queue"]["workers"]} == {run.pid for run in started}
            assert (status["pending"], status["queue"]["queued"]) == (IMAGES, IMAGES)
        reports = [run.report() for run in started]
        assert all(report["stored"] > 0 for report in reports), reports
        assert sum(report["stored"] for report in reports) == IMAGES
        assert stored_by(collection) == {
            run.pid: report["stored"] for run, report in zip(started, reports, strict=True)
        }
        assert len(server.hits) == IMAGES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)
    assert workers(collection) == set()


def test_two_ingests_of_one_list_at_once_fetch_each_image_once(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer(delay_s=0.1) as server:
        listed = write_list(tmp_path, server)
        started = [runs.start("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json") for _ in range(2)]
        for run in started:
            report = run.report()
            assert report["stored"] + report["unchanged"] == report["done"] == IMAGES
        assert len(server.hits) == IMAGES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)


def test_an_ingest_and_a_worker_that_waited_share_the_list(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    with ImageServer(delay_s=0.5) as server:
        listed = write_list(tmp_path, server)
        worker = runs.start("worker", "--concurrency", "1")
        until(lambda: workers(collection) == {worker.pid}, "the worker")
        ingest = runs.start("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json")
        report = ingest.report()
        assert report["stored"] == report["done"] == report["total"] == IMAGES
        stored = stored_by(collection)
        assert stored.keys() == {worker.pid, ingest.pid}
        assert min(stored.values()) > 0
        assert set(server.hits.values()) == {1}
        assert worker.process.poll() is None
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert_complete(collection)


# --- stopping -------------------------------------------------------------------------------------


def test_a_worker_told_to_stop_stores_what_it_has_begun_and_requeues_the_rest(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer(delay_s=0.4) as server:
        enqueue(collection, write_list(tmp_path, server))
        worker = runs.start("worker", "--json", new_interpreter=True)
        until(lambda: collection.store.counts()["images"] >= CHUNK, "the first images")
        worker.send(signal.SIGTERM)
        report = worker.report()
        assert "stopping" in worker.stderr
        stored = len(server.hits)
        assert CHUNK <= stored < IMAGES
        assert report["stored"] == stored
        assert collection.store.counts() == {"images": stored, "failed": 0, "pending": IMAGES - stored}
        status = collection.status().queue
        assert (status.queued, status.running, list(status.workers)) == (IMAGES - stored, 0, [])
        report = runs.start("worker", "--drain", "--json").report()
        assert report["stored"] == IMAGES - stored
        assert len(server.hits) == IMAGES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)


def test_an_interrupted_ingest_leaves_the_rest_in_the_queue_and_the_same_command_completes_it(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer(delay_s=0.4) as server:
        listed = write_list(tmp_path, server)
        command = ("ingest", "urls", str(listed), "--chunk-size", str(CHUNK), "--json")
        interrupted = runs.start(*command, new_interpreter=True)
        until(lambda: collection.store.counts()["images"] >= CHUNK, "the first images")
        interrupted.send(signal.SIGINT)
        assert interrupted.wait() == 1
        stored = len(server.hits)
        counts = collection.store.counts()
        assert counts == {"images": stored, "failed": 0, "pending": counts["pending"]}
        assert 0 < counts["pending"] <= IMAGES - stored
        assert re.search(r"stopped: \d+ images are stored", interrupted.stderr)
        assert "the same command" in interrupted.stderr
        assert collection.status().queue.running == 0
        with collection.database.connect() as connection:
            assert set(connection.scalars(sa.select(procrastinate_jobs.c.priority))) == {0}
        report = runs.start(*command).report()
        assert (report["stored"], report["unchanged"]) == (IMAGES - stored, stored)
        assert len(server.hits) == IMAGES
        assert set(server.hits.values()) == {1}
    assert_complete(collection)


# --- dying ----------------------------------------------------------------------------------------


def test_the_chunks_of_a_killed_worker_are_done_by_the_others(collection: SearchDB, runs: Runs, tmp_path: Path) -> None:
    with ImageServer(delay_s=0.4) as server:
        started = [runs.start("worker", "--concurrency", "1", before=QUICK_RECOVERY) for _ in range(3)]
        until(lambda: len(workers(collection)) == 3, "three workers")
        enqueue(collection, write_list(tmp_path, server))
        victim, *others = started

        def stopped_in_the_midst() -> bool:
            victim.send(signal.SIGSTOP)
            if stored_by(collection)[victim.pid] and references_held(collection, victim.pid):
                return True
            victim.send(signal.SIGCONT)
            return False

        until(stopped_in_the_midst, "a chunk in the victim's hands")
        victim.kill()
        lost = references_held(collection, victim.pid)
        assert lost
        age_heartbeat(collection, victim)
        until(lambda: is_done(collection), "the others")
        assert stored_by(collection).keys() == {run.pid for run in started}
        twice = {server.url(path) for path, hits in server.hits.items() if hits > 1}
        assert twice <= lost
        assert max(server.hits.values()) <= 2
        assert any("1 chunk of dead workers" in run.stderr for run in others)
        for run in others:  # which wait for more
            assert run.process.poll() is None
            run.send(signal.SIGTERM)
        assert [run.wait() for run in others] == [0, 0]
    assert_complete(collection)


def test_an_image_that_kills_every_worker_becomes_a_failure_and_affects_no_other(
    collection: SearchDB, runs: Runs, tmp_path: Path
) -> None:
    with ImageServer() as server:
        enqueue(collection, write_list(tmp_path, server, 32), chunk_size=8)
        supervised = runs.start("worker", "--drain", "--concurrency", "1", before=FRAGILE)
        assert supervised.wait() == 0, supervised.stderr
        assert supervised.stdout.count("died") == 2 * MAX_ATTEMPTS
        (failure,) = collection.store.failures()
        assert (failure.image, failure.error) == (server.url("/ok.jpg?seed=5"), "WorkerLostError")
        assert f"{MAX_ATTEMPTS} workers" in failure.message
        assert collection.store.counts() == {"images": 31, "failed": 1, "pending": 0}
        assert collection.queue.is_empty()
