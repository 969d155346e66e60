"""Turns a query's parts into unit vectors: its texts and its image by the model, stored images as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.current_model import check_model, check_weights
from searchdb.db.tables import as_vector, embedding_models, images
from searchdb.errors import ImageNotFoundError, QueryError
from searchdb.search import combination
from searchdb.search.query import Query, checked_text
from searchdb.search.query_cache import QueryCache

_EMBEDDINGS = (
    sa.select(
        images.c.id,
        as_vector(images.c.embedding).label("embedding"),
        embedding_models.c.weights_sha256.label("model"),
    )
    .join(embedding_models, embedding_models.c.id == images.c.embedding_model_id)
    .where(images.c.id == sa.func.any(sa.bindparam("ids", type_=ARRAY(sa.BigInteger))))
)


@dataclass(frozen=True, kw_only=True)
class QueryVectors:
    """The vectors of a query's parts, and their model.

    Attributes:
        parts: unit vectors, float32 of shape (dimension,), by the names in `Hit.parts`.
        weights: the SHA-256 of the model that the stored images among them were embedded with; None without any.
        cache: of the model that the other parts come from.
        text_weight: the query's.
        by_model: whether there are parts that come from the model: then it must be the one of the stored images.
    """

    parts: Mapping[str, np.ndarray]
    weights: bytes | None
    cache: QueryCache
    text_weight: float | None
    by_model: bool

    def factors(self, connection: Connection) -> dict[str, float]:
        """Return the weights of the parts; a query of one part needs no measurement."""
        if len(self.parts) == 1:
            return dict.fromkeys(self.parts, 1.0)
        spreads = combination.measure_spreads(connection, self.parts, self.cache.writer)
        return combination.weigh(spreads, self.text_weight)

    def combined(self, connection: Connection) -> np.ndarray:
        """Return the unit vector of the whole query, float32 of shape (dimension,)."""
        return combination.combine(self.parts, self.factors(connection))

    def is_of(self, weights: bytes) -> bool:
        """Whether the vectors are by the model with these weights."""
        own = self.cache.embedder.identity.weights_sha256 if self.by_model else self.weights
        return own == weights

    def check(self, connection: Connection) -> None:
        """Check that the vectors can be compared with the stored ones.

        Raises:
            ModelMismatchError: the stored images were embedded with another model.
        """
        if self.by_model:
            check_model(connection, self.cache.embedder.identity)
        elif self.weights is not None:
            check_weights(connection, self.weights)


def embed_query(connection: Connection, query: Query, cache: QueryCache) -> QueryVectors:
    """Return the vectors of a query's parts; the model is asked only for an image, and for texts that are not cached.

    Raises:
        QueryError: a text is empty or too long, or the vector has not as many numbers as the model gives.
        ImageNotFoundError: `like` or `unlike` names no stored image.
        ModelMismatchError: the stored images that it names were embedded with another model.
    """
    wanted = None if query.text is None else checked_text(query.text, "text").strip()
    excluded = None if query.exclude is None else checked_text(query.exclude, "exclude").strip()
    texts = [each for each in (wanted, excluded) if each is not None]
    by_text = dict(zip(texts, cache.embed(connection, texts), strict=True)) if texts else {}
    parts: dict[str, np.ndarray] = {}
    if wanted is not None:
        parts["text"] = by_text[wanted]
    if query.image is not None:
        parts["image"] = cache.embedder.embed_images([query.image])[0]
    elif query.vector is not None:
        parts["image"] = _checked_vector(query.vector, cache.embedder.identity.dimension)
    stored = _stored_embeddings(connection, [*query.liked, *query.unliked])
    if query.liked:
        parts["like"] = _mean(stored, query.liked)
    if excluded is not None:
        parts["not"] = by_text[excluded]
    if query.unliked:
        parts["unlike"] = _mean(stored, query.unliked)
    embedded = QueryVectors(
        parts=parts,
        weights=next(iter(stored.values())).model if stored else None,  # all images have one model
        cache=cache,
        text_weight=query.text_weight,
        by_model=query.needs_model,
    )
    if embedded.weights is not None and not embedded.is_of(embedded.weights):
        embedded.check(connection)
    return embedded


def _checked_vector(vector: np.ndarray, dimension: int) -> np.ndarray:
    if vector.shape != (dimension,):
        raise QueryError(
            f"the vector has {vector.size:,} numbers, the model in use gives {dimension:,}: embed the image with it",
            field="vector",
        )
    return vector


def _stored_embeddings(connection: Connection, ids: Sequence[int]) -> dict[int, Any]:
    """Return the stored images' rows of _EMBEDDINGS, by id.

    Raises:
        ImageNotFoundError: there is no image with one of the ids.
    """
    if not ids:
        return {}
    found = {row.id: row for row in connection.execute(_EMBEDDINGS, {"ids": ids})}
    for each in ids:
        if each not in found:
            raise ImageNotFoundError(each)
    return found


def _mean(stored: Mapping[int, Any], ids: Sequence[int]) -> np.ndarray:
    return combination.unit(np.mean([stored[each].embedding for each in ids], axis=0))
