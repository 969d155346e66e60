"""How much faster is match_images than the copied recipe's function and than an exact scan, and what does it miss?

The recipe is the one of the hosted-CLIP guides: an ivfflat index with 100 lists made on the empty table, and a
function that orders by similarity, descending, with the threshold in the same WHERE. The exact scan is the same
statement as in match_images, without an index. Vectors are clustered, as pictures of common subjects are; queries lie
off the clusters, as CLIP's texts do. Each index is built as `searchdb index build` does, tuned to recall 0.99 on half
of the queries, and judged by the other half.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import psycopg
import sqlalchemy as sa
from pgvector.psycopg import register_vector
from psycopg import sql

from benchmarks.report import interleaved, table
from searchdb import index
from searchdb.database import Database
from searchdb.models import claim_model
from searchdb.records import ModelIdentity
from searchdb.tables import query_embeddings
from searchdb.tune import tune

ROWS, QUICK_ROWS = 25_000, 5_000
CLUSTERS = 200
QUERIES, QUICK_QUERIES = 100, 50
COUNT = 10
ROUNDS, QUICK_ROUNDS = 200, 60
TARGET = 0.99
"""The recall that is tuned for."""

RECIPE = """
CREATE TABLE recipe (id bigint PRIMARY KEY, image text, embedding vector(512));
CREATE INDEX ON recipe USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
CREATE FUNCTION recipe_match_images(query_embedding vector(512), match_threshold float8, match_count int)
RETURNS TABLE (id bigint, image text, similarity float8) LANGUAGE sql STABLE AS $$
    SELECT id, image, 1 - (embedding <=> query_embedding) AS similarity FROM recipe
    WHERE 1 - (embedding <=> query_embedding) > match_threshold ORDER BY similarity DESC LIMIT match_count
$$;
"""
EXACT = """
SELECT nearest.id, nearest.image, 1 - nearest.distance
FROM (SELECT id, image, embedding <=> %s AS distance FROM images ORDER BY embedding <=> %s LIMIT %s) AS nearest
ORDER BY nearest.distance + 0, nearest.id
"""


def measure(database: Database, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    rows, count = (QUICK_ROWS, QUICK_QUERIES) if quick else (ROWS, QUERIES)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, 512))
    vectors = _unit(centres[rng.integers(CLUSTERS, size=rows)] + 0.8 * rng.normal(size=(rows, 512)))
    queries = _unit(centres[rng.integers(CLUSTERS, size=2 * count)] + 2.5 * rng.normal(size=(2 * count, 512)))
    known, unknown = queries[:count], queries[count:]
    figures = {"search_rows": float(rows)}
    shown: dict[str, str] = {}
    # Two connections, for without index scans match_images could not use its index either.
    with (
        psycopg.connect(database.libpq_url, autocommit=True) as connection,
        psycopg.connect(database.libpq_url, autocommit=True) as without_index,
    ):
        connection.execute(RECIPE)
        register_vector(connection)
        register_vector(without_index)
        without_index.execute("SET enable_indexscan = off")
        _fill(database, connection, vectors, known)
        for method, suffix in (("ivfflat", ""), ("hnsw", "_hnsw")):
            index.build(database.engine, method=method)
            connection.execute("ANALYZE")
            chosen = tune(database.engine, target=TARGET, count=COUNT, sample=count)
            assert chosen is not None
            recall = float(np.mean([_recall(connection, vectors, query) for query in unknown]))
            turns: dict[str, Iterator[np.ndarray]] = {
                name: cycle(unknown) for name in ("match_images", "recipe_match_images", "exact")
            }
            sides = {
                "match_images": lambda turn=turns["match_images"]: _search(connection, "match_images", next(turn)),
                "exact": lambda turn=turns["exact"]: _exact(without_index, next(turn)),
            }
            if method == "ivfflat":
                turn = turns["recipe_match_images"]
                sides["recipe_match_images"] = lambda turn=turn: _search(connection, "recipe_match_images", next(turn))
            seconds = interleaved(sides, QUICK_ROUNDS if quick else ROUNDS)
            figures[f"recall_at_10{suffix}"] = recall
            figures[f"search_vs_exact_{method}"] = seconds["exact"] / seconds["match_images"]
            if "recipe_match_images" in seconds:
                figures["search_vs_recipe_sql"] = seconds["recipe_match_images"] / seconds["match_images"]
                shown["recipe's SQL / match_images"] = f"{figures['search_vs_recipe_sql']:.1f} x"
            shown[f"exact scan / match_images, {method}"] = f"{figures[f'search_vs_exact_{method}']:.1f} x"
            shown[f"recall@10, {method}"] = f"{recall:.3f} with {_depth(database)}"
            shown[f"medians, {method}"] = ", ".join(f"{name} {value * 1000:.2f} ms" for name, value in seconds.items())
    return figures, table(f"search, {rows:,} pictures, tuned to recall {TARGET}", shown)


def _fill(database: Database, connection: psycopg.Connection, vectors: np.ndarray, texts: np.ndarray) -> None:
    with database.begin() as ours:
        model_id = claim_model(ours, ModelIdentity(name="benchmark", weights_sha256=b"b" * 32))
        cached = [{"embedding_model_id": model_id, "query": str(n), "embedding": v} for n, v in enumerate(texts)]
        ours.execute(sa.insert(query_embeddings), cached)
    with connection.cursor() as cursor:
        columns = "image, source, embedding, embedding_model_id, sha256, width, height, byte_size"
        with cursor.copy(f"COPY images ({columns}) FROM STDIN") as copy:
            for n, vector in enumerate(vectors):
                copy.write_row((f"/{n}.jpg", "benchmark", vector, model_id, b"", 1, 1, 1))
    connection.execute("INSERT INTO recipe SELECT id, image, embedding FROM images")


def _search(connection: psycopg.Connection, function: str, query: np.ndarray) -> list[tuple[object, ...]]:
    statement = sql.SQL("SELECT * FROM {}(%s, 0, %s)").format(sql.Identifier(function))
    return connection.execute(statement, [query, COUNT]).fetchall()


def _exact(connection: psycopg.Connection, query: np.ndarray) -> list[tuple[object, ...]]:
    return connection.execute(EXACT, [query, query, COUNT]).fetchall()


def _recall(connection: psycopg.Connection, vectors: np.ndarray, query: np.ndarray) -> float:
    exact = {f"/{n}.jpg" for n in np.argsort(-(vectors @ query))[:COUNT]}
    return len(exact & {row[1] for row in _search(connection, "match_images", query)}) / COUNT


def _depth(database: Database) -> str:
    with database.connect() as connection:
        state = index.status(connection)
    return f"ef_search {state.setting}" if state.method == "hnsw" else f"{state.setting} of {state.lists} lists"


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
