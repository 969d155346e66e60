"""Queues references to ingest: rows of `ingest_pending`, grouped in chunks, one Procrastinate job per chunk.

A job only points to its chunk; the rows are authoritative. They are deleted in the transaction that writes the images
and failures that replace them, so that every reference is pending, stored or failed at any time, however a worker ends.
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
from searchdb.ingest.rows import storable
from searchdb.records import SourceItem, is_url

if TYPE_CHECKING:
    import procrastinate

TASK = "searchdb.ingest_chunk"
"""The name of the task that ingests a chunk, in `procrastinate_jobs`."""
AGAIN_TASK = "searchdb.embed_again"
"""The name of the task that embeds stored images with the model that the collection is being switched to."""
URL_QUEUE = "urls"
URGENT = 1
"""Priority of chunks that a running ingest waits for; those that were only queued have 0."""
ISOLATED = "suspects"
"""Procrastinate's lock on chunks at which workers died: one runs at a time, so that the next death has one cause."""
STALLED_AFTER_S = 20.0
"""A worker without a heartbeat for this long is considered dead, and its chunks go back to the queue."""
KEEP_CHUNKS = sa.text("interval '30 days'")
"""How long records of finished chunks are kept: the rate of past weeks can be seen, and the table stays small."""

ACTIVE = procrastinate_jobs.c.status.in_(["todo", "doing"])


def files_queue() -> str:
    """Return the name of the queue for this machine's files, which other machines cannot open.

    The host name is hashed because Procrastinate makes a channel name of it, which PostgreSQL limits to 63 bytes.
    """
    return f"files-{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:16]}"


def queues() -> list[str]:
    """Return the names of the queues that a worker on this machine can serve."""
    return [URL_QUEUE, files_queue()]


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Outcomes of the references that a run has queued; `failed` counts by class of error."""

    stored: int
    copied: int
    unchanged: int
    failed: Mapping[str, int]
    frames: int = 0

    @property
    def done(self) -> int:
        """References that are no longer in the queue."""
        return self.stored + self.unchanged + sum(self.failed.values())


class Queue:
    """The queue in one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- adding ---------------------------------------------------------------------------------

    def put(self, items: Sequence[SourceItem], run_id: UUID, *, urgent: bool) -> int:
        """Queue distinct references, files and URLs as a chunk each; return how many the run waits for.

        Those that another run has queued stay in their chunk, which then belongs to both runs.
        """
        here, anywhere = [item for item in items if not item.is_url], [item for item in items if item.is_url]
        return sum(
            self._put(chunk, run_id, queue, URGENT if urgent else 0)
            for chunk, queue in ((anywhere, URL_QUEUE), (here, files_queue()))
            if chunk
        )

    def _put(self, items: Sequence[SourceItem], run_id: UUID, queue: str, priority: int) -> int:
        jobs, pending = procrastinate_jobs.c, ingest_pending.c
        with self._engine.begin() as connection:
            job_id = self._defer(connection, queue, priority)
            statement = insert(ingest_pending).values(
                # All writers take row locks in this order, which rules out deadlocks.
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
            # A chunk that another run left behind takes this run's priority, and a queue that this machine serves.
            connection.execute(
                sa.update(procrastinate_jobs)
                .where(jobs.id.in_(set(owners) - {job_id}), ACTIVE)
                .values(queue_name=queue, priority=sa.func.greatest(jobs.priority, priority))
            )
        return len(owners)

    def _defer(self, connection: Connection, queue: str, priority: int, *, lock: str | None = None) -> int:
        """Create a job in the connection's transaction; return its id."""
        from searchdb.ingest.queue_errors import queue_errors  # imports Procrastinate, as below

        task = self._procrastinate.configure_task(
            TASK, queue=queue, priority=priority, lock=lock, connection=connection.connection.driver_connection
        )
        with queue_errors(self._engine.url):
            return task.defer()

    @cached_property
    def _procrastinate(self) -> procrastinate.App:
        """Procrastinate's app. It is never opened, because it uses the connections it is given."""
        import procrastinate  # slow to import, and most commands queue nothing

        return procrastinate.App(connector=procrastinate.PsycopgConnector())

    def deprioritize(self, run_id: UUID) -> None:
        """Move the rest of an abandoned run behind the chunks that other runs wait for."""
        chunks = sa.select(ingest_pending.c.job_id).where(ingest_pending.c.run_ids.contains([run_id]))
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(procrastinate_jobs).where(procrastinate_jobs.c.id.in_(chunks), ACTIVE).values(priority=0)
            )

    # --- working off ----------------------------------------------------------------------------

    def chunk(self, job_id: int) -> list[SourceItem]:
        """Return the references of a chunk that are still pending."""
        statement = (
            sa.select(ingest_pending.c.item)
            .where(ingest_pending.c.job_id == job_id)
            .order_by(ingest_pending.c.queued_at, ingest_pending.c.image)
        )
        with self._engine.connect() as connection:
            return [SourceItem.from_json(item) for item in connection.scalars(statement)]

    def isolate_chunk(self, job_id: int) -> None:
        """Queue a chunk at which workers died again; of all such chunks only one runs at a time, on any machine."""
        with self._engine.begin() as connection:
            self._replace_job(connection, job_id, lock=ISOLATED)

    def count_attempt(self, image: str) -> int:
        """Record that an attempt at an image of an isolated chunk begins; return its number, counted from 1."""
        pending = ingest_pending.c
        one_more = sa.update(ingest_pending).where(pending.image == image).values(attempts=pending.attempts + 1)
        with self._engine.begin() as connection:
            return connection.scalar(one_more.returning(pending.attempts)) or 1

    def requeue_chunk(self, job_id: int) -> None:
        """Queue the rest of a chunk again, as if no worker had taken it."""
        with self._engine.begin() as connection:
            self._replace_job(connection, job_id)

    def _replace_job(self, connection: Connection, job_id: int, *, lock: str | None = None) -> None:
        """Create a new job for the rest of a chunk."""
        pending, jobs = ingest_pending.c, procrastinate_jobs.c
        left = sa.select(pending.image).where(pending.job_id == job_id).order_by(pending.image.collate("C"))
        references = connection.scalars(left.with_for_update()).all()  # in the lock order of all writers
        if references:
            priority = connection.scalar(sa.select(jobs.priority).where(jobs.id == job_id))
            fresh = self._defer(connection, _queue_of(references[0]), priority or 0, lock=lock)
            connection.execute(sa.update(ingest_pending).where(pending.job_id == job_id).values(job_id=fresh))

    # --- workers and maintenance ----------------------------------------------------------------

    def register_worker(self, worker_id: int) -> None:
        """Record this host and process as those of one of Procrastinate's workers."""
        with self._engine.begin() as connection:
            connection.execute(
                insert(ingest_workers)
                .values(id=worker_id, host=socket.gethostname(), pid=os.getpid())
                .on_conflict_do_nothing()
            )

    def record_heartbeat(self, worker_id: int) -> None:
        """Record that the worker is alive."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(procrastinate_workers)
                .where(procrastinate_workers.c.id == worker_id)
                .values(last_heartbeat=sa.func.now())
            )

    def recover(self) -> int:
        """Put the chunks of dead workers back into the queue; return their number.

        One statement finds and changes them, because other workers do the same at the same time.
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

    def jobs_of_worker(self, worker_id: int) -> frozenset[int]:
        """Return the ids of the jobs that the database assigns to a worker."""
        jobs = procrastinate_jobs.c
        with self._engine.connect() as connection:
            mine = sa.select(jobs.id).where(jobs.status == "doing", jobs.worker_id == worker_id)
            return frozenset(connection.scalars(mine))

    def reset_jobs(self, job_ids: Collection[int]) -> None:
        """Make jobs wait again that their worker does not know, because an outage hid their start or end from it."""
        jobs = procrastinate_jobs.c
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(procrastinate_jobs)
                .where(jobs.id.in_(job_ids), jobs.status == "doing")
                .values(status="todo", worker_id=None)
            )

    def tidy(self) -> None:
        """Create new jobs for chunks whose job was cancelled or deleted, and delete old records of finished chunks."""
        with self._engine.begin() as connection:
            lost = sa.select(ingest_pending.c.job_id).distinct().where(~_has_job())
            for job_id in connection.scalars(lost).all():
                self._replace_job(connection, job_id)
            connection.execute(
                sa.delete(ingest_chunks).where(ingest_chunks.c.finished_at < sa.func.now() - KEEP_CHUNKS)
            )

    # --- state ----------------------------------------------------------------------------------

    def is_empty(self) -> bool:
        """Whether no chunk that this machine could process is waiting or running."""
        waiting = sa.exists().where(procrastinate_jobs.c.queue_name.in_(queues()), ACTIVE)
        with self._engine.connect() as connection:
            return not connection.scalar(sa.select(waiting))

    def progress(self, run_id: UUID) -> RunProgress:
        """Return the outcomes of the run's references so far."""
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
        with self._engine.connect() as connection:  # one statement, or a finishing chunk would be counted in part
            row = connection.execute(sa.select(*totals, failed.label("failed")).where(of_run)).one()
        return RunProgress(**{name: getattr(row, name) for name in _COUNTED}, failed=row.failed or {})


def seconds(number: float) -> sa.Function[Any]:
    """Return a number of seconds as an SQL interval."""
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, number)


ALIVE = procrastinate_workers.c.last_heartbeat > sa.func.now() - seconds(STALLED_AFTER_S)
_COUNTED = ("stored", "copied", "unchanged", "frames")


def _has_job() -> sa.ColumnElement[bool]:
    return sa.exists().where(procrastinate_jobs.c.id == ingest_pending.c.job_id, ACTIVE)


def _queue_of(image: str) -> str:
    """Return the queue of a reference: a chunk holds only URLs, or only files of one machine."""
    return URL_QUEUE if is_url(image) else files_queue()


def _row(item: SourceItem, job_id: int, run_id: UUID) -> dict[str, Any]:
    return {
        "image": item.image,
        "source": item.source,
        "item": storable(item.to_json()),
        "job_id": job_id,
        "run_ids": [run_id],
    }
