"""Tunes match_images: finds the smallest probes or ef_search that reaches a recall, and sets it for every client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.build import owner, store_setting
from searchdb.index.policy import EF_SEARCH, fit_probes
from searchdb.index.recall import (
    DEFAULT_SAMPLE,
    Exact,
    MeasureCallback,
    Queries,
    RecallReport,
    compare,
    compare_again,
    queries_of,
    record,
    silent,
    snapshot,
)
from searchdb.index.records import Recall
from searchdb.index.status import BUILD_LOCK_KEY, MAX_EF_SEARCH, IndexStatus, index_status

MIN_EF_SEARCH = 40
"""Smallest ef_search tried, pgvector's default: below it a search is hardly faster, but a query whose graph walk fails
misses all of its neighbours, which a sample of queries rarely shows."""
TIMED_QUERIES = 50
"""Queries of each kind that time the chosen setting side by side with the exact scan."""


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """The result of a tuning.

    If the target was `reached`, `chosen` is the setting that match_images has now; if not, it is the best one measured
    and nothing was changed.
    """

    target: float
    reached: bool
    before: RecallReport
    chosen: RecallReport

    @property
    def notes(self) -> list[str]:
        """Caveats about the result, for people."""
        notes = self.chosen.notes
        if self.reached and not any(recall.kind == "text" for recall in self.chosen.recalls):
            notes.append("without text queries, no setting below the default was tried")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except that dates stay `datetime`."""
        before, after = self.before.to_json(), self.chosen.to_json()
        return {"target": self.target, "reached": self.reached, "before": before, "chosen": after, "notes": self.notes}


def tune_index(
    engine: Engine,
    *,
    target: float,
    count: int = 10,
    sample: int = DEFAULT_SAMPLE,
    texts: np.ndarray | None = None,
    progress: MeasureCallback = silent,
) -> TuneReport | None:
    """Store with match_images the smallest probes or ef_search with which every kind of query reaches the target.

    Settings are tried on match_images itself, in a transaction that no other session sees. Without text queries, no
    setting below the default is tried. Returns None if another process is building or tuning.

    Args:
        target: the recall to reach, above 0 and at most 1.
        count, sample, texts, progress: as in `measure_recall`.

    Raises:
        ConfigError: the target is out of range.
        QueryError: there are no images.
        DatabaseError: there is no index, we may not change match_images, or PostgreSQL failed.
    """
    if not 0 < target <= 1:
        raise ConfigError(f"the target recall is {target}, but must be above 0 and at most 1")
    with snapshot(engine) as connection:
        other = owner(connection)
        if other is not None:
            raise DatabaseError(f"only the owner of match_images may tune it: connect as {other}")
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(BUILD_LOCK_KEY))):
            return None
        state = index_status(connection)
        if state.method is None or not state.valid:
            raise DatabaseError("there is no index to tune: run `searchdb index build`")
        queries = queries_of(connection, sample, texts)
        before, exact = compare(connection, state, queries, count, progress)

        trials = _Trials(
            connection=connection,
            method=state.method,
            target=target,
            smallest=_smallest_setting(state, queries),
            largest=MAX_EF_SEARCH if state.method == "hnsw" else state.lists or 1,
            before=before,
            queries=queries,
            exact=exact,
            progress=progress,
        )
        savepoint = connection.begin_nested()
        chosen = trials.search()
        reached = trials.reaches_target(chosen)
        chosen = _timed_again(connection, state, chosen, queries, progress)
        if reached:
            savepoint.commit()
            record(connection, chosen)
        else:
            savepoint.rollback()
    return TuneReport(
        target=target, reached=reached, before=RecallReport(recalls=before), chosen=RecallReport(recalls=chosen)
    )


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """Measures match_images with one setting after another, against the exact scan's results for the same queries."""

    connection: Connection
    method: str
    target: float
    smallest: int
    largest: int
    before: Sequence[Recall]
    queries: Queries
    exact: Mapping[str, Sequence[Exact]]
    progress: MeasureCallback

    def search(self) -> list[Recall]:
        """Return the measurements of the smallest setting that reaches the target, or else those of the largest.

        Doubles the setting until it reaches the target, then bisects: apart from a little noise, recall grows with the
        setting.
        """
        too_small, setting = self.smallest - 1, self.smallest
        best = self.measure(setting)
        while not self.reaches_target(best) and setting < self.largest:
            too_small, setting = setting, min(2 * setting, self.largest)
            best = self.measure(setting)
        if not self.reaches_target(best):
            return best
        while setting - too_small > 1:
            middle = (too_small + setting) // 2
            measured = self.measure(middle)
            if self.reaches_target(measured):
                setting, best = middle, measured
            else:
                too_small = middle
        return best

    def measure(self, setting: int) -> list[Recall]:
        """Measure a setting: each kind of query, up to the first that misses the target; all kinds for the largest."""
        store_setting(self.connection, self.method, setting)
        measured: list[Recall] = []
        for base in self.before:
            trial = replace(base, setting=setting, target=self.target)
            vectors, exact = self.queries[base.kind], self.exact[base.kind]
            measured.append(compare_again(self.connection, trial, vectors, exact, self.progress))
            if measured[-1].recall < self.target and setting < self.largest:
                break
        return measured

    def reaches_target(self, measured: Sequence[Recall]) -> bool:
        return all(recall.recall >= self.target for recall in measured)


def _timed_again(
    connection: Connection, state: IndexStatus, chosen: Sequence[Recall], queries: Queries, progress: MeasureCallback
) -> list[Recall]:
    """Return measurements with times taken in turn with the exact scan, not minutes after it."""
    store_setting(connection, chosen[0].method, chosen[0].setting)
    few = {kind: vectors[:TIMED_QUERIES] for kind, vectors in queries.items()}
    timed, _ = compare(connection, state, few, chosen[0].match_count, progress)
    return [
        replace(
            recall,
            p50_ms=times.p50_ms,
            p95_ms=times.p95_ms,
            exact_p50_ms=times.exact_p50_ms,
            exact_p95_ms=times.exact_p95_ms,
        )
        for recall, times in zip(chosen, timed, strict=True)
    ]


def _smallest_setting(state: IndexStatus, queries: Queries) -> int:
    if "text" in queries:
        return MIN_EF_SEARCH if state.method == "hnsw" else 1
    return EF_SEARCH if state.method == "hnsw" else fit_probes(state.lists or 1)
