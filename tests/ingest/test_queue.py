"""Tests the queue against a real database: no reference is ever lost, whatever happens to workers and jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from PIL import Image

from searchdb.cli.prose import describe_queue, describe_worker
from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.tables import images, ingest_chunks, ingest_failures, ingest_pending, ingest_workers
from searchdb.errors import TransferError, WorkerLostError
from searchdb.ingest.queue import ISOLATED, URGENT, URL_QUEUE, Queue, RunProgress, files_queue, queues
from searchdb.ingest.store import Store
from searchdb.records import ChunkOutcome, DecodedImage, EmbeddedImage, FailedImage, ModelIdentity, SourceItem
from searchdb.status import collection_status

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32, dimension=512)
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
RUN, OTHER_RUN = UUID(int=1), UUID(int=2)


class Backlog:
    """The queue and store of one database, and what Procrastinate's workers do there, by its own SQL functions."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.queue = Queue(database.engine)
        self.store = Store(database.engine)

    def put(self, items: Sequence[SourceItem], run: UUID = RUN, *, urgent: bool = False) -> int:
        return self.queue.put(items, run, urgent=urgent)

    def new_worker(self) -> int:
        worker = self._scalar("SELECT worker_id FROM procrastinate_register_worker_v1()")
        self.queue.register_worker(worker)
        return worker

    def fetch(self, worker: int) -> int | None:
        """Fetch a chunk as that worker; return its job id."""
        return self._scalar(
            "SELECT id FROM procrastinate_fetch_job_v2(CAST(:queues AS varchar[]), :worker)",
            queues=queues(),
            worker=worker,
        )

    def finish(self, job: int) -> None:
        """Delete a finished job, if it still exists."""
        if self._scalar("SELECT id FROM procrastinate_jobs WHERE id = :job", job=job):
            self._scalar("SELECT procrastinate_finish_job_v1(:job, 'succeeded', true)", job=job)

    def delete(self, job: int) -> None:
        self._scalar("DELETE FROM procrastinate_jobs WHERE id = :job RETURNING 1", job=job)

    def silence(self, worker: int) -> None:
        """Make a worker look dead: its last heartbeat is a day old."""
        self._scalar(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 day' WHERE id = :id RETURNING 1",
            id=worker,
        )

    def record(
        self,
        job: int,
        *,
        stored: Iterable[SourceItem] = (),
        failed: Iterable[SourceItem] = (),
        unchanged: Iterable[SourceItem] = (),
        copied: Iterable[SourceItem] = (),
    ) -> None:
        outcome = ChunkOutcome(
            job_id=job,
            embedded=[embedded(item) for item in stored],
            failed=[FailedImage(image=i.image, source=i.source, error=TransferError("no"), item=i) for i in failed],
            unchanged=[item.image for item in unchanged],
            copied=frozenset(item.image for item in copied),
        )
        self.store.record_outcome(outcome, MODEL, worker="here:1")

    def jobs(self) -> list[sa.RowMapping]:
        with self.database.connect() as connection:
            return list(connection.execute(sa.text("SELECT * FROM procrastinate_jobs ORDER BY id")).mappings())

    def pending(self) -> dict[str, sa.RowMapping]:
        with self.database.connect() as connection:
            return {row["image"]: row for row in connection.execute(sa.select(ingest_pending)).mappings()}

    def chunks(self) -> list[set[str]]:
        """The references of each job, in the order of the jobs."""
        return [{item.image for item in self.queue.chunk(job["id"])} for job in self.jobs()]

    def _scalar(self, statement: str, **values: Any) -> Any:
        with self.database.begin() as connection:
            return connection.scalar(sa.text(statement), values)


def url(n: int) -> SourceItem:
    return SourceItem(image=f"https://example.org/{n}.jpg", source="urls", description=f"image {n}", tags=["a", "b"])


def file(n: int) -> SourceItem:
    return SourceItem(image=f"/images/{n}.jpg", source="files", byte_size=n, modified_at=NOON)


def embedded(item: SourceItem) -> EmbeddedImage:
    vector = np.zeros(512, np.float32)
    vector[0] = 1
    pixels = Image.new("RGB", (1, 1))
    decoded = DecodedImage(item=item, pixels=pixels, sha256=b"s" * 32, byte_size=10, width=30, height=20)
    return EmbeddedImage(decoded=decoded, embedding=vector)


@pytest.fixture
def backlog(database: Database, settings: Settings) -> Backlog:
    return Backlog(database, settings)


# --- adding ---------------------------------------------------------------------------------------


def test_a_chunk_holds_the_items_that_were_queued(backlog: Backlog) -> None:
    items = [url(2), url(1), SourceItem(image="https://example.org/0.jpg", source="urls", taken_at=NOON, latitude=1.5)]
    assert backlog.put(items) == 3
    (job,) = backlog.jobs()
    assert (job["queue_name"], job["priority"], job["status"]) == (URL_QUEUE, 0, "todo")
    assert sorted(backlog.queue.chunk(job["id"]), key=lambda item: item.image) == sorted(items, key=lambda i: i.image)


def test_text_that_the_database_cannot_hold_is_made_storable(backlog: Backlog) -> None:
    backlog.put([SourceItem(image="https://example.org/a.jpg", source="urls", description="a\0b\ud800c")])
    ((item,),) = [backlog.queue.chunk(job["id"]) for job in backlog.jobs()]
    assert item.description == "a\ufffdb\ufffdc"


def test_files_are_queued_for_this_machine_and_urls_for_all(backlog: Backlog) -> None:
    assert backlog.put([url(1), file(1), url(2), file(2)], urgent=True) == 4
    assert {job["queue_name"]: job["priority"] for job in backlog.jobs()} == {URL_QUEUE: URGENT, files_queue(): 1}
    assert backlog.chunks() == [{url(1).image, url(2).image}, {file(1).image, file(2).image}]
    assert queues() == [URL_QUEUE, files_queue()]


def test_nothing_to_queue_makes_no_job(backlog: Backlog) -> None:
    assert backlog.put([]) == 0
    assert backlog.jobs() == []


def test_a_reference_queued_by_two_runs_stays_in_its_chunk_and_counts_once_for_each(backlog: Backlog) -> None:
    assert backlog.put([url(1), url(2)], RUN) == 2
    assert backlog.put([url(2), url(3)], OTHER_RUN) == 2
    assert backlog.put([url(2), url(3)], OTHER_RUN) == 0
    assert backlog.chunks() == [{url(1).image, url(2).image}, {url(3).image}]
    assert backlog.pending()[url(2).image]["run_ids"] == [RUN, OTHER_RUN]
    for job in backlog.jobs():
        backlog.record(job["id"], stored=backlog.queue.chunk(job["id"]), copied=[url(2)])
    assert backlog.queue.progress(RUN) == RunProgress(stored=2, copied=1, unchanged=0, failed={})
    assert backlog.queue.progress(OTHER_RUN) == RunProgress(stored=2, copied=1, unchanged=0, failed={})
    assert backlog.queue.progress(uuid4()).done == 0


def test_urgent_chunks_go_first_until_their_run_is_deprioritized(backlog: Backlog) -> None:
    backlog.put([url(1)], RUN)
    backlog.put([url(2)], OTHER_RUN, urgent=True)
    backlog.put([url(1)], OTHER_RUN, urgent=True)
    assert [job["priority"] for job in backlog.jobs()] == [URGENT, URGENT]
    backlog.queue.deprioritize(OTHER_RUN)
    assert [job["priority"] for job in backlog.jobs()] == [0, 0]


def test_a_file_queued_by_another_machine_moves_to_this_one_when_queued_again_here(backlog: Backlog) -> None:
    backlog.put([file(1)])
    with backlog.database.begin() as connection:
        connection.execute(sa.text("UPDATE procrastinate_jobs SET queue_name = 'files-of-another'"))
    assert backlog.queue.is_empty()
    backlog.put([file(1)], OTHER_RUN)
    assert [job["queue_name"] for job in backlog.jobs()] == [files_queue()]
    assert not backlog.queue.is_empty()


# --- working off ----------------------------------------------------------------------------------


def test_recording_an_outcome_moves_references_from_the_queue_to_images_and_failures(backlog: Backlog) -> None:
    backlog.put([url(n) for n in range(5)])
    job = backlog.fetch(backlog.new_worker())
    assert job is not None
    assert backlog.store.counts() == {"images": 0, "failed": 0, "pending": 5}
    backlog.record(job, stored=[url(0), url(1)], failed=[url(2)], copied=[url(1)])
    assert backlog.store.counts() == {"images": 2, "failed": 1, "pending": 2}
    assert backlog.queue.progress(RUN) == RunProgress(stored=2, copied=1, unchanged=0, failed={"TransferError": 1})
    assert [item.image for item in backlog.queue.chunk(job)] == [url(3).image, url(4).image]
    backlog.record(job, unchanged=[url(3)], failed=[url(4)])
    assert backlog.queue.progress(RUN) == RunProgress(stored=2, copied=1, unchanged=1, failed={"TransferError": 2})
    assert backlog.queue.progress(RUN).done == 5


def test_an_outcome_recorded_by_two_workers_counts_once(backlog: Backlog) -> None:
    backlog.put([url(1), url(2)])
    job = backlog.fetch(backlog.new_worker())
    assert job is not None
    for _ in range(2):
        backlog.record(job, stored=[url(1)], failed=[url(2)])
    assert backlog.store.counts() == {"images": 1, "failed": 1, "pending": 0}
    assert backlog.queue.progress(RUN).done == 2


def test_a_requeued_chunk_ignores_outcomes_of_its_old_job(backlog: Backlog) -> None:
    backlog.put([url(1)])
    job = backlog.fetch(backlog.new_worker())
    assert job is not None
    backlog.queue.requeue_chunk(job)
    backlog.record(job, failed=[url(1)])
    assert backlog.queue.progress(RUN).done == 0
    assert backlog.pending().keys() == {url(1).image}


def test_a_requeued_chunk_waits_as_if_no_worker_had_taken_it(backlog: Backlog) -> None:
    backlog.put([url(n) for n in range(3)], urgent=True)
    worker = backlog.new_worker()
    job = backlog.fetch(worker)
    assert job is not None
    backlog.record(job, stored=[url(0)])
    backlog.queue.requeue_chunk(job)
    backlog.finish(job)
    (fresh,) = backlog.jobs()
    assert (fresh["status"], fresh["priority"], fresh["attempts"], fresh["worker_id"]) == ("todo", URGENT, 0, None)
    assert backlog.chunks() == [{url(1).image, url(2).image}]
    assert backlog.fetch(worker) == fresh["id"]


def test_requeuing_a_finished_chunk_creates_no_job(backlog: Backlog) -> None:
    backlog.put([url(1)])
    job = backlog.fetch(backlog.new_worker())
    assert job is not None
    backlog.record(job, stored=[url(1)])
    backlog.queue.requeue_chunk(job)
    backlog.finish(job)
    assert backlog.jobs() == []


def test_isolated_chunks_run_one_at_a_time(backlog: Backlog) -> None:
    backlog.put([url(1), url(2)], urgent=True)
    backlog.put([url(3)], urgent=True)
    worker = backlog.new_worker()
    for _ in range(2):
        job = backlog.fetch(worker)
        assert job is not None
        backlog.queue.isolate_chunk(job)
        backlog.finish(job)
    assert [(job["lock"], job["attempts"]) for job in backlog.jobs()] == [(ISOLATED, 0)] * 2
    assert backlog.chunks() == [{url(1).image, url(2).image}, {url(3).image}]
    for items in ([url(1), url(2)], [url(3)]):
        isolated = backlog.fetch(worker)
        assert isolated is not None
        assert backlog.fetch(worker) is None
        backlog.record(isolated, stored=items)
        backlog.finish(isolated)
    assert backlog.queue.is_empty()


def test_attempts_are_counted_for_each_image(backlog: Backlog) -> None:
    backlog.put([url(1), url(2)])
    assert [backlog.queue.count_attempt(url(1).image) for _ in range(3)] == [1, 2, 3]
    assert backlog.queue.count_attempt(url(2).image) == 1


def test_jobs_that_their_worker_does_not_know_are_reset(backlog: Backlog) -> None:
    backlog.put([url(1)])
    backlog.put([url(2)])
    worker = backlog.new_worker()
    lost, held = backlog.fetch(worker), backlog.fetch(worker)
    assert lost is not None
    assert backlog.queue.jobs_of_worker(worker) == {lost, held}
    backlog.queue.reset_jobs([lost])
    assert backlog.queue.jobs_of_worker(worker) == {held}
    assert backlog.fetch(backlog.new_worker()) == lost


# --- workers and maintenance ----------------------------------------------------------------------


def test_only_the_chunks_of_dead_workers_are_recovered(backlog: Backlog) -> None:
    for n in range(3):
        backlog.put([url(n)])
    dead, alive = backlog.new_worker(), backlog.new_worker()
    lost, held = backlog.fetch(dead), backlog.fetch(alive)
    backlog.silence(dead)
    backlog.silence(alive)
    backlog.queue.record_heartbeat(alive)
    assert backlog.queue.recover() == 1
    states = {job["id"]: (job["status"], job["attempts"], job["worker_id"]) for job in backlog.jobs()}
    assert states[lost] == ("todo", 1, None)
    assert states[held] == ("doing", 0, alive)
    assert backlog.queue.recover() == 0
    with backlog.database.connect() as connection:
        assert list(connection.scalars(sa.select(ingest_workers.c.id))) == [alive]
    assert len(collection_status(backlog.database, backlog.settings).queue.workers) == 1


def test_a_chunk_whose_worker_has_no_row_is_recovered(backlog: Backlog) -> None:
    backlog.put([url(1)])
    worker = backlog.new_worker()
    backlog.fetch(worker)
    with backlog.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM procrastinate_workers"))
    assert backlog.queue.recover() == 1
    assert [job["status"] for job in backlog.jobs()] == ["todo"]


@pytest.mark.parametrize("status", [None, "cancelled", "failed", "succeeded", "aborted"])
def test_a_chunk_whose_job_was_deleted_or_ended_gets_a_new_one(backlog: Backlog, status: str | None) -> None:
    backlog.put([url(1), url(2)])
    backlog.put([url(3)])
    old, other = backlog.jobs()
    with backlog.database.begin() as connection:
        if status is None:
            connection.execute(sa.text("DELETE FROM procrastinate_jobs WHERE id = :id"), {"id": old["id"]})
        else:
            statement = (
                "UPDATE procrastinate_jobs SET status = CAST(:status AS procrastinate_job_status) WHERE id = :id"
            )
            connection.execute(sa.text(statement), {"id": old["id"], "status": status})
    backlog.queue.tidy()
    pending = backlog.pending()
    assert pending[url(3).image]["job_id"] == other["id"]
    (fresh,) = {pending[url(n).image]["job_id"] for n in (1, 2)}
    (job,) = [job for job in backlog.jobs() if job["id"] == fresh]
    assert fresh != old["id"]
    assert (job["status"], job["queue_name"]) == ("todo", URL_QUEUE)


def test_old_records_of_finished_chunks_are_deleted(backlog: Backlog) -> None:
    backlog.put([url(1)], RUN)
    backlog.record(backlog.jobs()[0]["id"], stored=[url(1)])
    backlog.put([url(2)], OTHER_RUN)
    backlog.record(backlog.jobs()[1]["id"], stored=[url(2)])
    with backlog.database.begin() as connection:
        old = sa.update(ingest_chunks).where(ingest_chunks.c.run_id == RUN)
        connection.execute(old.values(finished_at=sa.text("now() - interval '31 days'")))
    backlog.queue.tidy()
    assert (backlog.queue.progress(RUN).done, backlog.queue.progress(OTHER_RUN).done) == (0, 1)


# --- state ----------------------------------------------------------------------------------------


def test_the_status_shows_waiting_and_running_references_workers_and_rate(backlog: Backlog) -> None:
    assert describe_queue(collection_status(backlog.database, backlog.settings).queue).startswith(
        "0 queued, 0 running, 0.0/s"
    )
    backlog.put([url(n) for n in range(30)])
    backlog.put([url(n) for n in range(30, 40)])
    worker = backlog.new_worker()
    job = backlog.fetch(worker)
    assert job is not None
    backlog.record(job, stored=[url(n) for n in range(12)], failed=[url(n) for n in range(12, 18)])
    status = collection_status(backlog.database, backlog.settings)
    assert (status.images, status.failed, status.pending) == (12, 6, 22)
    assert sum(status.failures.values()) == status.failed
    assert (status.queue.queued, status.queue.running) == (10, 12)
    assert status.queue.rate_per_s == pytest.approx(18 / 60)
    assert len(status.queue.workers) == 1
    assert "process" in describe_worker(status.queue.workers[0])


def test_the_queue_is_empty_when_no_chunk_waits_or_runs(backlog: Backlog) -> None:
    assert backlog.queue.is_empty()
    backlog.put([url(1)])
    assert not backlog.queue.is_empty()
    job = backlog.fetch(backlog.new_worker())
    assert job is not None
    assert not backlog.queue.is_empty()
    backlog.record(job, stored=[url(1)])
    backlog.finish(job)
    assert backlog.queue.is_empty()


def test_a_reference_counts_once_in_several_states(backlog: Backlog) -> None:
    backlog.put([url(n) for n in range(4)])
    job = backlog.jobs()[0]["id"]
    backlog.record(job, stored=[url(0), url(1)], failed=[url(2)])
    backlog.put([url(0), url(2)], OTHER_RUN)
    assert backlog.store.counts() == {"images": 2, "failed": 1, "pending": 1}
    backlog.record(backlog.jobs()[1]["id"], failed=[url(0)])
    assert backlog.store.counts() == {"images": 2, "failed": 1, "pending": 1}


def test_removing_a_source_empties_its_chunks(backlog: Backlog) -> None:
    backlog.put([url(1), file(1)])
    backlog.store.delete_source("urls")
    assert sorted(map(len, backlog.chunks())) == [0, 1]
    assert backlog.store.counts() == {"images": 0, "failed": 0, "pending": 1}


# --- any sequence of events -----------------------------------------------------------------------

ITEMS = [url(n) for n in range(12)] + [file(n) for n in range(4)]


class QueueMachine(RuleBasedStateMachine):
    """Runs, workers, deaths and deleted jobs in any order; every reference is pending, stored or failed."""

    backlog: Backlog

    def __init__(self) -> None:
        super().__init__()
        with self.backlog.database.begin() as connection:
            connection.execute(
                sa.text(
                    "TRUNCATE images, ingest_failures, ingest_pending, ingest_chunks, ingest_workers, "
                    "procrastinate_jobs, procrastinate_workers, procrastinate_events CASCADE"
                )
            )
        self.given: set[str] = set()
        self.stored: set[str] = set()
        self.failed: set[str] = set()
        self.awaited = {RUN: 0, OTHER_RUN: 0}
        self.workers: list[int] = []
        self.held: list[tuple[int, list[SourceItem]]] = []

    def held_at(self, position: int) -> tuple[int, list[SourceItem]]:
        return self.held[position % len(self.held)]

    @rule(
        chosen=st.sets(st.sampled_from(range(len(ITEMS))), min_size=1, max_size=6),
        run=st.sampled_from([RUN, OTHER_RUN]),
        urgent=st.booleans(),
    )
    def put(self, chosen: set[int], run: UUID, urgent: bool) -> None:
        items = [ITEMS[n] for n in chosen]
        self.awaited[run] += self.backlog.put(items, run, urgent=urgent)
        self.given |= {item.image for item in items}

    @rule(run=st.sampled_from([RUN, OTHER_RUN]))
    def deprioritize(self, run: UUID) -> None:
        self.backlog.queue.deprioritize(run)

    @rule()
    def start_a_worker(self) -> None:
        self.workers.append(self.backlog.new_worker())

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def fetch(self, which: int) -> None:
        job = self.backlog.fetch(self.workers[which % len(self.workers)])
        if job is not None:
            self.held.append((job, self.backlog.queue.chunk(job)))

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 9), outcomes=st.lists(st.sampled_from("sfu-"), min_size=6, max_size=6), end=st.booleans()
    )
    def record(self, which: int, outcomes: list[str], end: bool) -> None:
        """Also as a worker considered dead, whose chunk others have taken meanwhile."""
        job, items = self.held_at(which)
        by = {kind: [i for i, o in zip(items, outcomes, strict=False) if o == kind] for kind in "sfu"}
        unchanged = [item for item in by["u"] if item.image in self.stored]
        self.backlog.record(job, stored=by["s"], failed=by["f"], unchanged=unchanged)
        self.stored |= {item.image for item in by["s"]}
        self.failed = (self.failed | {item.image for item in by["f"]}) - {item.image for item in by["s"]}
        if end:
            self.backlog.queue.requeue_chunk(job)
            self.backlog.finish(job)
            self.held.remove((job, items))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def isolate(self, which: int) -> None:
        job, items = self.held_at(which)
        self.backlog.queue.isolate_chunk(job)
        self.backlog.finish(job)
        self.held.remove((job, items))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def requeue(self, which: int) -> None:
        job, items = self.held_at(which)
        self.backlog.queue.requeue_chunk(job)
        self.backlog.finish(job)
        self.held.remove((job, items))

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def die(self, which: int) -> None:
        self.backlog.silence(self.workers.pop(which % len(self.workers)))

    @rule()
    def recover(self) -> None:
        self.backlog.queue.recover()

    @rule(which=st.integers(0, 9))
    def delete_a_job(self, which: int) -> None:
        jobs = self.backlog.jobs()
        if jobs:
            self.backlog.delete(jobs[which % len(jobs)]["id"])

    @rule()
    def tidy(self) -> None:
        self.backlog.queue.tidy()

    @invariant()
    def every_reference_is_somewhere(self) -> None:
        pending = self.backlog.pending()
        with self.backlog.database.connect() as connection:
            stored = set(connection.scalars(sa.select(images.c.image)))
            failed = set(connection.scalars(sa.select(ingest_failures.c.image)))
        assert (stored, failed) == (self.stored, self.failed)
        assert stored | failed | pending.keys() == self.given
        assert self.backlog.store.counts() == {
            "images": len(stored),
            "failed": len(failed - stored),
            "pending": len(pending.keys() - stored - failed),
        }
        for run, awaited in self.awaited.items():
            waiting = sum(run in row["run_ids"] for row in pending.values())
            assert self.backlog.queue.progress(run).done + waiting == awaited

    def teardown(self) -> None:
        """One worker that stays alive always empties the queue."""
        for worker in self.workers:
            self.backlog.silence(worker)
        self.backlog.queue.recover()
        self.backlog.queue.tidy()
        worker = self.backlog.new_worker()
        while (job := self.backlog.fetch(worker)) is not None:
            self.backlog.record(job, stored=self.backlog.queue.chunk(job))
            self.backlog.finish(job)
        assert self.backlog.pending() == {}
        assert self.backlog.queue.is_empty()
        assert sum(self.backlog.store.counts().values()) == len(self.given)


@pytest.mark.slow
def test_no_reference_is_lost_in_any_sequence_of_events(backlog: Backlog) -> None:
    machine = type("Machine", (QueueMachine,), {"backlog": backlog})
    limits = hypothesis_settings(max_examples=10, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(machine, settings=limits)


def test_the_failure_of_a_fatal_image_names_the_command_that_retries_it(backlog: Backlog) -> None:
    error = WorkerLostError(2)
    backlog.store.record_failures([FailedImage(image=url(1).image, source="urls", error=error, item=url(1))])
    (failure,) = backlog.store.failures()
    assert "failures retry --error WorkerLostError" in failure.message
    assert not failure.retryable
