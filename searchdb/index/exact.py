"""Finds the exact results of many queries in one pass over the stored vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.tables import NORM_IN_RANGE, images

CHUNK_ROWS = 4000
"""Vectors in memory at a time, 8 MB."""

MeasureCallback = Callable[[str, int, int], None]
"""Called with what is being measured, the steps done, and their total."""
Queries = Mapping[str, np.ndarray]
"""Unit vectors by kind, `text` before `pictures` (stored images), each float32 of shape (n, dimension)."""


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The exact scan's result for one query: the number of hits, and the similarity of the last."""

    found: int
    last: float


def exact_results(
    connection: Connection, queries: Queries, count: int, rows: int, progress: MeasureCallback
) -> dict[str, Sequence[Exact]]:
    """Return the result of an exact scan for each query, in the order of `queries`.

    All vectors are read once and compared here with all queries. That takes as long as about 30 exact scans in
    PostgreSQL, however many queries there are.

    Args:
        count: the number of hits.
        rows: the number of images, for `progress`.
    """
    every = np.concatenate(list(queries.values()))
    best = np.empty((len(every), 0), np.float32)
    done = 0
    # In pgvector's binary form, which is read a hundred times as fast as its text.
    stored = sa.select(sa.func.vector_send(images.c.embedding, type_=sa.LargeBinary)).where(sa.text(NORM_IN_RANGE))
    for chunk in connection.execute(stored, execution_options={"yield_per": CHUNK_ROWS}).scalars().partitions():
        # big-endian: two bytes each for the dimension and for nothing, then the numbers
        vectors = np.frombuffer(b"".join(chunk), ">f4").reshape(len(chunk), -1)[:, 1:]
        vectors = vectors.astype(np.float32)
        cosines = every @ vectors.T / np.linalg.norm(vectors, axis=1)  # SQL may have stored vectors of any length
        similarities = np.concatenate([best, cosines], axis=1)
        kept = min(count, similarities.shape[1])
        best = np.partition(similarities, -kept, axis=1)[:, -kept:]
        done += len(chunk)
        progress("exact results", done, max(rows, done))
    found = best.shape[1]
    results = [Exact(found=found, last=float(last)) for last in best.min(axis=1)]
    starts = np.cumsum([0, *(len(vectors) for vectors in queries.values())])
    return {kind: results[start : start + len(queries[kind])] for kind, start in zip(queries, starts[:-1], strict=True)}
