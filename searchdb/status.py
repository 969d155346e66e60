"""Reads the state of a collection for `searchdb status`: images, queue, workers, watches, model, index, space, server.

Takes no longer for a large collection: what is more than `counts.EXACT_UP_TO` is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.config import Settings
from searchdb.db.counts import RowCount, count_rows
from searchdb.db.current_model import current_model, unverified_row
from searchdb.db.database import Database
from searchdb.db.samples import block_sample
from searchdb.db.switch_tables import unembedded_images
from searchdb.db.tables import (
    images,
    ingest_chunks,
    ingest_failures,
    ingest_pending,
    ingest_workers,
    procrastinate_jobs,
    procrastinate_workers,
)
from searchdb.index.status import IndexStatus, index_status
from searchdb.ingest.counts import COUNT_FAILED, COUNT_PENDING, NOT_STORED
from searchdb.ingest.queue import ALIVE, seconds
from searchdb.ingest.store import Store
from searchdb.search.relevance import RelevanceStatus, relevance_status
from searchdb.storage import SpaceUse, space_use
from searchdb.switch.state import SwitchStatus, switch_status
from searchdb.watch.registry import WatchStatus, read_watches

RATE_WINDOW_S = 60.0
"""The rate is measured over the last minute, since a chunk finishes every few seconds."""
SAMPLED_FAILURES = 10_000
"""About how many failures are counted by error if there are more: reading them takes a few milliseconds."""


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """A worker that is alive."""

    host: str
    pid: int
    started_at: datetime
    last_heartbeat: datetime


@dataclass(frozen=True, kw_only=True)
class QueueStatus:
    """The queue: references waiting, references in chunks being processed, and references finished per second.

    `exact` says whether `queued` is, or an estimate.
    """

    queued: int
    exact: bool
    running: int
    rate_per_s: float
    workers: Sequence[WorkerStatus]


@dataclass(frozen=True, kw_only=True)
class CollectionStatus:
    """The state of a collection; `images`, `pending` and `failed` add up to the number of known references.

    `failures` counts the failed ones by error, most frequent first. `estimated` names those of `images`, `pending` and
    `failed` that are estimates, because they are more than 10,000; if `failed` is one, so are `failures`. `verified` is
    false if the vectors came from elsewhere, and nobody has seen the weights of the `model` that is named. `switch` is
    the open change of the model, and `unembedded` the number of images that the current model could not embed.
    """

    images: int
    pending: int
    failed: int
    estimated: Sequence[str]
    failures: Mapping[str, int]
    queue: QueueStatus
    watches: Sequence[WatchStatus]
    model: str | None
    verified: bool
    relevance: RelevanceStatus
    index: IndexStatus
    space: Sequence[SpaceUse]
    server: dict[str, Any]
    switch: SwitchStatus | None
    unembedded: int

    def count(self, name: str) -> RowCount:
        """Return `images`, `pending` or `failed` with whether it is exact."""
        return RowCount(rows=getattr(self, name), exact=name not in self.estimated)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except for dates."""
        return {**asdict(self), "index": self.index.to_json()}


def collection_status(database: Database, settings: Settings, *, as_reader: bool = False) -> CollectionStatus:
    """Return the state of the collection in a database, and of the home that the settings name.

    With `as_reader` the database is read by the role that may only read.
    """
    engine = database.reader if as_reader else database.engine
    with engine.connect() as connection:
        counts = _counts(connection, Store(engine))
        model = current_model(connection)
        return CollectionStatus(
            images=counts["images"].rows,
            pending=counts["pending"].rows,
            failed=counts["failed"].rows,
            estimated=[name for name, count in counts.items() if not count.exact],
            failures=_failures_by_error(connection, counts["failed"]),
            queue=queue_status(connection),
            watches=read_watches(connection),
            model=None if model is None else model.name,
            verified=unverified_row(connection) is None,
            relevance=relevance_status(connection),
            index=index_status(connection),
            space=list(space_use(connection, settings, embedded=database.embedded)),
            server={
                "version": connection.exec_driver_sql("SHOW server_version").scalar_one(),
                "embedded": database.embedded,
                "url": database.masked_url,
            },
            switch=switch_status(connection),
            unembedded=count_rows(connection, unembedded_images).rows,
        )


def _counts(connection: Connection, store: Store) -> dict[str, RowCount]:
    """Return the numbers of `images`, `pending` and `failed` references."""
    rows = {"images": images, "pending": ingest_pending, "failed": ingest_failures}
    counts = {name: count_rows(connection, table) for name, table in rows.items()}
    if all(count.exact for count in counts.values()):  # in one statement, so that all are of the same moment
        return {name: RowCount(rows=count) for name, count in store.counts().items()}
    for name, statement in (("pending", COUNT_PENDING), ("failed", COUNT_FAILED)):
        if counts[name].exact:
            counts[name] = RowCount(rows=connection.scalar(statement) or 0)
    return counts


def _failures_by_error(connection: Connection, failed: RowCount) -> dict[str, int]:
    """Count the failures by error, the most frequent first; if they are estimated, in a sample."""
    count = sa.func.count().label("count")
    if failed.exact:
        by_error = sa.select(ingest_failures.c.error, count).where(NOT_STORED).group_by(ingest_failures.c.error)
        found = connection.execute(by_error.order_by(count.desc(), ingest_failures.c.error))
        return {error: number for error, number in found}  # noqa: C416 - dict() does not know the types
    sample = block_sample(ingest_failures, min(SAMPLED_FAILURES / failed.rows, 1.0), seed=0)
    by_error = sa.select(sample.c.error, count).group_by(sample.c.error).order_by(count.desc(), sample.c.error)
    found = connection.execute(by_error).all()
    scale = failed.rows / max(sum(number for _, number in found), 1)
    return {error: round(scale * number) for error, number in found}


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
    total = count_rows(connection, ingest_pending)
    running = connection.scalar(being_processed) or 0
    return QueueStatus(
        queued=max(total.rows - running, 0),
        exact=total.exact,
        running=running,
        rate_per_s=float(connection.scalar(sa.select(finished).where(recent)) or 0) / RATE_WINDOW_S,
        workers=[WorkerStatus(**row) for row in connection.execute(alive).mappings()],
    )
