"""Fills a collection with made-up vectors, and measures recall on them."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.records import ModelIdentity

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32)


def clustered(rows: int, *, clusters: int = 60, seed: int = 0) -> np.ndarray:
    """Return unit vectors of shape (rows, 512) around common centres, as images of common subjects are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 512))
    vectors = centres[rng.integers(clusters, size=rows)] + 0.8 * rng.normal(size=(rows, 512))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


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
