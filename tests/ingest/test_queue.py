"""The queue against a real database: chunks go in, move, come out, and no reference is ever lost."""

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

from searchdb.db.database import Database
from searchdb.db.tables import images, ingest_chunks, ingest_failures, ingest_pending, ingest_workers
from searchdb.errors import TransferError, WorkerLostError
from searchdb.ingest.queue import SUSPECTS, URL_QUEUE, WAITED_FOR, Queue, RunProgress, files_queue, queues
from searchdb.ingest.store import Store
from searchdb.records import ChunkOutcome, DecodedImage, EmbeddedImage, FailedImage, ModelIdentity, SourceItem
from searchdb.status import collection_status

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32)
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
RUN, OTHER_RUN = UUID(int=1), UUID(int=2)


class Desk:
    """The queue of one database, and what Procrastinate's workers do to it, through its own SQL functions."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.queue = Queue(database.engine)
        self.store = Store(database.engine)

    def put(self, items: Sequence[SourceItem], run: UUID = RUN, *, waited_for: bool = False) -> int:
        return self.queue.put(items, run, waited_for=waited_for)

    def new_worker(self) -> int:
        worker = self._scalar("SELECT worker_id FROM procrastinate_register_worker_v1()")
        self.queue.register(worker)
        return worker

    def fetch(self, worker: int) -> int | None:
        """Take up a chunk as that worker; return its job."""
        return self._scalar(
            "SELECT id FROM procrastinate_fetch_job_v2(CAST(:queues AS varchar[]), :worker)",
            queues=queues(),
            worker=worker,
        )

    def finish(self, job: int) -> None:
        """Take a finished job out, if it is still there."""
        if self._scalar("SELECT id FROM procrastinate_jobs WHERE id = :job", job=job):
            self._scalar("SELECT procrastinate_finish_job_v1(:job, 'succeeded', true)", job=job)

    def delete(self, job: int) -> None:
        self._scalar("DELETE FROM procrastinate_jobs WHERE id = :job RETURNING 1", job=job)

    def silence(self, worker: int) -> None:
        """Let a worker be dead for long."""
        self._scalar(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 day' WHERE id = :id RETURNING 1",
            id=worker,
        )

    def settle(
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
        self.store.settle(outcome, MODEL, worker="here:1")

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
    return SourceItem(image=f"https://example.org/{n}.jpg", source="urls", description=f"picture {n}", tags=["a", "b"])


def file(n: int) -> SourceItem:
    return SourceItem(image=f"/pictures/{n}.jpg", source="files", byte_size=n, modified_at=NOON)


def embedded(item: SourceItem) -> EmbeddedImage:
    vector = np.zeros(512, np.float32)
    vector[0] = 1
    pixels = Image.new("RGB", (1, 1))
    decoded = DecodedImage(item=item, pixels=pixels, sha256=b"s" * 32, byte_size=10, width=30, height=20)
    return EmbeddedImage(decoded=decoded, embedding=vector)


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


# --- putting in -----------------------------------------------------------------------------------


def test_a_chunk_comes_out_as_it_was_put_in(desk: Desk) -> None:
    items = [url(2), url(1), SourceItem(image="https://example.org/0.jpg", source="urls", taken_at=NOON, latitude=1.5)]
    assert desk.put(items) == 3
    (job,) = desk.jobs()
    assert (job["queue_name"], job["priority"], job["status"]) == (URL_QUEUE, 0, "todo")
    assert sorted(desk.queue.chunk(job["id"]), key=lambda item: item.image) == sorted(items, key=lambda i: i.image)


def test_text_that_the_database_cannot_hold_is_made_storable(desk: Desk) -> None:
    desk.put([SourceItem(image="https://example.org/a.jpg", source="urls", description="a\0b\ud800c")])
    ((item,),) = [desk.queue.chunk(job["id"]) for job in desk.jobs()]
    assert item.description == "a\ufffdb\ufffdc"


def test_files_go_to_this_machine_and_urls_to_every_one(desk: Desk) -> None:
    assert desk.put([url(1), file(1), url(2), file(2)], waited_for=True) == 4
    assert {job["queue_name"]: job["priority"] for job in desk.jobs()} == {URL_QUEUE: WAITED_FOR, files_queue(): 1}
    assert desk.chunks() == [{url(1).image, url(2).image}, {file(1).image, file(2).image}]
    assert queues() == [URL_QUEUE, files_queue()]


def test_nothing_to_queue_makes_no_job(desk: Desk) -> None:
    assert desk.put([]) == 0
    assert desk.jobs() == []


def test_a_reference_that_two_runs_queue_stays_in_its_chunk_and_counts_for_both_once(desk: Desk) -> None:
    assert desk.put([url(1), url(2)], RUN) == 2
    assert desk.put([url(2), url(3)], OTHER_RUN) == 2
    assert desk.put([url(2), url(3)], OTHER_RUN) == 0
    assert desk.chunks() == [{url(1).image, url(2).image}, {url(3).image}]
    assert desk.pending()[url(2).image]["run_ids"] == [RUN, OTHER_RUN]
    for job in desk.jobs():
        desk.settle(job["id"], stored=desk.queue.chunk(job["id"]), copied=[url(2)])
    assert desk.queue.progress(RUN) == RunProgress(stored=2, copied=1, unchanged=0, failed={})
    assert desk.queue.progress(OTHER_RUN) == RunProgress(stored=2, copied=1, unchanged=0, failed={})
    assert desk.queue.progress(uuid4()).done == 0


def test_what_somebody_waits_for_goes_first_and_no_more_when_he_gives_up(desk: Desk) -> None:
    desk.put([url(1)], RUN)
    desk.put([url(2)], OTHER_RUN, waited_for=True)
    desk.put([url(1)], OTHER_RUN, waited_for=True)
    assert [job["priority"] for job in desk.jobs()] == [WAITED_FOR, WAITED_FOR]
    desk.queue.deprioritize(OTHER_RUN)
    assert [job["priority"] for job in desk.jobs()] == [0, 0]


def test_a_file_that_another_machine_queued_can_be_read_here_when_it_is_queued_here(desk: Desk) -> None:
    desk.put([file(1)])
    with desk.database.begin() as connection:
        connection.execute(sa.text("UPDATE procrastinate_jobs SET queue_name = 'files-of-another'"))
    assert desk.queue.is_empty()
    desk.put([file(1)], OTHER_RUN)
    assert [job["queue_name"] for job in desk.jobs()] == [files_queue()]
    assert not desk.queue.is_empty()


# --- taking out -----------------------------------------------------------------------------------


def test_settling_moves_references_from_the_queue_to_pictures_and_failures(desk: Desk) -> None:
    desk.put([url(n) for n in range(5)])
    job = desk.fetch(desk.new_worker())
    assert job is not None
    assert desk.store.counts() == {"images": 0, "failed": 0, "pending": 5}
    desk.settle(job, stored=[url(0), url(1)], failed=[url(2)], copied=[url(1)])
    assert desk.store.counts() == {"images": 2, "failed": 1, "pending": 2}
    assert desk.queue.progress(RUN) == RunProgress(stored=2, copied=1, unchanged=0, failed={"TransferError": 1})
    assert [item.image for item in desk.queue.chunk(job)] == [url(3).image, url(4).image]
    desk.settle(job, unchanged=[url(3)], failed=[url(4)])
    assert desk.queue.progress(RUN) == RunProgress(stored=2, copied=1, unchanged=1, failed={"TransferError": 2})
    assert desk.queue.progress(RUN).done == 5


def test_what_two_workers_settle_counts_once(desk: Desk) -> None:
    desk.put([url(1), url(2)])
    job = desk.fetch(desk.new_worker())
    assert job is not None
    for _ in range(2):
        desk.settle(job, stored=[url(1)], failed=[url(2)])
    assert desk.store.counts() == {"images": 1, "failed": 1, "pending": 0}
    assert desk.queue.progress(RUN).done == 2


def test_what_was_handed_back_is_not_settled_under_its_old_job(desk: Desk) -> None:
    desk.put([url(1)])
    job = desk.fetch(desk.new_worker())
    assert job is not None
    desk.queue.hand_back(job)
    desk.settle(job, failed=[url(1)])
    assert desk.queue.progress(RUN).done == 0
    assert desk.pending().keys() == {url(1).image}


def test_what_is_handed_back_waits_again_as_if_nobody_had_taken_it_up(desk: Desk) -> None:
    desk.put([url(n) for n in range(3)], waited_for=True)
    worker = desk.new_worker()
    job = desk.fetch(worker)
    assert job is not None
    desk.settle(job, stored=[url(0)])
    desk.queue.hand_back(job)
    desk.finish(job)
    (fresh,) = desk.jobs()
    assert (fresh["status"], fresh["priority"], fresh["attempts"], fresh["worker_id"]) == ("todo", WAITED_FOR, 0, None)
    assert desk.chunks() == [{url(1).image, url(2).image}]
    assert desk.fetch(worker) == fresh["id"]


def test_nothing_left_is_nothing_to_hand_back(desk: Desk) -> None:
    desk.put([url(1)])
    job = desk.fetch(desk.new_worker())
    assert job is not None
    desk.settle(job, stored=[url(1)])
    desk.queue.hand_back(job)
    desk.finish(job)
    assert desk.jobs() == []


def test_of_suspect_chunks_one_at_a_time_is_worked_on(desk: Desk) -> None:
    desk.put([url(1), url(2)], waited_for=True)
    desk.put([url(3)], waited_for=True)
    worker = desk.new_worker()
    for _ in range(2):
        job = desk.fetch(worker)
        assert job is not None
        desk.queue.suspect(job)
        desk.finish(job)
    assert [(job["lock"], job["attempts"]) for job in desk.jobs()] == [(SUSPECTS, 0)] * 2
    assert desk.chunks() == [{url(1).image, url(2).image}, {url(3).image}]
    for items in ([url(1), url(2)], [url(3)]):
        suspect = desk.fetch(worker)
        assert suspect is not None
        assert desk.fetch(worker) is None
        desk.settle(suspect, stored=items)
        desk.finish(suspect)
    assert desk.queue.is_empty()


def test_attempts_are_counted_for_each_picture(desk: Desk) -> None:
    desk.put([url(1), url(2)])
    assert [desk.queue.attempt(url(1).image) for _ in range(3)] == [1, 2, 3]
    assert desk.queue.attempt(url(2).image) == 1


def test_jobs_that_their_worker_knows_nothing_of_wait_again(desk: Desk) -> None:
    desk.put([url(1)])
    desk.put([url(2)])
    worker = desk.new_worker()
    lost, held = desk.fetch(worker), desk.fetch(worker)
    assert lost is not None
    assert desk.queue.in_hand(worker) == {lost, held}
    desk.queue.put_back([lost])
    assert desk.queue.in_hand(worker) == {held}
    assert desk.fetch(desk.new_worker()) == lost


# --- keeping house --------------------------------------------------------------------------------


def test_only_the_chunks_of_dead_workers_are_recovered(desk: Desk) -> None:
    for n in range(3):
        desk.put([url(n)])
    dead, alive = desk.new_worker(), desk.new_worker()
    lost, held = desk.fetch(dead), desk.fetch(alive)
    desk.silence(dead)
    desk.silence(alive)
    desk.queue.beat(alive)
    assert desk.queue.recover() == 1
    states = {job["id"]: (job["status"], job["attempts"], job["worker_id"]) for job in desk.jobs()}
    assert states[lost] == ("todo", 1, None)
    assert states[held] == ("doing", 0, alive)
    assert desk.queue.recover() == 0
    with desk.database.connect() as connection:
        assert list(connection.scalars(sa.select(ingest_workers.c.id))) == [alive]
    assert len(collection_status(desk.database).queue.workers) == 1


def test_a_chunk_whose_worker_is_gone_without_a_trace_is_recovered(desk: Desk) -> None:
    desk.put([url(1)])
    worker = desk.new_worker()
    desk.fetch(worker)
    with desk.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM procrastinate_workers"))
    assert desk.queue.recover() == 1
    assert [job["status"] for job in desk.jobs()] == ["todo"]


@pytest.mark.parametrize("status", [None, "cancelled", "failed", "succeeded", "aborted"])
def test_a_chunk_whose_job_somebody_took_away_gets_a_new_one(desk: Desk, status: str | None) -> None:
    desk.put([url(1), url(2)])
    desk.put([url(3)])
    old, other = desk.jobs()
    with desk.database.begin() as connection:
        if status is None:
            connection.execute(sa.text("DELETE FROM procrastinate_jobs WHERE id = :id"), {"id": old["id"]})
        else:
            statement = (
                "UPDATE procrastinate_jobs SET status = CAST(:status AS procrastinate_job_status) WHERE id = :id"
            )
            connection.execute(sa.text(statement), {"id": old["id"], "status": status})
    desk.queue.tidy()
    pending = desk.pending()
    assert pending[url(3).image]["job_id"] == other["id"]
    (fresh,) = {pending[url(n).image]["job_id"] for n in (1, 2)}
    (job,) = [job for job in desk.jobs() if job["id"] == fresh]
    assert fresh != old["id"]
    assert (job["status"], job["queue_name"]) == ("todo", URL_QUEUE)


def test_what_finished_long_ago_is_forgotten(desk: Desk) -> None:
    desk.put([url(1)], RUN)
    desk.settle(desk.jobs()[0]["id"], stored=[url(1)])
    desk.put([url(2)], OTHER_RUN)
    desk.settle(desk.jobs()[1]["id"], stored=[url(2)])
    with desk.database.begin() as connection:
        old = sa.update(ingest_chunks).where(ingest_chunks.c.run_id == RUN)
        connection.execute(old.values(finished_at=sa.text("now() - interval '31 days'")))
    desk.queue.tidy()
    assert (desk.queue.progress(RUN).done, desk.queue.progress(OTHER_RUN).done) == (0, 1)


# --- looking --------------------------------------------------------------------------------------


def test_the_status_tells_what_waits_what_runs_who_works_and_how_fast(desk: Desk) -> None:
    assert collection_status(desk.database).queue.in_words().startswith("0 queued, 0 running, 0.0/s")
    desk.put([url(n) for n in range(30)])
    desk.put([url(n) for n in range(30, 40)])
    worker = desk.new_worker()
    job = desk.fetch(worker)
    assert job is not None
    desk.settle(job, stored=[url(n) for n in range(12)], failed=[url(n) for n in range(12, 18)])
    status = collection_status(desk.database)
    assert (status.images, status.failed, status.pending) == (12, 6, 22)
    assert sum(status.failures.values()) == status.failed
    assert (status.queue.queued, status.queue.running) == (10, 12)
    assert status.queue.rate_per_s == pytest.approx(18 / 60)
    assert len(status.queue.workers) == 1
    assert "process" in status.queue.workers[0].in_words()


def test_the_queue_is_empty_when_no_chunk_waits_or_is_held(desk: Desk) -> None:
    assert desk.queue.is_empty()
    desk.put([url(1)])
    assert not desk.queue.is_empty()
    job = desk.fetch(desk.new_worker())
    assert job is not None
    assert not desk.queue.is_empty()
    desk.settle(job, stored=[url(1)])
    desk.finish(job)
    assert desk.queue.is_empty()


def test_a_reference_counts_once_whatever_it_is_besides(desk: Desk) -> None:
    desk.put([url(n) for n in range(4)])
    job = desk.jobs()[0]["id"]
    desk.settle(job, stored=[url(0), url(1)], failed=[url(2)])
    desk.put([url(0), url(2)], OTHER_RUN)
    assert desk.store.counts() == {"images": 2, "failed": 1, "pending": 1}
    desk.settle(desk.jobs()[1]["id"], failed=[url(0)])
    assert desk.store.counts() == {"images": 2, "failed": 1, "pending": 1}


def test_removing_a_source_empties_its_chunks(desk: Desk) -> None:
    desk.put([url(1), file(1)])
    desk.store.delete_source("urls")
    assert sorted(map(len, desk.chunks())) == [0, 1]
    assert desk.store.counts() == {"images": 0, "failed": 0, "pending": 1}


# --- whatever happens -----------------------------------------------------------------------------

ITEMS = [url(n) for n in range(12)] + [file(n) for n in range(4)]


class Anything(RuleBasedStateMachine):
    """Runs, workers, deaths and meddling in any order; every reference is pending, a picture or a failure."""

    desk: Desk

    def __init__(self) -> None:
        super().__init__()
        with self.desk.database.begin() as connection:
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
        waited_for=st.booleans(),
    )
    def put(self, chosen: set[int], run: UUID, waited_for: bool) -> None:
        items = [ITEMS[n] for n in chosen]
        self.awaited[run] += self.desk.put(items, run, waited_for=waited_for)
        self.given |= {item.image for item in items}

    @rule(run=st.sampled_from([RUN, OTHER_RUN]))
    def give_up_waiting(self, run: UUID) -> None:
        self.desk.queue.deprioritize(run)

    @rule()
    def start_a_worker(self) -> None:
        self.workers.append(self.desk.new_worker())

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def fetch(self, which: int) -> None:
        job = self.desk.fetch(self.workers[which % len(self.workers)])
        if job is not None:
            self.held.append((job, self.desk.queue.chunk(job)))

    @precondition(lambda self: self.held)
    @rule(
        which=st.integers(0, 9), outcomes=st.lists(st.sampled_from("sfu-"), min_size=6, max_size=6), end=st.booleans()
    )
    def settle(self, which: int, outcomes: list[str], end: bool) -> None:
        """Also by a worker that is thought to be dead, whose chunk others have taken up meanwhile."""
        job, items = self.held_at(which)
        by = {kind: [i for i, o in zip(items, outcomes, strict=False) if o == kind] for kind in "sfu"}
        unchanged = [item for item in by["u"] if item.image in self.stored]
        self.desk.settle(job, stored=by["s"], failed=by["f"], unchanged=unchanged)
        self.stored |= {item.image for item in by["s"]}
        self.failed = (self.failed | {item.image for item in by["f"]}) - {item.image for item in by["s"]}
        if end:
            self.desk.queue.hand_back(job)
            self.desk.finish(job)
            self.held.remove((job, items))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def suspect(self, which: int) -> None:
        job, items = self.held_at(which)
        self.desk.queue.suspect(job)
        self.desk.finish(job)
        self.held.remove((job, items))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9))
    def hand_back(self, which: int) -> None:
        job, items = self.held_at(which)
        self.desk.queue.hand_back(job)
        self.desk.finish(job)
        self.held.remove((job, items))

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 9))
    def die(self, which: int) -> None:
        self.desk.silence(self.workers.pop(which % len(self.workers)))

    @rule()
    def recover(self) -> None:
        self.desk.queue.recover()

    @rule(which=st.integers(0, 9))
    def meddle(self, which: int) -> None:
        jobs = self.desk.jobs()
        if jobs:
            self.desk.delete(jobs[which % len(jobs)]["id"])

    @rule()
    def tidy(self) -> None:
        self.desk.queue.tidy()

    @invariant()
    def every_reference_is_somewhere(self) -> None:
        pending = self.desk.pending()
        with self.desk.database.connect() as connection:
            stored = set(connection.scalars(sa.select(images.c.image)))
            failed = set(connection.scalars(sa.select(ingest_failures.c.image)))
        assert (stored, failed) == (self.stored, self.failed)
        assert stored | failed | pending.keys() == self.given
        assert self.desk.store.counts() == {
            "images": len(stored),
            "failed": len(failed - stored),
            "pending": len(pending.keys() - stored - failed),
        }
        for run, awaited in self.awaited.items():
            waiting = sum(run in row["run_ids"] for row in pending.values())
            assert self.desk.queue.progress(run).done + waiting == awaited

    def teardown(self) -> None:
        """Whatever has happened, one worker that lives on empties the queue."""
        for worker in self.workers:
            self.desk.silence(worker)
        self.desk.queue.recover()
        self.desk.queue.tidy()
        worker = self.desk.new_worker()
        while (job := self.desk.fetch(worker)) is not None:
            self.desk.settle(job, stored=self.desk.queue.chunk(job))
            self.desk.finish(job)
        assert self.desk.pending() == {}
        assert self.desk.queue.is_empty()
        assert sum(self.desk.store.counts().values()) == len(self.given)


def test_no_reference_is_lost_whatever_happens(desk: Desk) -> None:
    here = type("Here", (Anything,), {"desk": desk})
    limits = hypothesis_settings(max_examples=20, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(here, settings=limits)


def test_a_lost_picture_is_named_with_the_way_out(desk: Desk) -> None:
    error = WorkerLostError(2)
    desk.store.record_failures([FailedImage(image=url(1).image, source="urls", error=error, item=url(1))])
    (failure,) = desk.store.failures()
    assert "failures retry --error WorkerLostError" in failure.message
    assert not failure.retryable
