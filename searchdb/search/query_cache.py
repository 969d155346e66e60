"""The vectors of texts asked for before, in the database and in memory: bounded, and apart for every model."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.best_effort import write_best_effort
from searchdb.db.current_model import claim_model
from searchdb.db.tables import Embedding, embedding_models, query_embeddings
from searchdb.records import EMBEDDING_DIMENSION, ModelIdentity

MAX_CACHED = 10_000
"""Texts kept for one model, about 25 MB: anonymous visitors fill the cache, and it must not grow with them."""
KEPT = 0.9
"""Share of them that is left when there are too many, so that not every new text has to look for an old one."""
COUNTED_EVERY = 100
"""One new text in so many, by chance, has all of them counted, which takes longer than keeping it."""
TOUCHED_AFTER = "1 hour"
"""Age of the last note of use from which on a new one is made: reading shall seldom write."""
REMEMBERED_TEXTS = 2_000
"""Texts that a process remembers, about 4 MB."""
REMEMBERED_S = 3600.0
"""Seconds for which the database is not asked again for a text, and so learns nothing of its use."""

_LOOKUP = sa.select(
    query_embeddings.c.query,
    query_embeddings.c.embedding,
    (query_embeddings.c.last_used_at < sa.func.now() - text(f"interval '{TOUCHED_AFTER}'")).label("unnoted"),
).where(
    query_embeddings.c.embedding_model_id
    == sa.select(embedding_models.c.id)
    .where(embedding_models.c.weights_sha256 == sa.bindparam("weights"))
    .scalar_subquery(),
    query_embeddings.c.query == sa.func.any(sa.bindparam("texts", type_=ARRAY(sa.Text))),
)

# What claim_model and an INSERT would do, in one go, where the model is the current one already.
_KEEP = text(
    """
    WITH model AS (
        SELECT id FROM embedding_models WHERE weights_sha256 = :weights AND current FOR SHARE
    ), kept AS (
        INSERT INTO query_embeddings (embedding_model_id, query, embedding)
        SELECT id, :text, :vector FROM model
        ON CONFLICT DO NOTHING
    )
    SELECT id FROM model
    """
).bindparams(sa.bindparam("text", type_=sa.Text), sa.bindparam("vector", type_=Embedding(EMBEDDING_DIMENSION)))

_observers: WeakKeyDictionary[Engine, Callable[[str, int], None]] = WeakKeyDictionary()


def observe(engine: Engine, observer: Callable[[str, int], None]) -> None:
    """Have `observer` told, at every look for texts and in its thread, how many were in "memory" or in the "database".

    The others are those that the model is asked for.
    """
    _observers[engine] = observer


class TextMemory:
    """Vectors of texts in this process's memory: the least recently used go first, and each after some time.

    Args:
        capacity: texts.
        seconds: for which each is remembered.
    """

    def __init__(self, capacity: int = REMEMBERED_TEXTS, seconds: float = math.inf) -> None:
        self._capacity = capacity
        self._seconds = seconds
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, tuple[float, np.ndarray]] = OrderedDict()

    def get(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """Return the unit vectors of those texts that are remembered."""
        oldest = time.monotonic() - self._seconds
        found: dict[str, np.ndarray] = {}
        with self._lock:
            for each in texts:
                since, vector = self._vectors.get(each, (-math.inf, None))
                if vector is not None and since >= oldest:
                    self._vectors.move_to_end(each)
                    found[each] = vector
        return found

    def put(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Remember unit vectors of texts."""
        now = time.monotonic()
        with self._lock:
            for each, vector in vectors.items():
                self._vectors[each] = (now, vector.copy())  # a row would keep all the others in memory
                self._vectors.move_to_end(each)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)


def embed_texts(
    connection: Connection,
    texts: Sequence[str],
    model: ModelIdentity,
    embed: Callable[[Sequence[str]], np.ndarray],
    memory: TextMemory | None = None,
) -> np.ndarray:
    """Return unit vectors of texts, float32 of shape (n, 512), asking the model only for those not cached.

    The database is not asked for what the `memory` of this model's texts holds. It keeps all texts alike, whoever
    asked: the least recently used go first. SQL's text_embedding() reads the cache and cannot note that it did; a text
    it misses is embedded again by `searchdb embed`, or by `searchdb sql` itself. A database that may only be read keeps
    what it has.
    """
    vectors = memory.get(texts) if memory else {}
    observer = _observers.get(connection.engine, lambda where, count: None)
    observer("memory", len(vectors))
    if unknown := [each for each in dict.fromkeys(texts) if each not in vectors]:
        found = _look_up(connection, unknown, model)
        observer("database", len(found))
        if missing := [each for each in unknown if each not in found]:
            connection.commit()  # the model may take a while: hold no snapshot meanwhile
            new = dict(zip(missing, embed(missing), strict=True))
            write_best_effort(connection, lambda: _keep(connection, new, model))
            found |= new
        if memory:
            memory.put(found)
        vectors |= found
    return np.stack([vectors[each] for each in texts])


def _look_up(connection: Connection, texts: Sequence[str], model: ModelIdentity) -> dict[str, np.ndarray]:
    rows = connection.execute(_LOOKUP, {"weights": model.weights_sha256, "texts": texts}).all()
    if unnoted := [row.query for row in rows if row.unnoted]:
        write_best_effort(connection, lambda: _touch(connection, model, unnoted))
    return {row.query: row.embedding for row in rows}


def _keep(connection: Connection, vectors: Mapping[str, np.ndarray], model: ModelIdentity) -> None:
    for each, vector in vectors.items():
        given = {"weights": model.weights_sha256, "text": each, "vector": vector}
        if connection.scalar(_KEEP, given) is None:
            claim_model(connection, model)
            connection.execute(_KEEP, given)
    if random.random() < len(vectors) / COUNTED_EVERY:  # noqa: S311
        _evict(connection, model)


def _touch(connection: Connection, model: ModelIdentity, texts: Sequence[str]) -> None:
    mine = query_embeddings.c.embedding_model_id == _id_of(model)
    # What another search notes or removes at this moment needs no second hand.
    theirs = (
        sa.select(query_embeddings.c.query)
        .where(mine, query_embeddings.c.query.in_(texts))
        .with_for_update(skip_locked=True)
    )
    connection.execute(
        sa.update(query_embeddings).where(mine, query_embeddings.c.query.in_(theirs)).values(last_used_at=sa.func.now())
    )


def _evict(connection: Connection, model: ModelIdentity) -> None:
    mine = query_embeddings.c.embedding_model_id == _id_of(model)
    if (connection.scalar(sa.select(sa.func.count()).select_from(query_embeddings).where(mine)) or 0) <= MAX_CACHED:
        return
    old = (
        sa.select(query_embeddings.c.query)
        .where(mine)
        .order_by(query_embeddings.c.last_used_at.desc(), query_embeddings.c.query)
        .offset(int(KEPT * MAX_CACHED))
        .with_for_update(skip_locked=True)
    )
    connection.execute(sa.delete(query_embeddings).where(mine, query_embeddings.c.query.in_(old)))


def _id_of(model: ModelIdentity) -> sa.ScalarSelect[int]:
    same = embedding_models.c.weights_sha256 == model.weights_sha256
    return sa.select(embedding_models.c.id).where(same).scalar_subquery()
