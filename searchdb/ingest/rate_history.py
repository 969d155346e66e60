"""Reports how fast the last ingest run finished its references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.tables import ingest_chunks

RATE_STEPS = 60
"""Maximum number of steps of a history: the bars of its plot."""
SHORTEST_STEP_S = 1.0
LONGEST_PAUSE = timedelta(minutes=10)
"""A longer pause between two finished chunks separates two runs."""
LONGEST_RUN = timedelta(days=1)
MAX_CHUNKS = 20_000
"""Only the newest chunks are read: at 64 images each, more than a million images."""


@dataclass(frozen=True, kw_only=True)
class RateHistory:
    """References finished per second in the last run, in steps of `step_s` seconds from `start`."""

    start: datetime
    end: datetime
    step_s: float
    per_s: Sequence[float]
    references: int


def rate_history(connection: Connection) -> RateHistory | None:
    """Return the history of the last run; None if no finished chunk is recorded."""
    done = ingest_chunks.c
    each = sa.func.jsonb_each_text(done.failed).table_valued("key", "value")
    failed = sa.select(sa.func.sum(sa.cast(each.c.value, sa.BigInteger))).select_from(each).scalar_subquery()
    finished = (done.stored + done.unchanged + sa.func.coalesce(failed, 0)).label("count")
    newest_first = sa.select(done.finished_at, finished).order_by(done.finished_at.desc()).limit(MAX_CHUNKS)
    chunks: list[tuple[datetime, int]] = []
    for at, count in connection.execute(newest_first):
        if chunks and (chunks[-1][0] - at > LONGEST_PAUSE or chunks[0][0] - at > LONGEST_RUN):
            break
        chunks.append((at, int(count)))
    if not chunks:
        return None
    end, start = chunks[0][0], chunks[-1][0]
    step_s = max((end - start).total_seconds() / RATE_STEPS, SHORTEST_STEP_S)
    per_step = np.zeros(int((end - start).total_seconds() / step_s) + 1)
    for at, count in chunks:
        per_step[int((at - start).total_seconds() / step_s)] += count
    return RateHistory(
        start=start,
        end=end,
        step_s=step_s,
        per_s=(per_step / step_s).tolist(),
        references=sum(count for _, count in chunks),
    )
