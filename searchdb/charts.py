"""The numbers behind the two plots of a collection: how fast its pictures came, and how similar texts are to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.current_model import current_model
from searchdb.db.tables import embedding_models, image_sample, ingest_chunks, query_embeddings

RATE_STEPS = 60
"""Bars of the rate's plot."""
SHORTEST_STEP_S = 1.0
LONGEST_PAUSE = timedelta(minutes=10)
"""Longer without a finished chunk, and what was before belongs to another run."""
LONGEST_RUN = timedelta(days=1)
MAX_CHUNKS = 20_000
"""Of the newest chunks only: at 64 pictures each more than a million."""
TEXTS = 100
"""Of the texts searched for last; with a thousand sampled pictures that is a few hundredths of a second."""
SIMILARITY_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class RateHistory:
    """References finished a second in the last run without a long pause, by steps of `step_s` seconds from `start`."""

    start: datetime
    end: datetime
    step_s: float
    per_s: Sequence[float]
    pictures: int


@dataclass(frozen=True, kw_only=True)
class SimilarityHistogram:
    """Cosine similarities of the texts searched for last to a sample of the pictures.

    `pairs` are the shares of all pairs of a text and a picture, `best` those of the texts' most similar picture, in
    equal steps from `low` to `high`; each adds up to 1.
    """

    low: float
    high: float
    pairs: Sequence[float]
    best: Sequence[float]
    texts: int
    pictures: int


def rate_history(connection: Connection) -> RateHistory | None:
    """Return how fast references were finished in the last run; None when nothing was ingested of late."""
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
        pictures=sum(count for _, count in chunks),
    )


def similarity_histogram(connection: Connection) -> SimilarityHistogram | None:
    """Return how similar texts and pictures are; None without a text or without a sample of the pictures."""
    model = current_model(connection)
    if model is None:
        return None
    texts = connection.scalars(
        sa.select(query_embeddings.c.embedding)
        .join(embedding_models)
        .where(embedding_models.c.weights_sha256 == model.weights_sha256)
        .order_by(query_embeddings.c.last_used_at.desc(), query_embeddings.c.query)
        .limit(TEXTS)
    ).all()
    pictures = connection.scalars(sa.select(image_sample.c.embedding)).all()
    if not texts or not pictures:
        return None
    similarities = np.stack(texts) @ np.stack(pictures).T  # (texts, pictures)
    low, high = float(similarities.min()), float(similarities.max())
    high = max(high, low + 1e-6)  # one text and one picture span nothing

    def shares(values: np.ndarray) -> list[float]:
        counts, _ = np.histogram(values, bins=SIMILARITY_STEPS, range=(low, high))
        return (counts / values.size).tolist()

    return SimilarityHistogram(
        low=low,
        high=high,
        pairs=shares(similarities),
        best=shares(similarities.max(axis=1)),
        texts=len(texts),
        pictures=len(pictures),
    )
