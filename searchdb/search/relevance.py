"""Relevance: a text's similarity to a picture, on a scale from 0 to 1 that means the same for every text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import insert

from searchdb.db.best_effort import write_best_effort
from searchdb.db.tables import Embedding, embedding_models, image_sample, images, relevance_scale
from searchdb.records import EMBEDDING_DIMENSION, ModelIdentity

SAMPLE_SIZE = 1000
"""Pictures that a text is compared with, about a millisecond: their quartile is within 3 percent of the whole's."""
MIN_SAMPLE = 20
"""Fewer pictures are no distribution: with them no hit has a relevance."""
SAMPLE_LOCK_KEY = 0x5A3B1E00
"""Key of the advisory lock that keeps two samplings apart."""
MAX_KEPT = 10_000
"""Texts whose backgrounds a process keeps, about 1 MB."""
BACKGROUND = 0.25
"""The quantile of a text's similarities that counts as its background: low enough for half of the pictures, and more,
to show what is asked for without moving it."""
BACKGROUND_RANGE = (0.05, 0.95)
"""Quantiles of everyday words' backgrounds, within which every text's is held: where nearly all of the pictures show
what is asked for, the background is not the text's own leaning but the match itself."""
LIFT_RANGE = (0.10, 0.95)
"""Quantiles of everyday words' best lifts that are 0 and 1: hardly any collection shows every tenth of these words, and
any but the strangest shows every twentieth."""

EVERYDAY_WORDS = (
    "a person", "a man", "a woman", "a child", "a crowd", "a face", "a hand", "a dog", "a cat", "a bird", "a horse",
    "a cow", "a fish", "an insect", "a tree", "a flower", "a leaf", "a forest", "a mountain", "a river", "a lake",
    "the sea", "a beach", "a desert", "a field", "a garden", "snow", "the sky", "clouds", "the sun", "the moon",
    "night", "rain", "fog", "a city", "a street", "a road", "a bridge", "a building", "a house", "a church", "a room",
    "a kitchen", "a bed", "a table", "a chair", "a window", "a door", "stairs", "a car", "a bus", "a bicycle",
    "a train", "an airplane", "a boat", "food", "fruit", "vegetables", "bread", "a cup of coffee", "a bottle",
    "a book", "a computer", "a telephone", "written text", "a map", "a drawing", "a painting", "a statue", "a toy",
    "a ball", "sports", "a musical instrument", "clothes", "shoes", "a hat", "a bag", "a tool", "a machine", "fire",
    "a lamp", "glass", "metal", "wood", "stone", "paper",
)  # fmt: skip
"""What pictures commonly show, with no collection in mind: some of it is in any, and much of it is not."""

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

    A similarity's lift is how far it lies above the text's background: the lower quartile of the text's similarities to
    a sample of the whole collection, because CLIP's similarities differ by text as much as by picture. 0 is the lift
    with which an everyday word finds its best picture here when none shows it, 1 that of one which many show: the 10th
    and the 95th percentile of the best lifts of EVERYDAY_WORDS in the sample. Between them it is linear.

    So it is a matter of the collection and the model together, both ends are measured, and a text that nothing here
    answers has a low relevance for all its hits, the best included. The order of hits is that of their similarities.
    """

    background: float
    low: float
    high: float

    def of(self, similarity: float) -> float:
        """Return the relevance, 0 to 1, of a picture with this cosine similarity to the text."""
        return min(max((similarity - self.background - self.low) / (self.high - self.low), 0.0), 1.0)

    def similarity(self, relevance: float) -> float:
        """Return the least cosine similarity that has this relevance; -1 for 0, which every picture has."""
        return -1.0 if relevance <= 0 else self.background + self.low + relevance * (self.high - self.low)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What everyday words find in the sample, as `relevance_scale` has it."""

    background_low: float
    background_high: float
    lift_low: float
    lift_high: float

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Scale | None:
        """Return what a row with the columns of `relevance_scale` says; None where they are NULL, not measured yet."""
        return None if row["lift_low"] is None else cls(**{f.name: row[f.name] for f in fields(cls)})

    def relevance(self, background: float) -> Relevance:
        """Return how a text with this background is judged."""
        background = min(max(background, self.background_low), self.background_high)
        return Relevance(background=background, low=self.lift_low, high=self.lift_high)


class _Backgrounds:
    """Backgrounds of texts under one scale; the last MAX_KEPT of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scale: Scale | None = None
        self._of: dict[str, float] = {}

    def get(self, query: str, scale: Scale) -> float | None:
        with self._lock:
            return self._of.get(query) if scale == self._scale else None

    def put(self, query: str, scale: Scale, background: float) -> None:
        with self._lock:
            if scale != self._scale:
                self._scale = scale
                self._of.clear()
            while len(self._of) >= MAX_KEPT:
                del self._of[next(iter(self._of))]
            self._of[query] = background


_kept: WeakKeyDictionary[Engine, _Backgrounds] = WeakKeyDictionary()

SCALE_COLUMNS = tuple(relevance_scale.c[f.name] for f in fields(Scale))
"""What `Scale.from_row` reads."""

_SCALE_OF_MODEL = sa.and_(
    embedding_models.c.id == relevance_scale.c.embedding_model_id,
    embedding_models.c.weights_sha256 == sa.bindparam("weights"),
)
_SCALE = sa.select(*SCALE_COLUMNS).join(embedding_models, _SCALE_OF_MODEL)
_SIMILARITY = 1 - image_sample.c.embedding.cosine_distance(sa.bindparam("vector", type_=Embedding(EMBEDDING_DIMENSION)))
_SAMPLED = sa.select(
    sa.func.percentile_cont(BACKGROUND).within_group(_SIMILARITY).label("background"),
    sa.func.count().label("sampled"),
).subquery("sample")
_PICTURES = sa.select(sa.func.count()).select_from(sa.select(images.c.id).limit(SAMPLE_SIZE).subquery())
_LOOK = sa.select(_SAMPLED, _PICTURES.scalar_subquery().label("pictures"), *SCALE_COLUMNS).select_from(
    _SAMPLED.outerjoin(relevance_scale.join(embedding_models, _SCALE_OF_MODEL), sa.true())
)


def refresh_sample(connection: Connection) -> None:
    """Draw the sample anew, in one statement: SAMPLE_SIZE pictures by chance, or all there are.

    Call it when the collection has changed much; the vector index's build does. The connection may be in autocommit.
    """
    connection.execute(_REFRESH)


def relevance_for(
    connection: Connection,
    query: str,
    vector: np.ndarray,
    model: ModelIdentity,
    embed: Callable[[Sequence[str]], np.ndarray],
    scale: Scale | None = None,
) -> Relevance | None:
    """Return how similarities to a text are judged; None in a collection of less than MIN_SAMPLE pictures.

    What was found for a text is kept in this process until the scale is measured anew.

    Draws the sample when there is none or most of it is gone, and measures the scale's ends after that, in
    transactions of their own. In a database that may only be read the sample stays as it is, None is returned where
    there is none, and the ends are measured anew each time unless they were stored before.

    Args:
        connection: in no transaction whose writes are to be kept.
        query: the text.
        vector: the text's unit vector, float32 of shape (512,).
        model: the one that the vector and the pictures' are from.
        embed: returns unit vectors of texts, float32 of shape (n, 512); called when the scale is to be measured.
        scale: the stored one, where it has just been read.
    """
    kept = _kept.setdefault(connection.engine, _Backgrounds())
    if scale is None:
        row = connection.execute(_SCALE, {"weights": model.weights_sha256}).mappings().one_or_none()
        scale = None if row is None else Scale.from_row(row)
    if scale is not None and (background := kept.get(query, scale)) is not None:
        return scale.relevance(background)
    found = _look(connection, vector, model)
    if found["sampled"] < min(found["pictures"], SAMPLE_SIZE) / 2:
        connection.commit()
        write_best_effort(connection, lambda: refresh_sample(connection))
        found = _look(connection, vector, model)
    if found["sampled"] < MIN_SAMPLE:
        return None
    scale = Scale.from_row(found) or _measure(connection, model, embed)
    if scale is None:
        return None
    kept.put(query, scale, found["background"])
    return scale.relevance(found["background"])


def _look(connection: Connection, vector: np.ndarray, model: ModelIdentity) -> Mapping[Any, Any]:
    """Return the text's background, how many pictures are sampled and (up to SAMPLE_SIZE) there are, and the scale."""
    return connection.execute(_LOOK, {"vector": vector, "weights": model.weights_sha256}).mappings().one()


def _measure(
    connection: Connection, model: ModelIdentity, embed: Callable[[Sequence[str]], np.ndarray]
) -> Scale | None:
    """Measure the scale's ends, and store them if we may; None when the sample has gone meanwhile."""
    connection.commit()  # the model may take a while: hold no snapshot meanwhile
    words = embed(EVERYDAY_WORDS)
    rows = connection.scalars(sa.select(image_sample.c.embedding)).all()
    if not rows:
        return None
    similarities = words @ np.stack(rows).T  # (words, pictures)
    backgrounds = np.quantile(similarities, BACKGROUND, axis=1)
    background_low, background_high = np.quantile(backgrounds, BACKGROUND_RANGE)
    lifts = similarities.max(axis=1) - backgrounds.clip(background_low, background_high)
    low, high = np.quantile(lifts, LIFT_RANGE)
    scale = Scale(
        background_low=float(background_low),
        background_high=float(background_high),
        lift_low=float(low),
        lift_high=float(max(high, low + 1e-6)),  # pictures that are all the same have one lift
    )
    write_best_effort(connection, lambda: _store(connection, model, scale))
    return scale


def _store(connection: Connection, model: ModelIdentity, scale: Scale) -> None:
    ends = asdict(scale)
    model_id = sa.select(embedding_models.c.id).where(embedding_models.c.weights_sha256 == model.weights_sha256)
    connection.execute(
        insert(relevance_scale)
        .values(embedding_model_id=model_id.scalar_subquery(), **ends)
        .on_conflict_do_update(index_elements=["embedding_model_id"], set_=ends)
    )
