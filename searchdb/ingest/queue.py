"""The queue of references that wait to be ingested: rows of `ingest_pending`, in chunks that are Procrastinate's jobs.

A job is only a ticket for its chunk; the rows are the truth. They go in one transaction with the pictures and failures
that take their place, so that every reference is pending, stored or failed at every moment, however a worker ends.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from searchdb.db.tables import (
    ingest_chunks,
    ingest_pending,
    ingest_workers,
    procrastinate_jobs,
    procrastinate_workers,
)
from searchdb.ingest.store import storable
from searchdb.records import SourceItem

if TYPE_CHECKING:
    import procrastinate

TASK = "searchdb.ingest_chunk"
"""The name of the one task, in `procrastinate_jobs`."""
URL_QUEUE = "urls"
WAITED_FOR = 1
"""Priority of chunks that somebody waits for; those that were only queued have 0."""
SUSPECTS = "suspects"
"""Procrastinate's lock on chunks at which workers died: one at a time, so that the next death has one cause."""
STALLED_AFTER_S = 20.0
"""A worker whose heart has not beaten for so long is dead, and its chunks go back to the queue."""
KEEP_CHUNKS = sa.text("interval '30 days'")
"""How long finished chunks are remembered: the rate of past weeks can be looked up, and the table stays small."""

ACTIVE = procrastinate_jobs.c.status.in_(["todo", "doing"])


def files_queue() -> str:
    """Return the name of the queue of this machine's files, which no other machine can open.

    PostgreSQL's channel names, which Procrastinate makes of it, end at 63 bytes; host names do not.
    """
    return f"files-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]}"


def queues() -> list[str]:
    """Return the names of the queues that a worker on this machine can serve."""
    return [URL_QUEUE, files_queue()]


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """What became of a run's references that were queued, `failed` by class of error."""

    stored: int
    copied: int
    unchanged: int
    failed: Mapping[str, int]

    @property
    def done(self) -> int:
        """References that are no longer in the queue."""
        return self.stored + self.unchanged + sum(self.failed.values())


class Queue:
    """The queue in one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- putting in -----------------------------------------------------------------------------

    def put(self, items: Sequence[SourceItem], run_id: UUID, *, waited_for: bool) -> int:
        """Queue distinct references as one chunk for each machine that can read them; return how many the run awaits.

        Those that another run has queued stay in their chunk, which is then this run's, too.
        """
        here, anywhere = [item for item in items if not item.is_url], [item for item in items if item.is_url]
        return sum(
            self._put(chunk, run_id, queue, WAITED_FOR if waited_for else 0)
            for chunk, queue in ((anywhere, URL_QUEUE), (here, files_queue()))
            if chunk
        )

    def _put(self, items: Sequence[SourceItem], run_id: UUID, queue: str, priority: int) -> int:
        jobs, pending = procrastinate_jobs.c, ingest_pending.c
        with self._engine.begin() as connection:
            job_id = self._defer(connection, queue, priority)
            statement = insert(ingest_pending).values(
                # In the order of every writer, so that no two can wait for each other.
                sorted((_row(item, job_id, run_id) for item in items), key=lambda row: row["image"])
            )
            statement = statement.on_conflict_do_update(
                index_elements=["image"],
                set_={
                    "item": statement.excluded.item,
                    "run_ids": pending.run_ids + statement.excluded.run_ids,
                    "job_id": sa.case((_has_job(), pending.job_id), else_=statement.excluded.job_id),
                },
                where=~pending.run_ids.contains(statement.excluded.run_ids),
            )
            owners = connection.scalars(statement.returning(pending.job_id)).all()
            if job_id not in owners:
                connection.execute(sa.delete(procrastinate_jobs).where(jobs.id == job_id))
            # A chunk that another run left behind is done when this run's are, and where this run can read it.
            connection.execute(
                sa.update(procrastinate_jobs)
                .where(jobs.id.in_(set(owners) - {job_id}), ACTIVE)
                .values(queue_name=queue, priority=sa.func.greatest(jobs.priority, priority))
            )
        return len(owners)

    def _defer(self, connection: Connection, queue: str, priority: int, *, lock: str | None = None) -> int:
        """Make a job in the connection's transaction; return its id."""
        task = self._procrastinate.configure_task(
            TASK, queue=queue, priority=priority, lock=lock, connection=connection.connection.driver_connection
        )
        return task.defer()

    @cached_property
    def _procrastinate(self) -> procrastinate.App:
        """The library's way in. Never opened: it uses the connections that it is given."""
        import procrastinate  # here, for most commands queue nothing

        return procrastinate.App(connector=procrastinate.PsycopgConnector())

    def deprioritize(self, run_id: UUID) -> None:
        """Let the rest of an abandoned run wait behind the chunks that somebody waits for."""
        chunks = sa.select(ingest_pending.c.job_id).where(ingest_pending.c.run_ids.contains([run_id]))
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(procrastinate_jobs).where(procrastinate_jobs.c.id.in_(chunks), ACTIVE).values(priority=0)
            )

    # --- taking out -----------------------------------------------------------------------------

    def chunk(self, job_id: int) -> list[SourceItem]:
        """Return the references of a chunk that still wait."""
        statement = (
            sa.select(ingest_pending.c.item)
            .where(ingest_pending.c.job_id == job_id)
            .order_by(ingest_pending.c.queued_at, ingest_pending.c.image)
        )
        with self._engine.connect() as connection:
            return [SourceItem.from_json(item) for item in connection.scalars(statement)]

    def suspect(self, job_id: int) -> None:
        """Queue a chunk again as one at which workers died: no two of these are worked on at once, anywhere."""
        with self._engine.begin() as connection:
            self._move(connection, job_id, lock=SUSPECTS)

    def attempt(self, image: str) -> int:
        """Count, before it is made, an attempt at a picture of such a chunk; return which one it is, from 1 on."""
        pending = ingest_pending.c
        one_more = sa.update(ingest_pending).where(pending.image == image).values(attempts=pending.attempts + 1)
        with self._engine.begin() as connection:
            return connection.scalar(one_more.returning(pending.attempts)) or 1

    def hand_back(self, job_id: int) -> None:
        """Queue what is left of a chunk again, as if nobody had taken it up."""
        with self._engine.begin() as connection:
            self._move(connection, job_id)

    def _move(self, connection: Connection, job_id: int, *, lock: str | None = None) -> None:
        """Give what is left of a chunk a new job."""
        pending, jobs = ingest_pending.c, procrastinate_jobs.c
        left = sa.select(pending.image).where(pending.job_id == job_id).order_by(pending.image.collate("C"))
        images = connection.scalars(left.with_for_update()).all()  # locked in the order of every writer
        if images:
            priority = connection.scalar(sa.select(jobs.priority).where(jobs.id == job_id))
            fresh = self._defer(connection, _queue_of(images[0]), priority or 0, lock=lock)
            connection.execute(sa.update(ingest_pending).where(pending.job_id == job_id).values(job_id=fresh))

    # --- keeping house --------------------------------------------------------------------------

    def register(self, worker_id: int) -> None:
        """Note where one of Procrastinate's workers runs: here."""
        with self._engine.begin() as connection:
            connection.execute(
                insert(ingest_workers)
                .values(id=worker_id, host=socket.gethostname(), pid=os.getpid())
                .on_conflict_do_nothing()
            )

    def beat(self, worker_id: int) -> None:
        """Note that the worker is alive."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(procrastinate_workers)
                .where(procrastinate_workers.c.id == worker_id)
                .values(last_heartbeat=sa.func.now())
            )

    def recover(self) -> int:
        """Put the chunks of dead workers back into the queue; return how many there were.

        One statement looks and acts, for another worker may do the same: what that has taken is no longer `doing`.
        """
        jobs, workers = procrastinate_jobs.c, procrastinate_workers.c
        with self._engine.begin() as connection:
            recovered = connection.execute(
                sa.update(procrastinate_jobs)
                .where(jobs.status == "doing", ~sa.exists().where(workers.id == jobs.worker_id, ALIVE))
                .values(status="todo", attempts=jobs.attempts + 1, worker_id=None)
            ).rowcount
            connection.execute(sa.delete(procrastinate_workers).where(~ALIVE))
        return recovered

    def in_hand(self, worker_id: int) -> frozenset[int]:
        """Return the jobs that are one worker's, by what the database says."""
        jobs = procrastinate_jobs.c
        with self._engine.connect() as connection:
            mine = sa.select(jobs.id).where(jobs.status == "doing", jobs.worker_id == worker_id)
            return frozenset(connection.scalars(mine))

    def put_back(self, job_ids: Collection[int]) -> None:
        """Let jobs wait again whose worker knows nothing of them: the outage at which they began or ended hid it."""
        jobs = procrastinate_jobs.c
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(procrastinate_jobs)
                .where(jobs.id.in_(job_ids), jobs.status == "doing")
                .values(status="todo", worker_id=None)
            )

    def tidy(self) -> None:
        """Give chunks whose job somebody cancelled or deleted a new one, and forget what finished long ago."""
        with self._engine.begin() as connection:
            lost = sa.select(ingest_pending.c.job_id).distinct().where(~_has_job())
            for job_id in connection.scalars(lost).all():
                self._move(connection, job_id)
            connection.execute(
                sa.delete(ingest_chunks).where(ingest_chunks.c.finished_at < sa.func.now() - KEEP_CHUNKS)
            )

    # --- looking --------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether no chunk waits, or is being worked on, that a worker on this machine could serve."""
        waiting = sa.exists().where(procrastinate_jobs.c.queue_name.in_(queues()), ACTIVE)
        with self._engine.connect() as connection:
            return not connection.scalar(sa.select(waiting))

    def progress(self, run_id: UUID) -> RunProgress:
        """Return what has become of the run's references so far."""
        of_run = ingest_chunks.c.run_id == run_id
        each = sa.func.jsonb_each_text(ingest_chunks.c.failed).table_valued("key", "value")
        by_error = (
            sa.select(each.c.key, sa.func.sum(sa.cast(each.c.value, sa.BigInteger)).label("count"))
            .select_from(ingest_chunks.join(each, sa.true()))
            .where(of_run)
            .group_by(each.c.key)
            .subquery()
        )
        failed = sa.select(sa.func.jsonb_object_agg(by_error.c.key, by_error.c["count"])).scalar_subquery()
        totals = (sa.func.coalesce(sa.func.sum(ingest_chunks.c[name]), 0).label(name) for name in _COUNTED)
        with self._engine.connect() as connection:  # one statement, or a chunk that ends would be counted in half
            row = connection.execute(sa.select(*totals, failed.label("failed")).where(of_run)).one()
        return RunProgress(stored=row.stored, copied=row.copied, unchanged=row.unchanged, failed=row.failed or {})


def seconds(number: float) -> sa.Function[Any]:
    """Return a number of seconds as an SQL interval."""
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, number)


ALIVE = procrastinate_workers.c.last_heartbeat > sa.func.now() - seconds(STALLED_AFTER_S)
_COUNTED = ("stored", "copied", "unchanged")


def _has_job() -> sa.ColumnElement[bool]:
    return sa.exists().where(procrastinate_jobs.c.id == ingest_pending.c.job_id, ACTIVE)


def _queue_of(image: str) -> str:
    """Return the queue of a reference; a chunk holds URLs, or files of one machine."""
    return URL_QUEUE if image.startswith(("http://", "https://")) else files_queue()


def _row(item: SourceItem, job_id: int, run_id: UUID) -> dict[str, Any]:
    return {
        "image": item.image,
        "source": item.source,
        "item": storable(item.to_json()),
        "job_id": job_id,
        "run_ids": [run_id],
    }
