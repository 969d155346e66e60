"""Judges relevance: an image's similarity to a text, on a scale from 0 to 1 that means the same for every text."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import sqlalchemy as sa
from cachetools import LRUCache
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from searchdb.db.best_effort import BestEffortWriter
from searchdb.db.tables import Embedding, embedding_models, image_sample, images, relevance_scale
from searchdb.records import EMBEDDING_DIMENSION, ModelIdentity
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.query_cache import QueryCache

SAMPLE_SIZE = 1000
"""Images that a text is compared with, which takes about a millisecond: their quartile is within 3 percent of the whole
collection's."""
MIN_SAMPLE = 20
"""Fewer images are not enough for a distribution: hits then have no relevance."""
SAMPLE_LOCK_KEY = 0x5A3B1E00
"""Key of the advisory lock that prevents two processes from sampling at once."""
MAX_BACKGROUNDS = 10_000
"""Texts whose backgrounds are kept in memory, about 2 MB."""
BACKGROUND = 0.25
"""The quantile of a text's similarities that is its background: low enough that half of the images, and more, may show
what is searched for without raising it."""
BACKGROUND_RANGE = (0.05, 0.95)
"""Quantiles of everyday words' backgrounds to which every text's is clipped: where nearly all images show what is
searched for, the background measures the match itself, not the text's bias."""
LIFT_RANGE = (0.10, 0.95)
"""Quantiles of everyday words' best lifts that are relevance 0 and 1: nearly every collection lacks a tenth of these
words, and nearly every collection shows a twentieth of them."""

# One statement, so that it is one transaction in autocommit, too; DO takes no parameters.
_REFRESH = text(
    """
    DO $$
    BEGIN
        PERFORM pg_advisory_xact_lock(<key>);
        DELETE FROM image_sample;
        INSERT INTO image_sample (image_id, embedding)
        SELECT id, embedding FROM images WHERE id IN (SELECT id FROM images ORDER BY random() LIMIT <size>);
        DELETE FROM relevance_scale;
    END $$
    """.replace("<key>", str(SAMPLE_LOCK_KEY)).replace("<size>", str(SAMPLE_SIZE))
)


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """How similarities to one text are judged in one collection.

    A similarity's lift is its distance above the text's background. The background is the lower quartile of the text's
    similarities to a sample of the whole collection; it is needed because CLIP's similarities differ as much by text as
    by image. Relevance 0 is the lift with which an everyday word finds its best image when no image shows it, 1 the
    lift when many do: the 10th and the 95th percentile of the best lifts of EVERYDAY_TEXTS in the sample. In between,
    relevance is linear.

    Both ends are measured, and so belong to the collection and the model together. A text that no image matches has a
    low relevance for all its hits, the best included. Relevance does not change the order of hits.
    """

    background: float
    low: float
    high: float

    def of(self, similarity: float) -> float:
        """Return the relevance, 0 to 1, of an image with this cosine similarity to the text."""
        return min(max((similarity - self.background - self.low) / (self.high - self.low), 0.0), 1.0)

    def similarity(self, relevance: float) -> float:
        """Return the lowest cosine similarity that has this relevance; -1 for 0, which every image reaches."""
        return -1.0 if relevance <= 0 else self.background + self.low + relevance * (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The two ends of relevance, and the range of backgrounds: a row of `relevance_scale`."""

    background_low: float
    background_high: float
    lift_low: float
    lift_high: float

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Scale | None:
        """Read the columns of `relevance_scale`; None where they are NULL: the scale is not measured yet."""
        return None if row["lift_low"] is None else cls(**{f.name: row[f.name] for f in fields(cls)})

    def relevance(self, background: float) -> Relevance:
        """Return how similarities to a text with this background are judged."""
        background = min(max(background, self.background_low), self.background_high)
        return Relevance(background=background, low=self.lift_low, high=self.lift_high)


SCALE_COLUMNS = tuple(relevance_scale.c[f.name] for f in fields(Scale))
"""The columns that `Scale.from_row` reads."""

_SCALE_OF_MODEL = sa.and_(
    embedding_models.c.id == relevance_scale.c.embedding_model_id,
    embedding_models.c.weights_sha256 == sa.bindparam("weights"),
)
_SELECT_SCALE = sa.select(*SCALE_COLUMNS).join(embedding_models, _SCALE_OF_MODEL)
_SIMILARITY = 1 - image_sample.c.embedding.cosine_distance(sa.bindparam("vector", type_=Embedding(EMBEDDING_DIMENSION)))
_MEASURED = sa.select(
    sa.func.percentile_cont(BACKGROUND).within_group(_SIMILARITY).label("background"),
    sa.func.count().label("sampled"),
).subquery("sample")
_STORED = sa.select(sa.func.count()).select_from(sa.select(images.c.id).limit(SAMPLE_SIZE).subquery())
_SELECT_BACKGROUND = sa.select(_MEASURED, _STORED.scalar_subquery().label("stored"), *SCALE_COLUMNS).select_from(
    _MEASURED.outerjoin(relevance_scale.join(embedding_models, _SCALE_OF_MODEL), sa.true())
)


class RelevanceJudge:
    """Judges how similar an image must be to a text, with one model in one database.

    Keeps the backgrounds of texts in memory for as long as the scale stays the same. Thread-safe.

    Args:
        cache: of the model's texts; computes the vectors of the everyday texts when the scale is measured.
        writer: stores the sample and the scale.
        everyday_texts: by which the scale is measured.
    """

    def __init__(
        self, cache: QueryCache, writer: BestEffortWriter, everyday_texts: Sequence[str] = EVERYDAY_TEXTS
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._everyday_texts = everyday_texts
        self._lock = threading.Lock()
        self._backgrounds: LRUCache[tuple[str, Scale], float] = LRUCache(MAX_BACKGROUNDS)

    def judge(
        self, connection: Connection, query: str, vector: np.ndarray, scale: Scale | None = None
    ) -> Relevance | None:
        """Return how similarities to a text are judged; None in a collection of less than MIN_SAMPLE images.

        Draws the sample when there is none or most of it is gone, then measures the scale, each in a transaction of
        its own. On a read-only database the sample stays as it is, None is returned where there is none, and a scale
        that is not stored is measured each time.

        Args:
            connection: in a transaction without uncommitted writes.
            query: the text.
            vector: the text's unit vector, float32 of shape (512,).
            scale: the stored one, if the caller has just read it.
        """
        scale = scale or self._stored_scale(connection)
        if scale is not None and (background := self._known_background(query, scale)) is not None:
            return scale.relevance(background)
        found = self._measure_background(connection, vector)
        if found["sampled"] < min(found["stored"], SAMPLE_SIZE) / 2:
            connection.commit()
            self._writer.write(connection, lambda: refresh_sample(connection))
            found = self._measure_background(connection, vector)
        if found["sampled"] < MIN_SAMPLE:
            return None
        scale = Scale.from_row(found) or self._measure_scale(connection)
        if scale is None:
            return None
        with self._lock:
            self._backgrounds[query, scale] = found["background"]
        return scale.relevance(found["background"])

    def _known_background(self, query: str, scale: Scale) -> float | None:
        with self._lock:
            return self._backgrounds.get((query, scale))

    def _stored_scale(self, connection: Connection) -> Scale | None:
        row = connection.execute(_SELECT_SCALE, {"weights": self._model.weights_sha256}).mappings().one_or_none()
        return None if row is None else Scale.from_row(row)

    def _measure_background(self, connection: Connection, vector: np.ndarray) -> Mapping[Any, Any]:
        """Return `background`, the numbers of images `sampled` and (up to SAMPLE_SIZE) `stored`, and the scale."""
        values = {"vector": vector, "weights": self._model.weights_sha256}
        return connection.execute(_SELECT_BACKGROUND, values).mappings().one()

    def _measure_scale(self, connection: Connection) -> Scale | None:
        """Measure the scale, and store it if the database may be written; None if the sample is gone meanwhile."""
        connection.commit()  # the model may take a while: hold no snapshot meanwhile
        words = self._cache.compute(self._everyday_texts)
        rows = connection.scalars(sa.select(image_sample.c.embedding)).all()
        if not rows:
            return None
        similarities = words @ np.stack(rows).T  # (words, images)
        backgrounds = np.quantile(similarities, BACKGROUND, axis=1)
        background_low, background_high = np.quantile(backgrounds, BACKGROUND_RANGE)
        lifts = similarities.max(axis=1) - backgrounds.clip(background_low, background_high)
        low, high = np.quantile(lifts, LIFT_RANGE)
        scale = Scale(
            background_low=float(background_low),
            background_high=float(background_high),
            lift_low=float(low),
            lift_high=float(max(high, low + 1e-6)),  # images that are all the same have one lift
        )
        self._writer.write(connection, lambda: _store_scale(connection, self._model, scale))
        return scale

    @property
    def _model(self) -> ModelIdentity:
        return self._cache.embedder.identity


def refresh_sample(connection: Connection) -> None:
    """Draw a new sample in one statement: SAMPLE_SIZE random images, or all there are.

    Call it when the collection has changed much; the vector index's build does. The connection may be in autocommit.
    """
    connection.execute(_REFRESH)


def _store_scale(connection: Connection, model: ModelIdentity, scale: Scale) -> None:
    ends = asdict(scale)
    model_id = sa.select(embedding_models.c.id).where(embedding_models.c.weights_sha256 == model.weights_sha256)
    connection.execute(
        insert(relevance_scale)
        .values(embedding_model_id=model_id.scalar_subquery(), **ends)
        .on_conflict_do_update(index_elements=["embedding_model_id"], set_=ends)
    )
