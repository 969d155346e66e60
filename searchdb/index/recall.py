"""Measures recall: what match_images finds of what an exact scan finds, and how fast, on real queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.db.tables import embedding_models, images, index_recalls, query_embeddings
from searchdb.errors import QueryError
from searchdb.index.status import IndexStatus, Recall, depth_in_words, index_status

DEFAULT_SAMPLE = 200
"""Queries of each kind: at recall@10 that is 2,000 neighbours, and on 25,000 pictures some seconds of exact scans."""
ENOUGH_TEXTS = 20
"""Below this many text queries a single one that goes wrong moves the recall by more than tuning can tell apart."""
SAME_SIMILARITY = 1e-7
"""Similarities this close are equal: which of two equal pictures is found is chance, and no miss."""

# The same shape as in match_images. Without index scans PostgreSQL reads all rows, in parallel if it finds that faster.
_EXACT = (
    "SELECT nearest.id, nearest.image, 1 - nearest.distance AS similarity FROM ("
    "SELECT id, image, embedding <=> %s AS distance FROM images ORDER BY embedding <=> %s LIMIT %s) AS nearest "
    "ORDER BY nearest.distance + 0, nearest.id"
)
_MATCH = "SELECT id, image, similarity FROM match_images(%s, -1, %s)"

MeasureCallback = Callable[[str, int, int], None]
"""Told what is being measured, and how many of how many queries are done."""
Queries = Mapping[str, np.ndarray]
"""Unit vectors by kind, `text` first, each float32 of shape (n, 512)."""


def silent(_what: str, _done: int, _total: int) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """What was measured, for each kind of queries there were: `text`, `pictures`."""

    recalls: Sequence[Recall]

    @property
    def notes(self) -> list[str]:
        """What to bear in mind about these figures."""
        texts = next((recall.queries for recall in self.recalls if recall.kind == "text"), 0)
        if not texts:
            return [
                "no text queries are stored, and stored pictures alone flatter the index: texts lie elsewhere than "
                "pictures. Store some with `searchdb embed TEXT...`, by searching, or give --queries FILE"
            ]
        if texts < ENOUGH_TEXTS:
            told = "one text query makes" if texts == 1 else f"{texts} text queries make"
            return [f"{told} a rough figure: {ENOUGH_TEXTS} or more make a sound one, see --queries FILE"]
        return []

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, but for dates."""
        by_kind = {recall.kind: asdict(recall) | {"speedup": recall.speedup} for recall in self.recalls}
        return {"text": None, "pictures": None} | by_kind | {"notes": self.notes}


def measure_recall(
    engine: Engine,
    *,
    count: int = 10,
    sample: int = DEFAULT_SAMPLE,
    texts: np.ndarray | None = None,
    progress: MeasureCallback = silent,
) -> RecallReport:
    """Compare match_images with an exact scan, query by query in turn, and record the result.

    Args:
        count: the k of recall@k.
        sample: queries of each kind: the texts that were searched for last, and stored pictures by chance.
        texts: vectors of texts to use instead, float32 of shape (n, 512).
        progress: told how far it is.

    Raises:
        QueryError: there are no pictures.
        DatabaseError: PostgreSQL failed.
    """
    with one_moment(engine) as connection:
        state = index_status(connection)
        queries = queries_of(connection, sample, texts)
        report = RecallReport(recalls=compare(connection, state, queries, count, progress)[0])
        # Whoever may only read gets the figures as well; they are then nobody's history.
        if connection.scalar(text("SELECT has_table_privilege('index_recalls', 'INSERT')")):
            record(connection, report.recalls)
    return report


@contextmanager
def one_moment(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that sees the pictures of one moment, whatever ingest does meanwhile."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        # Prepared statements must not decide how either side is planned.
        connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        yield connection


def queries_of(connection: Connection, sample: int, texts: np.ndarray | None) -> Queries:
    """Return the query vectors: of texts, if there are any, and of stored pictures."""
    if texts is None:
        cached = (
            sa.select(query_embeddings.c.embedding)
            .join_from(query_embeddings, embedding_models)
            .where(embedding_models.c.current)
            .order_by(query_embeddings.c.last_used_at.desc(), query_embeddings.c.query)
        )
        found = connection.scalars(cached.limit(sample)).all()
    else:
        found = list(texts)
    by_chance = sa.select(images.c.id).order_by(sa.func.random()).limit(sample)
    pictures = connection.scalars(sa.select(images.c.embedding).where(images.c.id.in_(by_chance))).all()
    if not pictures:
        raise QueryError("there are no pictures to search: ingest some first")
    return ({"text": np.stack(found)} if found else {}) | {"pictures": np.stack(pictures)}


@dataclass(frozen=True, kw_only=True)
class Exact:
    """What the exact scan found for one query: how many, and the similarity of the last."""

    found: int
    last: float


def compare(
    connection: Connection, state: IndexStatus, queries: Queries, count: int, progress: MeasureCallback
) -> tuple[list[Recall], dict[str, list[Exact]]]:
    """Measure both sides of every query in turn, so that whatever else the machine does falls on both alike."""
    recalls: list[Recall] = []
    exact: dict[str, list[Exact]] = {}
    for kind, vectors in queries.items():
        exact[kind] = []
        right = wanted = 0
        seconds: dict[str, list[float]] = {"exact": [], "match": []}
        for done, vector in enumerate(vectors):
            progress(f"exact scan, {kind}", done, len(vectors))
            # Only here: the setting would reach into match_images, which then could not use its index either.
            connection.exec_driver_sql("SET LOCAL enable_indexscan = off")
            similarities, took = _timed(connection, _EXACT, (vector, vector, count))
            connection.exec_driver_sql("SET LOCAL enable_indexscan = on")
            exact[kind].append(Exact(found=len(similarities), last=similarities[-1]))
            seconds["exact"].append(took)
            similarities, took = _timed(connection, _MATCH, (vector, count))
            seconds["match"].append(took)
            right += _right(similarities, exact[kind][-1])
            wanted += exact[kind][-1].found
        progress(f"exact scan, {kind}", len(vectors), len(vectors))
        exact_p50, exact_p95 = _percentiles(seconds["exact"])
        p50, p95 = _percentiles(seconds["match"])
        recalls.append(
            Recall(
                kind=kind,
                method=state.method or "none",
                lists=state.lists,
                setting=state.setting,
                row_count=state.rows,
                queries=len(vectors),
                match_count=count,
                recall=right / wanted,
                p50_ms=p50,
                p95_ms=p95,
                exact_p50_ms=exact_p50,
                exact_p95_ms=exact_p95,
            )
        )
    return recalls, exact


def compare_again(
    connection: Connection, seen: Recall, vectors: np.ndarray, exact: Sequence[Exact], progress: MeasureCallback
) -> Recall:
    """Return what match_images gives as it is now, compared with what the exact scan gave."""
    _timed(connection, _MATCH, (vectors[0], seen.match_count))  # compiles the function, which was just changed
    seconds: list[float] = []
    right = 0
    for done, (vector, truth) in enumerate(zip(vectors, exact, strict=True), 1):
        similarities, took = _timed(connection, _MATCH, (vector, seen.match_count))
        seconds.append(took)
        right += _right(similarities, truth)
        progress(f"{depth_in_words(seen.method, seen.setting, seen.lists)}, {seen.kind}", done, len(vectors))
    p50, p95 = _percentiles(seconds)
    return replace(seen, recall=right / sum(truth.found for truth in exact), p50_ms=p50, p95_ms=p95)


def _timed(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> tuple[list[float], float]:
    """Run a search; return the similarities, best first, and the seconds it took."""
    started = time.perf_counter()
    rows = connection.exec_driver_sql(statement, parameters).all()
    return [row.similarity for row in rows], time.perf_counter() - started


def _right(similarities: Sequence[float], exact: Exact) -> int:
    return min(exact.found, sum(similarity >= exact.last - SAME_SIMILARITY for similarity in similarities))


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p95, in milliseconds."""
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return float(p50), float(p95)


def record(connection: Connection, recalls: Sequence[Recall]) -> None:
    rows = [asdict(recall) for recall in recalls]
    for row in rows:
        del row["measured_at"]
    connection.execute(sa.insert(index_recalls), rows)
