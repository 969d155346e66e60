"""Embeds the stored texts with the model that the collection is being switched to, and measures its relevance scale."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import insert

from searchdb.batches import batched
from searchdb.db.open_switch import OpenSwitch
from searchdb.db.tables import image_sample, query_embeddings
from searchdb.embedder import Embedder
from searchdb.errors import SwitchError
from searchdb.records import nfc
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.image_sample import refresh_sample
from searchdb.search.relevance import measure_scale

BATCH = 256
"""Texts embedded and stored at a time."""

_MISSING = text(
    """
    SELECT query FROM query_embeddings AS old WHERE embedding_model_id = :old AND NOT EXISTS (
        SELECT FROM query_embeddings AS new WHERE new.query = old.query AND new.embedding_model_id = :new
    )
    LIMIT :size
    """
)
_STILL_OPEN = text("SELECT id FROM model_switches WHERE id = :id AND ended_at IS NULL AND phase <> 'abort' FOR SHARE")
_LAST_USED = text(
    """
    UPDATE query_embeddings AS new SET last_used_at = old.last_used_at FROM query_embeddings AS old
    WHERE new.query = old.query AND new.embedding_model_id = :new AND old.embedding_model_id = :old
    AND new.query = ANY (:texts)
    """
)


def embed_texts(connection: Connection, switch: OpenSwitch, embedder: Embedder, *, commit: bool = False) -> int:
    """Embed the stored texts of the current model, and the everyday texts, that have no vector by the new one.

    Returns their number. `commit` ends the transaction after each batch; otherwise the caller does.

    Raises:
        ModelError: the model cannot be loaded.
        SwitchError: the switch was aborted.
    """
    stored = sa.select(query_embeddings.c.query).where(
        query_embeddings.c.embedding_model_id == switch.model_id, query_embeddings.c.query.in_(EVERYDAY_TEXTS)
    )
    known = set(connection.scalars(stored))
    done = 0
    for batch in batched((nfc(each) for each in EVERYDAY_TEXTS if each not in known), BATCH):
        done += _embed(connection, switch, embedder, batch, commit=commit)
    values = {"old": switch.from_model_id, "new": switch.model_id, "size": BATCH}
    while missing := connection.scalars(_MISSING, values).all():
        done += _embed(connection, switch, embedder, missing, commit=commit)
    return done


def measure_relevance(engine: Engine, switch: OpenSwitch, embedder: Embedder) -> None:
    """Draw the sample of the new vectors, and measure the scale of relevance on it; the texts must be embedded."""
    with engine.begin() as connection:
        refresh_sample(connection, switch.column)
        of_model = image_sample.c.embedding_model_id == switch.model_id
        vectors = connection.scalars(sa.select(image_sample.c.embedding).where(of_model)).all()
        everyday = sa.select(query_embeddings.c.embedding).where(
            query_embeddings.c.embedding_model_id == switch.model_id,
            query_embeddings.c.query.in_([nfc(each) for each in EVERYDAY_TEXTS]),
        )
        measure_scale(connection, embedder.identity, vectors, connection.scalars(everyday).all())


def _embed(
    connection: Connection, switch: OpenSwitch, embedder: Embedder, texts: Sequence[str], *, commit: bool
) -> int:
    if commit:
        connection.commit()  # the model may take a while: hold no snapshot meanwhile
    vectors = embedder.embed_texts(list(texts))
    rows = [
        {"embedding_model_id": switch.model_id, "query": query, "embedding": vector}
        for query, vector in zip(texts, vectors, strict=True)
    ]
    # An abort that began has noted it, and one that begins now waits: it finds these texts.
    if connection.scalar(_STILL_OPEN, {"id": switch.id}) is None:
        raise SwitchError(f"the switch to {switch.model} was aborted: see `searchdb model status`")
    connection.execute(insert(query_embeddings).on_conflict_do_nothing(), rows)
    connection.execute(_LAST_USED, {"new": switch.model_id, "old": switch.from_model_id, "texts": list(texts)})
    if commit:
        connection.commit()
    return len(rows)
