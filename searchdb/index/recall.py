"""Measures the recall and speed of match_images against an exact scan, on real queries."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.best_effort import may_be_skipped
from searchdb.db.connections import lift_time_limits
from searchdb.db.samples import random_keys
from searchdb.db.tables import as_vector, images, index_recalls, norm_in_range, query_embeddings
from searchdb.db.vectors import NO_CHANGE_OVER, VectorColumn, current_column
from searchdb.errors import DatabaseError, QueryError
from searchdb.index.exact import Exact, MeasureCallback, Queries, exact_results
from searchdb.index.records import Recall, label_of
from searchdb.index.status import SETTINGS, IndexStatus, index_status

DEFAULT_SAMPLE = 100
"""Queries of each kind: at recall@10 that is 1,000 neighbours. All of them and tuning take less than 20 seconds on
200,000 images."""
TIMED_SCANS = 10
"""Exact scans of each kind of query that are timed: on 200,000 images each takes 0.2 seconds or more."""
ENOUGH_TEXTS = 20
"""With fewer text queries, a single bad one changes the recall by more than the differences that tuning acts on."""
SAME_SIMILARITY = 1e-6
"""Similarities this close count as equal, because they are computed here and in PostgreSQL with float32 numbers: of two
equally similar images either may be found, which is not a miss."""

# The same form as in match_images. With index scans disabled, PostgreSQL reads all rows, in parallel if it expects that
# to be faster.
_EXACT = (
    "SELECT nearest.id, nearest.image, 1 - nearest.distance AS similarity FROM ("
    "SELECT id, image, {column} <=> %s AS distance FROM images ORDER BY {column} <=> %s LIMIT %s) AS nearest "
    "ORDER BY nearest.distance + 0, nearest.id"
)
_MATCH = "SELECT id, image, similarity FROM {function}(%s, -1, %s)"


def silent(_what: str, _done: int, _total: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """One measurement for each kind of query that was available: `text`, and `pictures` for stored images."""

    recalls: Sequence[Recall]

    @property
    def notes(self) -> list[str]:
        """Caveats to show with these figures."""
        texts = next((recall.queries for recall in self.recalls if recall.kind == "text"), 0)
        if not texts:
            return [
                "no text queries are stored, and stored images alone overstate the recall, because text vectors lie in "
                "another region than image vectors. Add texts with `searchdb embed TEXT...`, by searching, or with "
                "--queries FILE"
            ]
        if texts < ENOUGH_TEXTS:
            used = "one text query gives" if texts == 1 else f"{texts} text queries give"
            return [f"{used} only a rough figure: use {ENOUGH_TEXTS} or more, see --queries FILE"]
        return []

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values, except that dates stay `datetime`."""
        by_kind = {recall.kind: asdict(recall) | {"speedup": recall.speedup} for recall in self.recalls}
        return {"text": None, "pictures": None} | by_kind | {"notes": self.notes}


def measure_recall(
    engine: Engine,
    *,
    count: int = 10,
    sample: int = DEFAULT_SAMPLE,
    texts: np.ndarray | None = None,
    progress: MeasureCallback = silent,
    column: VectorColumn | None = None,
) -> RecallReport:
    """Compare match_images with an exact scan, and store the result if the database can be written.

    The exact results of all queries come from one pass over the vectors; a few exact scans are timed.

    Args:
        count: the k of recall@k.
        sample: queries of each kind: the texts searched for last, and random stored images.
        texts: vectors of texts to use instead, float32 of shape (n, dimension).
        progress: called after each query.
        column: whose index is measured, by default the current model's.

    Raises:
        QueryError: there are no images.
        DatabaseError: PostgreSQL failed.
    """
    with snapshot(engine) as connection:
        column = column or current_column(connection)
        state = index_status(connection, column)
        queries = queries_of(connection, sample, texts, column)
        report = RecallReport(recalls=compare(connection, state, queries, count, progress, column)[0])
        try:  # the figures are useful even where they cannot be stored, such as to a read-only role
            with connection.begin_nested():
                record(connection, report.recalls, column)
        except DatabaseError as exc:
            if not may_be_skipped(exc):
                raise
    return report


@contextmanager
def snapshot(engine: Engine) -> Generator[Connection]:
    """Yield a connection in a transaction that sees a fixed set of images, even during an ingest."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        # Before the snapshot is taken: it must not be from before a change of the model.
        connection.execute(NO_CHANGE_OVER)
        # Plans must not depend on how often a statement has been executed.
        connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
        # Compilation takes longer than many an exact scan, with which match_images is compared.
        connection.execute(text("SET LOCAL jit = off"))
        # The page's connections have limits, and the index is tuned on one of them, too.
        lift_time_limits(connection, local=True)
        yield connection


def queries_of(connection: Connection, sample: int, texts: np.ndarray | None, column: VectorColumn) -> Queries:
    """Return the query vectors: those of texts, if there are any, and those of random stored images."""
    if texts is None:
        cached = (
            sa.select(query_embeddings.c.embedding)
            .where(query_embeddings.c.embedding_model_id == column.model_id)
            .order_by(query_embeddings.c.last_used_at.desc(), query_embeddings.c.query)
        )
        found = connection.scalars(cached.limit(sample)).all()
    else:
        found = list(texts)
    chosen = sa.any_(sa.literal(random_keys(connection, images.c.id, sample), ARRAY(sa.BigInteger)))
    usable = images.c.id == chosen, sa.text(norm_in_range(column.name))
    vector = as_vector(sa.column(column.name))
    stored = connection.scalars(sa.select(vector).select_from(images).where(*usable)).all()
    if not stored:
        raise QueryError("there are no images to search: ingest some first")
    pictures = np.stack(stored)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    return ({"text": np.stack(found)} if found else {}) | {"pictures": pictures}


def compare(
    connection: Connection,
    state: IndexStatus,
    queries: Queries,
    count: int,
    progress: MeasureCallback,
    column: VectorColumn,
) -> tuple[list[Recall], dict[str, Sequence[Exact]]]:
    """Compare match_images with the exact results of each query; return both.

    The exact scans that are timed take turns with match_images, so that other load on the machine affects both equally.
    """
    recalls: list[Recall] = []
    exact = exact_results(connection, queries, count, state.rows, progress, column)
    for kind, vectors in queries.items():
        correct = 0
        seconds: dict[str, list[float]] = {"exact": [], "match": []}
        for done, (vector, truth) in enumerate(zip(vectors, exact[kind], strict=True)):
            progress(f"match_images and exact scans, {label_of(kind)}", done, len(vectors))
            if done < TIMED_SCANS:
                seconds["exact"].append(_time_exact_scan(connection, vector, count, column))
            similarities, took = _timed(connection, _match(column), (vector, count))
            seconds["match"].append(took)
            correct += _count_correct(similarities, truth)
        expected = sum(truth.found for truth in exact[kind])
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
                recall=correct / expected,
                p50_ms=p50,
                p95_ms=p95,
                exact_p50_ms=exact_p50,
                exact_p95_ms=exact_p95,
            )
        )
    return recalls, exact


def time_again(connection: Connection, seen: Recall, vectors: np.ndarray, column: VectorColumn) -> Recall:
    """Time match_images with its current setting in turn with exact scans of the first queries."""
    exact: list[float] = []
    match: list[float] = []
    for vector in vectors[:TIMED_SCANS]:
        exact.append(_time_exact_scan(connection, vector, seen.match_count, column))
        match.append(_timed(connection, _match(column), (vector, seen.match_count))[1])
    exact_p50, exact_p95 = _percentiles(exact)
    p50, p95 = _percentiles(match)
    return replace(seen, p50_ms=p50, p95_ms=p95, exact_p50_ms=exact_p50, exact_p95_ms=exact_p95)


def _match(column: VectorColumn) -> str:
    return _MATCH.format(function=column.function)


def _time_exact_scan(connection: Connection, vector: np.ndarray, count: int, column: VectorColumn) -> float:
    # For this statement only: match_images could not use its index either with this setting.
    connection.exec_driver_sql("SET LOCAL enable_indexscan = off")
    _, took = _timed(connection, _EXACT.format(column=column.name), (vector, vector, count))
    connection.exec_driver_sql("SET LOCAL enable_indexscan = on")
    return took


def summary(seen: Recall, exact: Sequence[Exact], results: Sequence[tuple[int, float]]) -> Recall:
    """Return the measurement that `misses` of every query amount to."""
    missed, seconds = zip(*results, strict=True)
    p50, p95 = _percentiles(seconds)
    recall = 1 - sum(missed) / sum(truth.found for truth in exact)
    return replace(seen, recall=recall, p50_ms=p50, p95_ms=p95)


def misses(
    connection: Connection,
    seen: Recall,
    vectors: np.ndarray,
    exact: Sequence[Exact],
    progress: MeasureCallback,
    column: VectorColumn,
) -> Generator[tuple[int, float]]:
    """Search by one query after another with the current setting; yield the hits that are missed, and the seconds."""
    _timed(connection, _match(column), (vectors[0], seen.match_count))  # compiles the function, which has just changed
    for done, (vector, truth) in enumerate(zip(vectors, exact, strict=True), 1):
        similarities, took = _timed(connection, _match(column), (vector, seen.match_count))
        progress(f"{SETTINGS[seen.method]} = {seen.setting}, {seen.label}", done, len(vectors))
        yield truth.found - _count_correct(similarities, truth), took


def _timed(connection: Connection, statement: str, parameters: tuple[Any, ...]) -> tuple[list[float], float]:
    """Run a search; return the similarities, best first, and the seconds taken."""
    started = time.perf_counter()
    rows = connection.exec_driver_sql(statement, parameters).all()
    return [row.similarity for row in rows], time.perf_counter() - started


def _count_correct(similarities: Sequence[float], exact: Exact) -> int:
    return min(exact.found, sum(similarity >= exact.last - SAME_SIMILARITY for similarity in similarities))


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p95, in milliseconds."""
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return float(p50), float(p95)


def record(connection: Connection, recalls: Sequence[Recall], column: VectorColumn) -> None:
    """Store measurements in `index_recalls`."""
    rows = [asdict(recall) for recall in recalls]
    for row in rows:
        del row["measured_at"]
        row["embedding_model_id"] = column.model_id
    connection.execute(sa.insert(index_recalls), rows)
