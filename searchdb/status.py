"""Reads the state of a collection for `searchdb status`: images, queue, workers, model, index and server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.current_model import current_model
from searchdb.db.database import Database
from searchdb.db.tables import (
    ingest_chunks,
    ingest_failures,
    ingest_pending,
    ingest_workers,
    procrastinate_jobs,
    procrastinate_workers,
)
from searchdb.index.status import IndexStatus, index_status
from searchdb.ingest.queue import ALIVE, seconds
from searchdb.ingest.store import NOT_STORED, Store
from searchdb.search.relevance import RelevanceStatus, relevance_status

RATE_WINDOW_S = 60.0
"""The rate is measured over the last minute, since a chunk finishes every few seconds."""


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker that is alive."""

    host: str
    pid: int
    started_at: datetime
    last_heartbeat: datetime


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """The queue: references waiting, references in chunks being processed, and references finished per second."""

    queued: int
    running: int
    rate_per_s: float
    workers: Sequence[WorkerStatus]


@dataclass(frozen=True, kw_only=True)
class CollectionStatus:
    """The state of a collection; `images`, `pending` and `failed` add up to the number of known references.

    `failures` counts the failed ones by error, most frequent first.
    """

    images: int
    pending: int
    failed: int
    failures: Mapping[str, int]
    queue: QueueStatus
    model: str | None
    relevance: RelevanceStatus
    index: IndexStatus
    server: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except for dates."""
        return {**asdict(self), "index": self.index.to_json()}


def collection_status(database: Database) -> CollectionStatus:
    """Return the state of the collection in a database."""
    counts = Store(database.engine).counts()
    with database.connect() as connection:
        model = current_model(connection)
        count = sa.func.count().label("count")
        by_error = sa.select(ingest_failures.c.error, count).where(NOT_STORED).group_by(ingest_failures.c.error)
        failures = connection.execute(by_error.order_by(count.desc(), ingest_failures.c.error)).mappings()
        return CollectionStatus(
            **counts,
            failures={row["error"]: row["count"] for row in failures},
            queue=queue_status(connection),
            model=None if model is None else model.name,
            relevance=relevance_status(connection),
            index=index_status(connection),
            server={
                "version": connection.exec_driver_sql("SHOW server_version").scalar_one(),
                "embedded": database.embedded,
                "url": database.masked_url,
            },
        )


def queue_status(connection: Connection) -> QueueStatus:
    """Return the state of the queue and its workers."""
    done, jobs, workers = ingest_chunks.c, procrastinate_jobs.c, procrastinate_workers.c
    with_jobs = ingest_pending.join(procrastinate_jobs, jobs.id == ingest_pending.c.job_id)
    being_processed = sa.select(sa.func.count()).select_from(with_jobs).where(jobs.status == "doing")
    each = sa.func.jsonb_each_text(done.failed).table_valued("key", "value")
    failed = sa.select(sa.func.sum(sa.cast(each.c.value, sa.BigInteger))).select_from(each).scalar_subquery()
    finished = sa.func.sum(done.stored + done.unchanged + sa.func.coalesce(failed, 0))
    recent = done.finished_at > sa.func.now() - seconds(RATE_WINDOW_S)
    alive = (
        sa.select(ingest_workers.c.host, ingest_workers.c.pid, ingest_workers.c.started_at, workers.last_heartbeat)
        .join_from(ingest_workers, procrastinate_workers)
        .where(ALIVE)
        .order_by(ingest_workers.c.id)
    )
    total = connection.scalar(sa.select(sa.func.count()).select_from(ingest_pending)) or 0
    running = connection.scalar(being_processed) or 0
    return QueueStatus(
        queued=total - running,
        running=running,
        rate_per_s=float(connection.scalar(sa.select(finished).where(recent)) or 0) / RATE_WINDOW_S,
        workers=[WorkerStatus(**row) for row in connection.execute(alive).mappings()],
    )
