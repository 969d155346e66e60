"""Computes the distribution of similarities between recent texts and a sample of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.current_model import current_model
from searchdb.db.tables import embedding_models, image_sample, query_embeddings
from searchdb.search.everyday_texts import EVERYDAY_TEXTS

TEXTS = 100
"""Number of the most recent texts used; with a thousand sampled images this takes a few hundredths of a second."""
SIMILARITY_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class SimilarityHistogram:
    """Cosine similarities of the texts searched for last to a sample of the images.

    `pairs` is the distribution over all pairs of a text and an image, `best` over each text's most similar image, in
    equal steps from `low` to `high`; each adds up to 1.
    """

    low: float
    high: float
    pairs: Sequence[float]
    best: Sequence[float]
    texts: int
    images: int


def similarity_histogram(connection: Connection) -> SimilarityHistogram | None:
    """Return the histogram; None if there are no texts or no sample of the images."""
    model = current_model(connection)
    if model is None:
        return None
    of_model = embedding_models.c.weights_sha256 == model.weights_sha256
    texts = connection.scalars(
        sa.select(query_embeddings.c.embedding)
        .join(embedding_models)
        .where(
            of_model,
            query_embeddings.c.query.not_in(EVERYDAY_TEXTS),  # stored to measure relevance and recall
        )
        .order_by(query_embeddings.c.last_used_at.desc(), query_embeddings.c.query)
        .limit(TEXTS)
    ).all()
    sample = connection.scalars(sa.select(image_sample.c.embedding).join(embedding_models).where(of_model)).all()
    if not texts or not sample:
        return None
    similarities = (np.stack(texts) @ np.stack(sample).T).astype(float)  # (texts, images)
    low, high = float(similarities.min()), float(similarities.max())
    high = max(high, low + 1e-6)  # a single text and a single image span no range

    def shares(values: np.ndarray) -> list[float]:
        counts, _ = np.histogram(values, bins=SIMILARITY_STEPS, range=(low, high))
        return (counts / values.size).tolist()

    return SimilarityHistogram(
        low=low,
        high=high,
        pairs=shares(similarities),
        best=shares(similarities.max(axis=1)),
        texts=len(texts),
        images=len(sample),
    )
