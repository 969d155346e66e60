"""Judges relevance: measures and stores the collection's scale, and remembers what each text measures on the sample."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from cachetools import LRUCache, TTLCache
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY, insert

from searchdb.db.best_effort import BestEffortWriter
from searchdb.db.counts import count_rows
from searchdb.db.current_model import check_model
from searchdb.db.samples import random_keys
from searchdb.db.tables import (
    NORM_IN_RANGE,
    as_vector,
    embedding_models,
    image_sample,
    images,
    relevance_scale,
)
from searchdb.db.vectors import CURRENT, VectorColumn
from searchdb.errors import BusyError
from searchdb.records import ModelIdentity
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.image_sample import (
    MIN_SAMPLE,
    OF_CURRENT_MODEL,
    SAMPLE_SIZE,
    STORED,
    held,
    measure_on_sample,
)
from searchdb.search.query_cache import QueryCache
from searchdb.search.ranking import parameter, product
from searchdb.search.relevance_scale import Relevance, Scale

MAX_TEXTS = 10_000
"""Texts whose relevance is kept in memory, about 2 MB."""
KEPT_S = 600.0
"""Seconds for which a process that may not store the scale keeps its own measurement, of 2 MB: measuring takes as long
as many searches, and the collection changes slowly."""
MAX_SCALES = 4
"""Scales whose vector is kept in memory: the current one, and those that searches in progress still use."""

SCALE_COLUMNS = tuple(relevance_scale.c[f.name] for f in fields(Scale))
"""The columns that `Scale.from_row` reads."""

_SCALE_OF_MODEL = sa.and_(
    embedding_models.c.id == relevance_scale.c.embedding_model_id,
    embedding_models.c.weights_sha256 == sa.bindparam("weights"),
)
_SELECT_SCALE = sa.select(*SCALE_COLUMNS).join(embedding_models, _SCALE_OF_MODEL)
_SELECT_EVERYDAY_VECTOR = sa.select(relevance_scale.c.everyday_vector).join(embedding_models, _SCALE_OF_MODEL)

_MEASURED = (
    sa.select(
        sa.func.array_agg(product(image_sample.c.embedding, parameter("vector"))).label("similarities"),
        sa.func.array_agg(product(image_sample.c.embedding, _SELECT_EVERYDAY_VECTOR.scalar_subquery())).label(
            "everyday_similarities"
        ),
        sa.func.count().label("sampled"),
    )
    .where(OF_CURRENT_MODEL)
    .subquery("sample")
)
_SELECT_TEXT = sa.select(_MEASURED, STORED.label("stored"), *SCALE_COLUMNS).select_from(
    _MEASURED.outerjoin(relevance_scale.join(embedding_models, _SCALE_OF_MODEL), sa.true())
)
_SELECT_EVERYDAY_SIMILARITIES = sa.select(
    images.c.id, product(images.c.embedding, parameter("everyday")).label("similarity")
).where(images.c.id.in_(sa.bindparam("ids", expanding=True)))


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """A scale with what it was measured on.

    Attributes:
        sample: unit vectors of images, float32 of shape (sampled, dimension).
        everyday_similarities: their mean similarities to the everyday texts, of shape (sampled,).
    """

    scale: Scale
    sample: np.ndarray
    everyday_similarities: np.ndarray


class RelevanceJudge:
    """Judges how likely it is that an image shows what a text says, with one model in one database.

    Keeps the relevance of texts in memory for as long as the scale stays the same, and for KEPT_S a scale that cannot
    be stored. Thread-safe.

    Args:
        cache: of the model's texts, the everyday texts among them.
        writer: stores the sample and the scale.
        everyday_texts: texts to measure the scale with.
    """

    def __init__(
        self, cache: QueryCache, writer: BestEffortWriter, everyday_texts: Sequence[str] = EVERYDAY_TEXTS
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._everyday_texts = everyday_texts
        self._lock = threading.Lock()
        self._relevances: LRUCache[tuple[str, Scale], Relevance] = LRUCache(MAX_TEXTS)
        self._everyday_vectors: LRUCache[Scale, np.ndarray] = LRUCache(MAX_SCALES)
        self._measuring = threading.Lock()
        self._kept: TTLCache[tuple[()], _Measurement] = TTLCache(1, ttl=KEPT_S, timer=time.monotonic)

    def judge(
        self, connection: Connection, query: str, vector: np.ndarray, scale: Scale | None = None
    ) -> Relevance | None:
        """Return how images are judged for a text; None in a collection of less than MIN_SAMPLE images.

        Raises BusyError if another thread measures the scale for longer than MEASURE_WAIT_S.

        Draws the sample when there is none or most of it is gone, then measures the scale, each in a transaction of
        its own. On a read-only database neither is stored: what is missing is kept in memory.

        Args:
            connection: in a transaction without uncommitted writes.
            query: the text.
            vector: the text's unit vector, float32 of shape (dimension,).
            scale: the stored one, if the caller has just read it.
        """
        scale = scale or self._stored_scale(connection)
        measured = self._own_measurement() if scale is None else None
        if measured is not None:
            scale = measured.scale
        if scale is not None and (known := self._known(query, scale)) is not None:
            return known
        if measured is None:
            found = measure_on_sample(connection, self._writer, lambda: self._compare(connection, vector))
            scale = None if found is None else Scale.from_row(found)
            if found is not None and scale is not None:
                similarities, everyday = np.array(found["similarities"]), np.array(found["everyday_similarities"])
                return self._remember(query, scale, similarities, everyday)
            measured = self._measure_scale(connection)
            if measured is None:
                return None
        similarities = measured.sample @ vector
        return self._remember(query, measured.scale, similarities, measured.everyday_similarities)

    def calibrate(self, connection: Connection) -> None:
        """Measure the scale on the stored sample, and store it, so that no search has to.

        Args:
            connection: in a transaction without uncommitted writes.
        """
        if self._stored_scale(connection) is None:
            self._measure_scale(connection)

    def everyday_vector(self, connection: Connection, scale: Scale) -> np.ndarray:
        """Return the mean vector of the everyday texts, float32 of shape (dimension,), that made a scale.

        Its inner product with an image's vector is the image's mean similarity to the everyday texts.
        """
        with self._lock:
            vector = self._everyday_vectors.get(scale)
        if vector is None:
            vector = connection.scalar(_SELECT_EVERYDAY_VECTOR, {"weights": self._model.weights_sha256})
            if vector is None:  # a scale that could not be stored, and was measured long ago
                vector = self._cache.embed(connection, self._everyday_texts).mean(axis=0)
            with self._lock:
                self._everyday_vectors[scale] = vector
        return vector

    def everyday_similarities(self, connection: Connection, scale: Scale, ids: Sequence[int]) -> Mapping[int, float]:
        """Return the mean similarities of stored images to the everyday texts, by id."""
        values = {"everyday": self.everyday_vector(connection, scale), "ids": ids}
        return {row.id: row.similarity for row in connection.execute(_SELECT_EVERYDAY_SIMILARITIES, values)}

    def _known(self, query: str, scale: Scale) -> Relevance | None:
        with self._lock:
            return self._relevances.get((query, scale))

    def _stored_scale(self, connection: Connection) -> Scale | None:
        row = connection.execute(_SELECT_SCALE, {"weights": self._model.weights_sha256}).mappings().one_or_none()
        return None if row is None else Scale.from_row(row)

    def _compare(self, connection: Connection, vector: np.ndarray) -> Mapping[Any, Any]:
        """Compare a text with the sample.

        Returns `similarities`, `everyday_similarities`, the numbers of images `sampled` and (up to SAMPLE_SIZE)
        `stored`, and the scale.
        """
        values = {"vector": vector, "weights": self._model.weights_sha256}
        return connection.execute(_SELECT_TEXT, values).mappings().one()

    def _measure_scale(self, connection: Connection) -> _Measurement | None:
        """Measure the scale, and store it or, if the database may not be written, keep it in memory.

        Returns None if there are less than MIN_SAMPLE images. Raises BusyError if another thread takes long for it.
        """
        with held(self._measuring) as alone:  # the threads that wait for it need not measure it, too
            if not alone:
                raise BusyError("the scale of relevance is being measured: try again in a few seconds")
            if (kept := self._own_measurement()) is not None:
                return kept
            vectors = connection.scalars(sa.select(image_sample.c.embedding).where(OF_CURRENT_MODEL)).all()
            if len(vectors) < MIN_SAMPLE:  # the sample could not be stored, either
                chosen = sa.any_(sa.literal(random_keys(connection, images.c.id, SAMPLE_SIZE), ARRAY(sa.BigInteger)))
                usable = images.c.id == chosen, sa.text(NORM_IN_RANGE)
                vectors = connection.scalars(sa.select(as_vector(images.c.embedding)).where(*usable)).all()
            check_model(connection, self._model)  # after reading: the vectors must not be another model's
            if len(vectors) < MIN_SAMPLE:
                return None
            sample = np.stack(vectors)
            texts = self._cache.embed(connection, self._everyday_texts)
            scale = Scale.measure(texts @ sample.T, count_rows(connection, images).rows)
            vector = texts.mean(axis=0)
            with self._lock:
                self._everyday_vectors[scale] = vector
            measured = _Measurement(scale=scale, sample=sample, everyday_similarities=sample @ vector)
            self._writer.write(connection, lambda own: _store_scale(own, self._model, scale, vector))
            if self._stored_scale(connection) is None:
                with self._lock:
                    self._kept[()] = measured
            return measured

    def _own_measurement(self) -> _Measurement | None:
        """Return the scale that this process had to measure for itself lately, if any."""
        with self._lock:
            return self._kept.get(())

    def _remember(
        self, query: str, scale: Scale, similarities: np.ndarray, everyday_similarities: np.ndarray
    ) -> Relevance:
        relevance = scale.relevance(similarities, everyday_similarities)
        with self._lock:
            self._relevances[query, scale] = relevance
        return relevance

    @property
    def _model(self) -> ModelIdentity:
        return self._cache.embedder.identity


@dataclass(frozen=True, kw_only=True)
class RelevanceStatus:
    """What relevance is measured by: the number of images in the sample, and when the scale was measured, if it was.

    No constants of a model are used: the scale comes from the collection, whatever the model.
    """

    sampled: int
    measured_at: datetime | None


def relevance_status(connection: Connection) -> RelevanceStatus:
    """Return what relevance is measured by, with the current model."""
    measured_at = sa.select(relevance_scale.c.made_at).join(embedding_models).where(embedding_models.c.current)
    return RelevanceStatus(
        sampled=connection.scalar(sa.select(sa.func.count()).select_from(image_sample).where(OF_CURRENT_MODEL)) or 0,
        measured_at=connection.scalar(measured_at),
    )


def calibrate(connection: Connection, cache: QueryCache, column: VectorColumn | None = None) -> None:
    """Measure and store the scale of relevance with the model of a cache; call it after `refresh_sample`.

    A process that may only read the collection cannot store it.

    Args:
        connection: in a transaction without uncommitted writes.
        cache: of the texts of the column's model.
        column: whose vectors are judged, by default the current model's. That of a model to which the collection is
            being switched is measured beforehand, so that the first search by it finds its scale.

    Raises:
        ModelError: the model is not available, or not the collection's.
    """
    if column is None or column.name == CURRENT:
        RelevanceJudge(cache, cache.writer).calibrate(connection)
        return
    of_model = image_sample.c.embedding_model_id == column.model_id
    vectors = connection.scalars(sa.select(image_sample.c.embedding).where(of_model)).all()
    if len(vectors) >= MIN_SAMPLE:
        everyday = cache.embed(connection, EVERYDAY_TEXTS)
        measure_scale(connection, cache.embedder.identity, vectors, list(everyday))
        connection.commit()


def measure_scale(
    connection: Connection,
    model: ModelIdentity,
    sample: Sequence[np.ndarray],
    everyday: Sequence[np.ndarray],
) -> None:
    """Measure and store the scale of relevance of a model that is not the current one.

    Args:
        connection: in a transaction.
        model: is in `embedding_models`.
        sample: unit vectors of images by the model; less than MIN_SAMPLE give no scale.
        everyday: its unit vectors of EVERYDAY_TEXTS.
    """
    if len(sample) >= MIN_SAMPLE and len(everyday):
        texts = np.stack(everyday)
        scale = Scale.measure(texts @ np.stack(sample).T, count_rows(connection, images).rows)
        _store_scale(connection, model, scale, texts.mean(axis=0))


def _store_scale(connection: Connection, model: ModelIdentity, scale: Scale, everyday_vector: np.ndarray) -> None:
    values = {**asdict(scale), "everyday_vector": everyday_vector}
    model_id = sa.select(embedding_models.c.id).where(embedding_models.c.weights_sha256 == model.weights_sha256)
    connection.execute(
        insert(relevance_scale)
        .values(embedding_model_id=model_id.scalar_subquery(), **values)
        .on_conflict_do_update(index_elements=["embedding_model_id"], set_=values | {"made_at": sa.func.now()})
    )
