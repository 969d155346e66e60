"""Caches the vectors of query texts, in this process's memory and in the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import sqlalchemy as sa
from cachetools import LRUCache, TTLCache
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.config import DEFAULT_MAX_CACHE_BYTES, QUERY_CACHE_SHARE
from searchdb.db.best_effort import BestEffortWriter, writable
from searchdb.db.current_model import claim_model
from searchdb.db.tables import Embedding, embedding_models, query_embeddings
from searchdb.embedder import Embedder
from searchdb.records import ModelIdentity, nfc

DEFAULT_MAX_BYTES = int(QUERY_CACHE_SHARE * DEFAULT_MAX_CACHE_BYTES)
"""About 12,000 texts: anonymous visitors fill the table, and it must not grow without limit."""
KEPT_SHARE = 0.9
"""Share of the limit that is left after eviction, so that not every new text has to evict an old one."""
UNMEASURED_SHARE = 0.01
"""Share of the limit by which each process may exceed it, since it takes longer to measure the table than to store."""
ROW_BYTES = 2_700
"""Bytes of a row beside its text: three rows with vectors fill a page of 8 kB. The text is also in the index."""
USE_NOTED_AFTER = "1 hour"
"""`last_used_at` is refreshed only when it is older than this, so that reading rarely writes."""
REMEMBERED_TEXTS = 2_000
"""Texts in a process's memory, about 4 MB."""
REMEMBERED_S = 3600.0
"""Seconds for which a long-running process does not ask the database for a text again. In that time the text's
`last_used_at` is not refreshed."""

_SELECT = sa.select(
    query_embeddings.c.query,
    query_embeddings.c.embedding,
    (query_embeddings.c.last_used_at < sa.func.now() - text(f"interval '{USE_NOTED_AFTER}'")).label("use_is_old"),
).where(
    query_embeddings.c.embedding_model_id
    == sa.select(embedding_models.c.id)
    .where(embedding_models.c.weights_sha256 == sa.bindparam("weights"))
    .scalar_subquery(),
    query_embeddings.c.query == sa.func.any(sa.bindparam("texts", type_=ARRAY(sa.Text))),
)

# What claim_model and an INSERT would do, in one statement, for a model that is the current one already.
_INSERT = text(
    """
    WITH model AS (
        SELECT id FROM embedding_models WHERE weights_sha256 = :weights AND current FOR SHARE
    ), inserted AS (
        INSERT INTO query_embeddings (embedding_model_id, query, embedding)
        SELECT id, :text, :vector FROM model
        ON CONFLICT DO NOTHING
    )
    SELECT id FROM model
    """
).bindparams(sa.bindparam("text", type_=sa.Text), sa.bindparam("vector", type_=Embedding()))

_BYTES = ROW_BYTES + 2 * sa.func.octet_length(query_embeddings.c.query)


def _ignore(_where: str, _count: int) -> None:
    pass


class QueryCache:
    """The vectors of one model's query texts, computed once and cached in memory and in the database.

    The database caches the texts of all users alike, and evicts the least recently used. SQL's text_embedding()
    reads that table but cannot refresh `last_used_at`; a text that was evicted is embedded again by `searchdb embed`,
    or by `searchdb sql` itself. A read-only database keeps what it has.

    Texts are cached in NFC, so that typing one on another keyboard finds the same vector.

    Thread-safe. Memory outlives the connection: keep one cache for as long as the model is in use.

    Args:
        embedder: computes the vectors of texts that are not cached.
        max_bytes: bytes of the texts in the database, those of other processes included.
        capacity: texts in memory; the least recently used are evicted first.
        trust_memory_s: seconds for which a text is taken from memory without asking the database, whose copy may have
            been evicted meanwhile. By default the database is always asked.
        on_hit: called with "memory" or "database" and the number of texts found there, in the thread that looks.
        clock: seconds from an arbitrary point in time.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        capacity: int = REMEMBERED_TEXTS,
        trust_memory_s: float = 0.0,
        on_hit: Callable[[str, int], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.embedder = embedder
        self.writer = BestEffortWriter()
        self._max_bytes = max_bytes
        self._unmeasured = max_bytes  # bytes stored since the table was measured; others may have filled it before
        self._on_hit = on_hit
        self._lock = threading.Lock()
        self._vectors: LRUCache[str, np.ndarray] = LRUCache(capacity)
        self._in_database: TTLCache[str, bool] = TTLCache(capacity, ttl=trust_memory_s, timer=clock)

    def embed(self, connection: Connection, texts: Sequence[str], *, must_store: bool = False) -> np.ndarray:
        """Return unit vectors of texts, float32 of shape (len(texts), dimension), and leave them in the database.

        The model is asked only for texts that are cached neither in memory nor in the database.

        Args:
            connection: in a transaction without uncommitted writes.
            texts: the texts.
            must_store: whether it is an error if the database refuses to store them; otherwise they are returned only.

        Raises:
            DatabaseError: PostgreSQL failed, or refused, with `must_store`.
        """
        texts = [nfc(each) for each in texts]
        vectors = self._from_memory(texts, only_in_database=True)
        self._on_hit("memory", len(vectors))
        if unknown := [each for each in dict.fromkeys(texts) if each not in vectors]:
            stored = self._from_database(connection, unknown)
            self._on_hit("database", len(stored))
            if missing := [each for each in unknown if each not in stored]:
                connection.commit()  # the model may take a while: hold no snapshot meanwhile
                computed = dict(zip(missing, self.compute(missing), strict=True))
                if must_store:
                    with writable(connection) as own:
                        self._store(own, computed)
                        own.commit()
                else:
                    self.writer.write(connection, lambda own: self._store(own, computed))
                vectors |= computed
            vectors |= stored
            self._remember(stored)
            with self._lock:
                self._in_database.update(dict.fromkeys(unknown, True))
        return self._stacked(texts, vectors)

    def compute(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors of texts, float32 of shape (len(texts), dimension), from memory or the model.

        The database is neither asked nor written to.
        """
        texts = [nfc(each) for each in texts]
        vectors = self._from_memory(texts)
        if vectors:
            self._on_hit("memory", len(vectors))
        if missing := [each for each in dict.fromkeys(texts) if each not in vectors]:
            computed = dict(zip(missing, self.embedder.embed_texts(missing), strict=True))
            self._remember(computed)
            vectors |= computed
        return self._stacked(texts, vectors)

    def _stacked(self, texts: Sequence[str], vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the texts' vectors in their order; a copy, so that callers cannot change what is cached."""
        shape = len(texts), self.embedder.identity.dimension
        return np.array([vectors[each] for each in texts], np.float32).reshape(shape)

    def _from_memory(self, texts: Iterable[str], *, only_in_database: bool = False) -> dict[str, np.ndarray]:
        """Return the vectors that are in memory, with `only_in_database` of those texts that the database has, too."""
        with self._lock:
            return {
                each: self._vectors[each]
                for each in texts
                if each in self._vectors and (not only_in_database or each in self._in_database)
            }

    def _remember(self, vectors: Mapping[str, np.ndarray]) -> None:
        with self._lock:
            for each, vector in vectors.items():
                self._vectors[each] = vector.copy()  # a view would keep the vectors of a whole batch in memory

    def _from_database(self, connection: Connection, texts: Sequence[str]) -> dict[str, np.ndarray]:
        weights = self.embedder.identity.weights_sha256
        rows = connection.execute(_SELECT, {"weights": weights, "texts": texts}).all()
        if used := [row.query for row in rows if row.use_is_old]:
            self.writer.write(connection, lambda own: _refresh_last_used(own, self.embedder.identity, used))
        return {row.query: row.embedding for row in rows}

    def _store(self, connection: Connection, vectors: Mapping[str, np.ndarray]) -> None:
        model = self.embedder.identity
        for each, vector in vectors.items():
            values = {"weights": model.weights_sha256, "text": each, "vector": vector}
            if connection.scalar(_INSERT, values) is None:
                claim_model(connection, model)
                connection.execute(_INSERT, values)
        self._unmeasured += sum(ROW_BYTES + 2 * len(each.encode()) for each in vectors)
        if self._unmeasured >= UNMEASURED_SHARE * self._max_bytes:
            _evict(connection, self._max_bytes)
            self._unmeasured = 0


def _refresh_last_used(connection: Connection, model: ModelIdentity, texts: Sequence[str]) -> None:
    of_model = query_embeddings.c.embedding_model_id == _id_of(model)
    # A row that another search refreshes or evicts at this moment is skipped.
    unlocked = (
        sa.select(query_embeddings.c.query)
        .where(of_model, query_embeddings.c.query.in_(texts))
        .with_for_update(skip_locked=True)
    )
    connection.execute(
        sa.update(query_embeddings)
        .where(of_model, query_embeddings.c.query.in_(unlocked))
        .values(last_used_at=sa.func.now())
    )


def stored_bytes(connection: Connection) -> int:
    """Return about how many bytes the stored texts take, with their vectors."""
    return connection.scalar(sa.select(sa.func.coalesce(sa.func.sum(_BYTES), 0))) or 0


def _evict(connection: Connection, max_bytes: int) -> None:
    """Delete the least recently used texts, of whichever model, if all together take more than `max_bytes`."""
    if stored_bytes(connection) <= max_bytes:
        return
    key = query_embeddings.c.embedding_model_id, query_embeddings.c.query
    by_use = (query_embeddings.c.last_used_at.desc(), *key)
    ranked = sa.select(*key, sa.func.sum(_BYTES).over(order_by=by_use, rows=(None, 0)).label("upto")).subquery()
    too_many = sa.select(ranked.c.embedding_model_id, ranked.c.query).where(ranked.c.upto > KEPT_SHARE * max_bytes)
    # A row that another search refreshes or evicts at this moment is skipped.
    unlocked = sa.select(*key).where(sa.tuple_(*key).in_(too_many)).with_for_update(skip_locked=True)
    connection.execute(sa.delete(query_embeddings).where(sa.tuple_(*key).in_(unlocked)))


def _id_of(model: ModelIdentity) -> sa.ScalarSelect[int]:
    same_weights = embedding_models.c.weights_sha256 == model.weights_sha256
    return sa.select(embedding_models.c.id).where(same_weights).scalar_subquery()
