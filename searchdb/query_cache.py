"""The vectors of query texts that were asked for before, in the database: bounded, and apart for every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import ARRAY, insert

from searchdb.models import claim_model
from searchdb.readonly import leave_note
from searchdb.records import ModelIdentity
from searchdb.tables import embedding_models, query_embeddings

MAX_CACHED = 10_000
"""Texts kept for one model, about 25 MB: anonymous visitors fill the cache, and it must not grow with them."""
KEPT = 0.9
"""Share of them that is left when there are too many, so that not every new text has to look for an old one."""
TOUCHED_AFTER = "1 hour"
"""Age of the last note of use from which on a new one is made: reading shall seldom write."""

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

_observers: WeakKeyDictionary[Engine, Callable[[int], None]] = WeakKeyDictionary()


def observe(engine: Engine, observer: Callable[[int], None]) -> None:
    """Have `observer` told, at every look into the cache of this database and in its thread, how many texts were there.

    The others are those that the model is asked for.
    """
    _observers[engine] = observer


def embed_texts(
    connection: Connection,
    texts: Sequence[str],
    model: ModelIdentity,
    embed: Callable[[Sequence[str]], np.ndarray],
) -> np.ndarray:
    """Return unit vectors of texts, float32 of shape (n, 512), asking the model only for those not cached.

    All texts are kept alike, whoever asked: the least recently used go first. SQL's text_embedding() reads the cache
    and cannot note that it did; a text it misses is embedded again by `searchdb embed`, or by `searchdb sql` itself.
    A database that may only be read keeps what it has.
    """
    rows = connection.execute(_LOOKUP, {"weights": model.weights_sha256, "texts": list(set(texts))}).all()
    vectors: dict[str, np.ndarray] = {row.query: row.embedding for row in rows}
    if unnoted := [row.query for row in rows if row.unnoted]:
        leave_note(connection, lambda: _touch(connection, model, unnoted))
    missing = [each for each in dict.fromkeys(texts) if each not in vectors]
    if (observer := _observers.get(connection.engine)) is not None:
        observer(len(vectors))
    if missing:
        connection.commit()  # the model may take a while: hold no snapshot meanwhile
        new = dict(zip(missing, embed(missing), strict=True))
        leave_note(connection, lambda: _keep(connection, new, model))
        vectors |= new
    return np.stack([vectors[each] for each in texts])


def _keep(connection: Connection, vectors: Mapping[str, np.ndarray], model: ModelIdentity) -> None:
    model_id = claim_model(connection, model)
    connection.execute(
        insert(query_embeddings).on_conflict_do_nothing(),
        [{"embedding_model_id": model_id, "query": each, "embedding": vector} for each, vector in vectors.items()],
    )
    _evict(connection, model_id)


def _touch(connection: Connection, model: ModelIdentity, texts: Sequence[str]) -> None:
    ours = sa.select(embedding_models.c.id).where(embedding_models.c.weights_sha256 == model.weights_sha256)
    model_id = ours.scalar_subquery()
    # What another search notes or removes at this moment needs no second hand.
    theirs = (
        sa.select(query_embeddings.c.query)
        .where(query_embeddings.c.embedding_model_id == model_id, query_embeddings.c.query.in_(texts))
        .with_for_update(skip_locked=True)
    )
    connection.execute(
        sa.update(query_embeddings)
        .where(query_embeddings.c.embedding_model_id == model_id, query_embeddings.c.query.in_(theirs))
        .values(last_used_at=sa.func.now())
    )


def _evict(connection: Connection, model_id: int) -> None:
    mine = query_embeddings.c.embedding_model_id == model_id
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
