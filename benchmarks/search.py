"""How much faster is match_images than the function of the copied recipe, and what does it miss?

The recipe is the one of the hosted-CLIP guides: an ivfflat index with 100 lists made on the empty table, and a
function that orders by similarity, descending, with the threshold in the same WHERE. Vectors are clustered, as
pictures of common subjects are; queries lie off the clusters, as CLIP's texts do.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql

from benchmarks.report import interleaved, table
from searchdb import index
from searchdb.database import Database
from searchdb.models import claim_model
from searchdb.records import ModelIdentity

ROWS, QUICK_ROWS = 25_000, 5_000
CLUSTERS = 200
QUERIES = 40
COUNT = 10
ROUNDS = 200

RECIPE = """
CREATE TABLE recipe (id bigint PRIMARY KEY, image text, embedding vector(512));
CREATE INDEX ON recipe USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
CREATE FUNCTION recipe_match_images(query_embedding vector(512), match_threshold float8, match_count int)
RETURNS TABLE (id bigint, image text, similarity float8) LANGUAGE sql STABLE AS $$
    SELECT id, image, 1 - (embedding <=> query_embedding) AS similarity FROM recipe
    WHERE 1 - (embedding <=> query_embedding) > match_threshold ORDER BY similarity DESC LIMIT match_count
$$;
"""


def measure(database: Database, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    rows = QUICK_ROWS if quick else ROWS
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, 512))
    vectors = _unit(centres[rng.integers(CLUSTERS, size=rows)] + 0.8 * rng.normal(size=(rows, 512)))
    queries = _unit(centres[rng.integers(CLUSTERS, size=QUERIES)] + 2.5 * rng.normal(size=(QUERIES, 512)))
    with psycopg.connect(database.libpq_url, autocommit=True) as connection:
        connection.execute(RECIPE)
        register_vector(connection)
        _fill(database, connection, vectors)
        index.build(database.engine)
        connection.execute("ANALYZE")
        recall = np.mean([_recall(connection, vectors, query) for query in queries])
        turns: dict[str, Iterator[np.ndarray]] = {
            name: cycle(queries) for name in ("match_images", "recipe_match_images")
        }
        seconds = interleaved(
            {name: lambda name=name: _search(connection, name, next(turns[name])) for name in turns}, ROUNDS
        )
    ratio = seconds["recipe_match_images"] / seconds["match_images"]
    figures = {"search_vs_recipe_sql": ratio, "recall_at_10": float(recall), "search_rows": float(rows)}
    shown = {
        "recipe's SQL / match_images": f"{ratio:.1f} x",
        "recall@10 of match_images": f"{recall:.3f}",
        "medians": ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in seconds.items()),
    }
    return figures, table(f"search, {rows:,} pictures", shown)


def _fill(database: Database, connection: psycopg.Connection, vectors: np.ndarray) -> None:
    with database.begin() as ours:
        model_id = claim_model(ours, ModelIdentity(name="benchmark", weights_sha256=b"b" * 32))
    with connection.cursor() as cursor:
        columns = "image, source, embedding, embedding_model_id, sha256, width, height, byte_size"
        with cursor.copy(f"COPY images ({columns}) FROM STDIN") as copy:
            for n, vector in enumerate(vectors):
                copy.write_row((f"/{n}.jpg", "benchmark", vector, model_id, b"", 1, 1, 1))
    connection.execute("INSERT INTO recipe SELECT id, image, embedding FROM images")


def _search(connection: psycopg.Connection, function: str, query: np.ndarray) -> list[tuple[object, ...]]:
    statement = sql.SQL("SELECT * FROM {}(%s, 0, %s)").format(sql.Identifier(function))
    return connection.execute(statement, [query, COUNT]).fetchall()


def _recall(connection: psycopg.Connection, vectors: np.ndarray, query: np.ndarray) -> float:
    exact = {f"/{n}.jpg" for n in np.argsort(-(vectors @ query))[:COUNT]}
    return len(exact & {row[1] for row in _search(connection, "match_images", query)}) / COUNT


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
