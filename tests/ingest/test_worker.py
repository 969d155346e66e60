"""Tests a worker in this process: what ends it, what does not, and what becomes of its chunks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager

from searchdb.client import SearchDB
from searchdb.db.tables import ingest_workers
from searchdb.errors import DatabaseError, ModelMismatchError
from searchdb.ingest import preparation
from searchdb.ingest import worker as worker_module
from searchdb.ingest.pipeline import MAX_ATTEMPTS, Ingest
from searchdb.ingest.worker import Worker
from searchdb.records import FetchedImage, ModelIdentity
from tests.helpers.image_server import ImageServer
from tests.helpers.waiting import GIVE_UP_S, until

pytestmark = pytest.mark.slow  # runs whole workers

OTHER_MODEL = ModelIdentity(name="other/model", weights_sha256=b"o" * 32, dimension=512)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for jobs often, and repeat those that fail at once."""
    monkeypatch.setattr(worker_module, "POLL_S", 0.1)
    monkeypatch.setattr(worker_module, "RETRY_S", 0)


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


@pytest.fixture
def listed(image_server: ImageServer, tmp_path: Path) -> Path:
    """A list of six images."""
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{image_server.url(f'/ok.jpg?seed={n}')}\n" for n in range(6)))
    return listed


def enqueue(collection: SearchDB, listed: Path, *, chunk_size: int = 2) -> None:
    collection.ingest_urls(str(listed), enqueue_only=True, chunk_size=chunk_size)


def worker_of(collection: SearchDB, make_ingest: Callable[[], Ingest] | None = None) -> Worker:
    return Worker(database=collection.database, make_ingest=make_ingest or collection._make_ingest)


def job_rows(collection: SearchDB) -> list[sa.RowMapping]:
    with collection.database.connect() as connection:
        return list(connection.execute(sa.text("SELECT * FROM procrastinate_jobs ORDER BY id")).mappings())


def alive(collection: SearchDB) -> int:
    return len(collection.status().queue.workers)


def fail_at(monkeypatch: pytest.MonkeyPatch, ending: str, error: BaseException) -> list[str]:
    """Raise an unexpected error when an image with this ending is decoded; return where it was raised."""
    raised: list[str] = []
    decode = preparation.decode

    def failing(fetched: FetchedImage, **options: Any) -> Any:
        if fetched.item.image.endswith(ending):
            raised.append(fetched.item.image)
            raise error
        return decode(fetched, **options)

    monkeypatch.setattr(preparation, "decode", failing)
    return raised


# --- ending ---------------------------------------------------------------------------------------


def test_an_idle_worker_loads_no_model_and_leaves_no_row(collection: SearchDB) -> None:
    def never() -> Ingest:
        raise AssertionError("nothing is queued")

    worker = worker_of(collection, never)
    worker.start()
    until(lambda: alive(collection) == 1, "the worker")
    worker.stop()
    assert worker.join(GIVE_UP_S)
    assert alive(collection) == 0
    with collection.database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(ingest_workers)) == 0
    assert worker.report.done == 0


@pytest.mark.parametrize("after_s", [None, 0, 0.01, 0.03, 0.1, 0.2, 0.4])
def test_a_stop_is_never_lost(collection: SearchDB, after_s: float | None) -> None:
    worker = worker_of(collection)
    if after_s is None:
        worker.stop()
    worker.start()
    if after_s is not None:
        time.sleep(after_s)
        worker.stop()
    assert worker.join(GIVE_UP_S)
    assert alive(collection) == 0


def test_work_ends_at_once_where_nothing_is_queued(collection: SearchDB) -> None:
    assert collection.work(drain=True).done == 0


def test_work_ends_when_cancelled(collection: SearchDB, listed: Path) -> None:
    enqueue(collection, listed)
    stop = threading.Event()
    report = collection.work(stop=stop, progress=lambda report: stop.set() if report.stored == 6 else None)
    assert report.stored == 6


def test_a_model_other_than_the_collections_ends_the_worker_and_leaves_the_chunk(
    collection: SearchDB, listed: Path, image_server: ImageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = listed.with_name("first.txt")
    first.write_text(image_server.url("/ok.png") + "\n")
    assert collection.ingest_urls(str(first)).stored == 1
    enqueue(collection, listed)
    with monkeypatch.context() as patch:
        patch.setattr(type(collection.embedder), "identity", OTHER_MODEL)
        with pytest.raises(ModelMismatchError, match="other/model"):
            collection.work(drain=True)
    assert image_server.requests["/ok.jpg"] == 0
    assert collection.store.counts() == {"images": 1, "failed": 0, "pending": 6}
    assert {(job["status"], job["attempts"]) for job in job_rows(collection)} == {("todo", 0)}
    assert alive(collection) == 0
    assert collection.work(drain=True).stored == 6


def test_sessions_that_keep_failing_end_the_worker_with_the_error(
    collection: SearchDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "MAX_FAILED_SESSIONS", 1)
    with collection.database.begin() as connection:
        connection.execute(sa.text("DROP TABLE procrastinate_events, procrastinate_workers CASCADE"))
    with pytest.raises(DatabaseError, match="procrastinate_workers"):
        collection.work()


def test_an_unexpected_error_in_the_worker_is_raised(collection: SearchDB, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: Worker) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Worker, "_hold_session", broken)
    with pytest.raises(RuntimeError, match="broken"):
        collection.work()


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("unexpected"), MemoryError()])
def test_an_unexpected_error_costs_one_image(
    collection: SearchDB, listed: Path, image_server: ImageServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    raised = fail_at(monkeypatch, "seed=5", error)
    enqueue(collection, listed)
    collection.work(drain=True, concurrency=1)
    (failure,) = collection.store.failures()
    assert (failure.image, failure.error) == (image_server.url("/ok.jpg?seed=5"), "WorkerLostError")
    assert len(raised) == 2 * MAX_ATTEMPTS
    assert collection.store.counts() == {"images": 5, "failed": 1, "pending": 0}
    assert job_rows(collection) == []


def test_an_ingest_counts_an_unexpected_error_and_ends(
    collection: SearchDB, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, "seed=5", RuntimeError("unexpected"))
    report = collection.ingest_urls(str(listed), chunk_size=2)
    assert (report.stored, dict(report.failed), report.done) == (5, {"WorkerLostError": 1}, 6)


def test_a_worker_considered_dead_goes_on(collection: SearchDB, listed: Path, image_server: ImageServer) -> None:
    worker = worker_of(collection)
    worker.start()
    try:
        until(lambda: alive(collection) == 1, "the worker")
        with collection.database.begin() as connection:
            connection.execute(sa.text("DELETE FROM procrastinate_workers"))
        enqueue(collection, listed)
        until(lambda: collection.store.counts()["images"] == 6, "the images")
        until(collection.queue.is_empty, "the end of the jobs")
        until(lambda: alive(collection) == 1, "the worker's new session")
    finally:
        worker.stop()
        worker.join(GIVE_UP_S)
    assert set(image_server.hits.values()) == {1}


def test_a_lost_connection_is_replaced(collection: SearchDB, listed: Path, image_server: ImageServer) -> None:
    image_server.delay_s = 0.3
    worker = worker_of(collection)
    worker.start()
    try:
        until(lambda: alive(collection) == 1, "the worker")
        enqueue(collection, listed, chunk_size=2)
        until(lambda: image_server.hits, "the first request")
        with collection.database.connect() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(sa.text(f"{others} AND pid <> pg_backend_pid()"))
        until(lambda: collection.store.counts()["images"] == 6, "the images")
    finally:
        worker.stop()
        worker.join(GIVE_UP_S)
    assert set(image_server.hits.values()) == {1}


def test_a_chunk_whose_end_could_not_be_recorded_does_not_stay_in_the_queue(
    collection: SearchDB, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the connection breaks after its images were stored, and the session goes on."""
    monkeypatch.setattr(worker_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(worker_module, "STALLED_AFTER_S", 1.0)
    finish = JobManager.finish_job
    broken: list[object] = []

    async def break_once(self: JobManager, job: Job, status: Status, delete_job: bool) -> None:
        if not broken:
            broken.append(job.id)
            raise ConnectorException
        await finish(self, job, status, delete_job)

    monkeypatch.setattr(JobManager, "finish_job", break_once)
    enqueue(collection, listed)
    stop = threading.Event()
    timer = threading.Timer(30, stop.set)
    timer.start()
    try:
        assert collection.work(drain=True, stop=stop).stored == 6
    finally:
        timer.cancel()
    assert broken
    assert job_rows(collection) == []


def test_a_queue_whose_jobs_were_deleted_is_worked_off_by_the_same_command(collection: SearchDB, listed: Path) -> None:
    enqueue(collection, listed)
    with collection.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM procrastinate_jobs"))
    report = collection.ingest_urls(str(listed))
    assert (report.stored, report.done) == (6, 6)
    assert collection.store.counts() == {"images": 6, "failed": 0, "pending": 0}


def test_a_reference_that_is_named_again_in_another_chunk_counts_once(
    collection: SearchDB, listed: Path, image_server: ImageServer
) -> None:
    listed.write_text(listed.read_text() * 2)
    report = collection.ingest_urls(str(listed), chunk_size=3, retry_failed=True)
    assert collection.store.counts() == {"images": 6, "failed": 0, "pending": 0}
    assert report.stored == 6
    assert report.done == report.total
    assert set(image_server.hits.values()) == {1}


# --- where it runs --------------------------------------------------------------------------------


def test_ingest_works_in_a_thread(collection: SearchDB, listed: Path) -> None:
    stored: list[int] = []
    thread = threading.Thread(target=lambda: stored.append(collection.ingest_urls(str(listed)).stored))
    thread.start()
    thread.join(GIVE_UP_S)
    assert stored == [6]


def test_ingest_works_inside_a_running_event_loop_as_in_a_notebook(collection: SearchDB, listed: Path) -> None:
    async def cell() -> int:
        return collection.ingest_urls(str(listed)).stored

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop running, of the browser's tests
        assert thread.submit(lambda: asyncio.run(cell())).result() == 6


def test_a_second_ingest_in_the_same_process_is_a_new_run(collection: SearchDB, listed: Path) -> None:
    assert collection.ingest_urls(str(listed)).stored == 6
    again = collection.ingest_urls(str(listed))
    assert (again.stored, again.unchanged, again.queued) == (0, 6, 0)


def test_two_workers_in_one_process_share_the_queue(
    collection: SearchDB, listed: Path, image_server: ImageServer
) -> None:
    enqueue(collection, listed, chunk_size=1)
    threads = [threading.Thread(target=lambda: collection.work(drain=True)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(GIVE_UP_S)
        assert not thread.is_alive()
    assert collection.store.counts() == {"images": 6, "failed": 0, "pending": 0}
    assert set(image_server.hits.values()) == {1}
