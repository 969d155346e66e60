"""Makes CLIP-like vectors and fills a collection with them.

Image vectors are clustered, like images of common subjects; queries lie off the clusters, like CLIP's text vectors.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.index.build import build_index
from searchdb.records import EMBEDDING_DIMENSION, ModelIdentity

CLUSTERS = 200
SPREAD, QUERY_SPREAD = 0.8, 2.5
"""Standard deviations around the cluster centres, whose coordinates have a standard deviation of 1."""


def clustered(rows: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of images and of queries, float32 of shapes (rows, 512) and (queries, 512)."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, EMBEDDING_DIMENSION), np.float32)

    def around(count: int, spread: float) -> np.ndarray:
        vectors = spread * rng.standard_normal((count, EMBEDDING_DIMENSION), np.float32)
        vectors += centres[rng.integers(CLUSTERS, size=count)]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return around(rows, SPREAD), around(queries, QUERY_SPREAD)


def connect(database: Database) -> psycopg.Connection:
    """Return a connection with the vector type, independent of searchdb's pool."""
    connection = psycopg.connect(database.libpq_url, autocommit=True)
    register_vector(connection)
    return connection


def fill(database: Database, vectors: np.ndarray, model: ModelIdentity) -> None:
    """Replace all images by rows with these vectors; `image` is the row number. The caller builds the index."""
    with database.begin() as connection:
        model_id = claim_model(connection, model)
    with closing(connect(database)) as connection:
        connection.execute("TRUNCATE images CASCADE")
        build_index(database.engine, method="ivfflat")  # an empty index, which is fast to fill
        columns = "image, source, embedding, embedding_model_id, sha256, width, height, byte_size"
        with connection.cursor() as cursor, cursor.copy(f"COPY images ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "text", "vector", "int4", "bytea", "int4", "int4", "int8"])
            for n, vector in enumerate(vectors):
                copy.write_row((str(n), "benchmark", vector, model_id, n.to_bytes(32, "big"), 768, 512, 100_000))
