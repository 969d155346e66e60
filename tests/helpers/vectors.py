"""Fills a collection with made-up vectors, and measures recall on them."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images, query_embeddings
from searchdb.records import ModelIdentity

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32, dimension=512)


def clustered(rows: int, *, clusters: int = 60, seed: int = 0) -> np.ndarray:
    """Return unit vectors of shape (rows, 512) around common centres, as images of common subjects are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 512))
    vectors = centres[rng.integers(clusters, size=rows)] + 0.8 * rng.normal(size=(rows, 512))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


DIMENSION = 512
# What was measured on real CLIP vectors (ViT-B/32, stock photographs and labels): two images have a cosine of about
# 0.57, two texts 0.75, a text and an image 0.18. Ten axes hold a third of the images' variance, a hundred four fifths;
# the texts' variance is spread over all axes, most of it where images hardly differ.
_SPECTRUM = (1 + np.arange(DIMENSION - 2)) ** -0.9
_ROTATION = np.linalg.qr(np.random.default_rng(11).normal(size=(DIMENSION, DIMENSION)))[0]


def real_like(rows: int, *, seed: int = 0) -> np.ndarray:
    """Return unit vectors of shape (rows, 512) in a narrow cone, with the spectrum of real images' CLIP vectors."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(rows, DIMENSION - 2)) * np.sqrt(0.43 * _SPECTRUM / _SPECTRUM.sum())
    return _rotated(np.column_stack([np.full(rows, 0.757), np.zeros(rows), spread]))


def real_like_texts(count: int, *, seed: int = 0) -> np.ndarray:
    """Return unit vectors of shape (count, 512) like those of texts: in a cone of their own, far from `real_like`."""
    rng = np.random.default_rng(seed + 1000)
    spectrum = _SPECTRUM**0.3
    spread = rng.normal(size=(count, DIMENSION - 2)) * np.sqrt(0.25 * spectrum / spectrum.sum())
    return _rotated(np.column_stack([np.full(count, 0.24), np.full(count, 0.83), spread]))


def _rotated(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors @ _ROTATION
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cache_texts(database: Database, queries: np.ndarray) -> None:
    """Store vectors of texts in the query cache."""
    with database.begin() as connection:
        model_id = claim_model(connection, MODEL)
        rows = [
            {"embedding_model_id": model_id, "query": f"text {n}", "embedding": vector}
            for n, vector in enumerate(queries)
        ]
        connection.execute(sa.insert(query_embeddings), rows)


def fill(database: Database, vectors: np.ndarray, first: int = 0) -> None:
    common: dict[str, object] = {"source": "test", "sha256": b"", "width": 1, "height": 1, "byte_size": 1}
    with database.begin() as connection:
        common["embedding_model_id"] = claim_model(connection, MODEL)
        rows = [{**common, "image": f"/{first + n}", "embedding": vector} for n, vector in enumerate(vectors)]
        connection.execute(sa.insert(images), rows)


def recall(database: Database, vectors: np.ndarray, queries: np.ndarray, count: int = 10) -> float:
    found = 0
    with database.connect() as connection:
        for query in queries:
            exact = {f"/{n}" for n in np.argsort(-(vectors @ query))[:count]}
            statement = sa.text("SELECT image FROM match_images(:query, -1, :count)")
            found += len(exact & set(connection.scalars(statement, {"query": query, "count": count})))
    return found / (count * len(queries))
