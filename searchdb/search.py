"""Reads the collection: the pictures nearest to a text, a picture, a stored picture, or a combination of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from searchdb.errors import ImageNotFoundError, QueryError
from searchdb.models import check_model, claim_model
from searchdb.records import EMBEDDING_DIMENSION, Hit, ModelIdentity, StoredImage
from searchdb.tables import Embedding, embedding_models, images, query_embeddings

MAX_HITS = 1000
"""Deepest hit that paging reaches: beyond it an approximate index has nothing trustworthy to say."""
MAX_QUERY_CHARACTERS = 2000
"""Longest query text: CLIP reads about the first 60 words, PostgreSQL keeps keys of at most 2,704 bytes."""
MAX_QUERY_BYTES = 2600

_STORED_COLUMNS = [images.c[f.name] for f in fields(StoredImage)]

# Sorting by random() would read the whole table. Chance picks ids here, more of them than needed because of gaps, and
# the newest pictures fill up where too few were met.
_SAMPLE = sa.select(*_STORED_COLUMNS).where(
    images.c.id.in_(
        sa.select(
            sa.text(
                """
                WITH span AS (SELECT min(id) AS low, max(id) AS high FROM images),
                guessed AS (
                    SELECT DISTINCT low + floor(random() * (high - low + 1))::bigint AS id
                    FROM span, generate_series(1, 4 * :count)
                )
                SELECT id FROM (
                    (SELECT images.id, 0 AS turn FROM images JOIN guessed USING (id))
                    UNION ALL
                    (SELECT id, 1 FROM images ORDER BY id DESC LIMIT :count)
                ) AS found
                GROUP BY id ORDER BY min(turn), random() LIMIT :count
                """
            )
            .columns(sa.column("id", sa.BigInteger))
            .subquery()
        )
    )
)


class QueryEmbedder(Protocol):
    """What a search needs of the model."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is; known without loading it."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(texts), 512)."""
        ...

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(pictures), 512)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for: at least one of `text`, `picture` (RGB) and `like` (an id), and what it should not be."""

    text: str | None = None
    picture: Image.Image | None = None
    like: int | None = None
    exclude: str | None = None


class Searcher:
    """Searches one collection with one model.

    Args:
        engine: the database.
        embedder: the model; asked only for what the query cache does not hold.
    """

    def __init__(self, engine: Engine, embedder: QueryEmbedder) -> None:
        self._engine = engine
        self._embedder = embedder

    def search(self, query: Query, *, threshold: float = 0.0, count: int = 10, offset: int = 0) -> list[Hit]:
        """Return the hits `offset` to `offset + count` of the pictures nearest to the query, best first.

        Several parts are combined as the unit mean of their unit vectors, minus the excluded text's.
        `threshold` is the least cosine similarity, -1 to 1. A picture is no hit of its own `like`.

        Raises:
            QueryError: the query is empty, too long, or asks for hits past MAX_HITS.
            ImageNotFoundError: `like` names no stored picture.
            ModelMismatchError: the stored pictures were embedded with another model.
        """
        if not -1 <= threshold <= 1:
            raise QueryError(f"the threshold is {threshold}, a cosine similarity lies between -1 and 1")
        if count < 1 or offset < 0 or offset + count > MAX_HITS:
            raise QueryError(
                f"hits {offset + 1} to {offset + count} were asked for: count starts at 1, offset at 0, "
                f"and a search goes no deeper than {MAX_HITS:,} hits. Narrow the query instead"
            )
        with self._engine.connect() as connection:
            check_model(connection, self._embedder.identity)
            vector = self._vector(connection, query)
            return _nearest(connection, vector, threshold, count, offset, without=query.like)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors of query texts, float32 of shape (n, 512), and leave them in the query cache.

        Raises:
            QueryError: a text is empty or too long.
            ModelMismatchError: the stored pictures were embedded with another model.
        """
        with self._engine.connect() as connection:
            check_model(connection, self._embedder.identity)
            return self._embed_texts(connection, [_checked(text) for text in texts])

    def get(self, image_id: int) -> StoredImage:
        """Return one stored picture.

        Raises:
            ImageNotFoundError: there is none with this id.
        """
        statement = sa.select(*_STORED_COLUMNS).where(images.c.id == _checked_id(image_id))
        with self._engine.connect() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        if row is None:
            raise ImageNotFoundError(image_id)
        return StoredImage.from_row(row)

    def sample(self, count: int) -> list[StoredImage]:
        """Return some pictures by chance, in no order; all of them when there are fewer than `count`."""
        with self._engine.connect() as connection:
            rows = connection.execute(_SAMPLE, {"count": count}).mappings()
            return [StoredImage.from_row(row) for row in rows]

    def count(self) -> int:
        """Return the number of searchable pictures."""
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0

    def _vector(self, connection: Connection, query: Query) -> np.ndarray:
        """Return the unit vector of a query, float32 of shape (512,)."""
        wanted, excluded = ((None if text is None else _checked(text).strip()) for text in (query.text, query.exclude))
        texts = [text for text in (wanted, excluded) if text is not None]
        by_text = dict(zip(texts, self._embed_texts(connection, texts), strict=True)) if texts else {}
        parts = [] if wanted is None else [by_text[wanted]]
        if query.picture is not None:
            parts.append(self._embedder.embed_images([query.picture])[0])
        if query.like is not None:
            parts.append(_stored_embedding(connection, query.like))
        if not parts:
            raise QueryError("there is nothing to look for: give a text, a picture or the id of a stored picture")
        vector = _unit(np.mean(parts, axis=0))
        return vector if excluded is None else _unit(vector - by_text[excluded])

    def _embed_texts(self, connection: Connection, texts: Sequence[str]) -> np.ndarray:
        model = self._embedder.identity
        cached = query_embeddings.join(embedding_models)
        rows = connection.execute(
            sa.select(query_embeddings.c.query, query_embeddings.c.embedding)
            .select_from(cached)
            .where(embedding_models.c.weights_sha256 == model.weights_sha256, query_embeddings.c.query.in_(texts))
        )
        vectors: dict[str, np.ndarray] = {row.query: row.embedding for row in rows}
        missing = [text for text in dict.fromkeys(texts) if text not in vectors]
        if missing:
            connection.rollback()  # the model may take a while: hold no snapshot meanwhile
            vectors |= zip(missing, self._embedder.embed_texts(missing), strict=True)
            model_id = claim_model(connection, model)
            connection.execute(
                insert(query_embeddings).on_conflict_do_nothing(),
                [{"embedding_model_id": model_id, "query": text, "embedding": vectors[text]} for text in missing],
            )
            connection.commit()
        return np.stack([vectors[text] for text in texts])


def _nearest(
    connection: Connection, vector: np.ndarray, threshold: float, count: int, offset: int, *, without: int | None
) -> list[Hit]:
    reach = offset + count + (without is not None)
    match = sa.func.match_images(
        sa.bindparam("vector", vector, type_=Embedding(EMBEDDING_DIMENSION)), threshold, reach
    ).table_valued(sa.column("id", sa.BigInteger), sa.column("similarity", sa.Double), name="match")
    statement = (
        sa.select(*_STORED_COLUMNS, match.c.similarity)
        .join_from(match, images, images.c.id == match.c.id)
        .order_by(match.c.similarity.desc(), images.c.id)
        .limit(count)
        .offset(offset)
    )
    if without is not None:
        statement = statement.where(images.c.id != without)
    return [Hit.from_row(row) for row in connection.execute(statement).mappings()]


def _stored_embedding(connection: Connection, image_id: int) -> np.ndarray:
    vector = connection.scalar(sa.select(images.c.embedding).where(images.c.id == _checked_id(image_id)))
    if vector is None:
        raise ImageNotFoundError(image_id)
    return vector


def _checked_id(image_id: int) -> int:
    if not 0 < image_id < 2**63:
        raise ImageNotFoundError(image_id)
    return image_id


def _checked(text: str) -> str:
    """Return the text as the query cache keys it, or say what is wrong with it."""
    storable = text.replace("\x00", "").encode("utf-8", "replace").decode()
    if not storable.strip():
        raise QueryError("the query text is empty")
    if len(storable) > MAX_QUERY_CHARACTERS or len(storable.encode()) > MAX_QUERY_BYTES:
        raise QueryError(
            f"the query text has {len(storable):,} characters, the limit is {MAX_QUERY_CHARACTERS:,} "
            f"({MAX_QUERY_BYTES:,} bytes); CLIP reads about the first 60 words"
        )
    return storable


def _unit(vector: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(vector))
    if norm < 1e-6:
        raise QueryError("the parts of the query cancel each other out: what is wanted is also excluded")
    return (vector / norm).astype(np.float32)
