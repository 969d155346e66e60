"""Tunes the index without being asked: on the stored texts, to which it adds the everyday texts if there are few."""

from __future__ import annotations

import logging
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Engine

from searchdb.config import DEFAULT_RECALL
from searchdb.db.tables import query_embeddings
from searchdb.db.vectors import VectorColumn, current_column
from searchdb.errors import DatabaseError, ModelError, QueryError
from searchdb.index.exact import MeasureCallback
from searchdb.index.recall import DEFAULT_SAMPLE, silent
from searchdb.index.tune import tune_index
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.query_cache import QueryCache

MARGIN = 0.3
"""Share of the misses allowed that is left over: texts that the index was not tuned with find a little less than those
that it was."""

MakeCache = Callable[[], QueryCache]
"""Returns the cache of the texts of the collection's model; it may raise ModelError."""

logger = logging.getLogger(__name__)


def self_tune(
    engine: Engine,
    cache: MakeCache | None,
    *,
    target: float = DEFAULT_RECALL,
    progress: MeasureCallback = silent,
    column: VectorColumn | None = None,
) -> None:
    """Tune match_images, unless another process is building or tuning.

    Args:
        cache: embeds the everyday texts where few texts are stored. Without it, or if its model is not available or
            not the collection's, only the stored texts are used: a roughly tuned index is better than none.
        target: the recall to tune to.
        column: whose index is tuned, by default the current model's.
    """
    if cache is not None and _stored_texts(engine, column) < DEFAULT_SAMPLE:
        try:
            with engine.connect() as connection:
                cache().embed(connection, EVERYDAY_TEXTS)
        except (ModelError, DatabaseError) as exc:
            logger.warning("the everyday texts, to tune the index with, were not embedded: %s", exc)
    try:
        tune_index(engine, target=target, margin=MARGIN, progress=progress, column=column)
    except QueryError as exc:  # all images were removed meanwhile
        logger.info("the index was not tuned: %s", exc)


def _stored_texts(engine: Engine, column: VectorColumn | None) -> int:
    """Return the number of texts that are stored for a column's model, at most those that tuning uses."""
    with engine.connect() as connection:
        column = column or current_column(connection)
        texts = sa.select(query_embeddings.c.query).where(query_embeddings.c.embedding_model_id == column.model_id)
        return connection.scalar(sa.select(sa.func.count()).select_from(texts.limit(DEFAULT_SAMPLE).subquery())) or 0
