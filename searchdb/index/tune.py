"""Tunes match_images: finds the smallest probes or ef_search that reaches a recall, and sets it for every client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from searchdb.config import DEFAULT_RECALL
from searchdb.db.driver_errors import require_writable
from searchdb.db.vectors import VectorColumn, current_column
from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.depth import owner, store_setting
from searchdb.index.exact import Exact, MeasureCallback, Queries
from searchdb.index.policy import fit_setting
from searchdb.index.recall import (
    DEFAULT_SAMPLE,
    ENOUGH_TEXTS,
    RecallReport,
    compare,
    misses,
    queries_of,
    record,
    silent,
    snapshot,
    summary,
    time_again,
)
from searchdb.index.records import Recall
from searchdb.index.status import BUILD_LOCK_KEY, MAX_EF_SEARCH, IndexStatus, index_status

MIN_EF_SEARCH = 40
"""Smallest ef_search tried, pgvector's default: below it a search is hardly faster, but a query whose graph walk fails
misses all of its neighbours, which a sample of queries rarely shows."""
PRECISION = 16
"""The setting found is at most one part in this many above the smallest: noise in the sample is larger."""


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """The result of a tuning.

    `chosen` is the setting that match_images has now: if the target was not `reached`, the best one measured.
    """

    target: float
    reached: bool
    before: RecallReport
    chosen: RecallReport

    @property
    def notes(self) -> list[str]:
        """Caveats about the result, for people."""
        notes = self.chosen.notes
        texts = next((recall.queries for recall in self.chosen.recalls if recall.kind == "text"), 0)
        if texts < ENOUGH_TEXTS:
            notes.append(f"with fewer than {ENOUGH_TEXTS} text queries, no setting below the default was tried")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except that dates stay `datetime`."""
        before, after = self.before.to_json(), self.chosen.to_json()
        return {"target": self.target, "reached": self.reached, "before": before, "chosen": after, "notes": self.notes}


def tune_index(
    engine: Engine,
    *,
    target: float = DEFAULT_RECALL,
    margin: float = 0.0,
    count: int = 10,
    sample: int = DEFAULT_SAMPLE,
    texts: np.ndarray | None = None,
    progress: MeasureCallback = silent,
    column: VectorColumn | None = None,
) -> TuneReport | None:
    """Store with match_images the smallest probes or ef_search with which every kind of query reaches the target.

    Where none reaches it, the best one measured is stored. Settings are tried on match_images itself, in a transaction
    that no other session sees. With fewer than ENOUGH_TEXTS text queries, no setting below the default is tried.
    Returns None if another process is building or tuning.

    Args:
        target: the recall to reach, above 0 and at most 1.
        margin: share of the misses that the target allows to leave over, 0 to 1.
        count, sample, texts, progress, column: as in `measure_recall`.

    Raises:
        ConfigError: the target is out of range.
        QueryError: there are no images.
        DatabaseError: there is no index, we may not change match_images, or PostgreSQL failed.
    """
    if not 0 < target <= 1:
        raise ConfigError(f"the target recall is {target}, but must be above 0 and at most 1")
    with snapshot(engine) as connection:
        column = column or current_column(connection)
        other = owner(connection, column)
        if other is not None:
            raise DatabaseError(f"only the owner of match_images may tune it: connect as {other}")
        require_writable(connection, "tuning match_images")
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(BUILD_LOCK_KEY))):
            return None
        state = index_status(connection, column)
        if state.method is None or not state.valid:
            raise DatabaseError("there is no index to tune: run `searchdb index build`")
        queries = queries_of(connection, sample, texts, column)
        before, exact = compare(connection, state, queries, count, progress, column)
        trials = _Trials(
            connection=connection,
            column=column,
            method=state.method,
            target=target,
            aim=1 - (1 - target) * (1 - margin),
            smallest=_smallest_setting(state, queries),
            largest=MAX_EF_SEARCH if state.method == "hnsw" else state.lists or 1,
            before={recall.kind: recall for recall in before},
            queries=queries,
            exact=exact,
            progress=progress,
        )
        chosen = [time_again(connection, recall, queries[recall.kind], column) for recall in trials.search()]
        record(connection, chosen, column)
    return TuneReport(
        target=target,
        reached=all(recall.recall >= target for recall in chosen),
        before=RecallReport(recalls=before),
        chosen=RecallReport(recalls=chosen),
    )


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """Measures match_images with one setting after another, against the exact scan's results for the same queries."""

    connection: Connection
    column: VectorColumn
    method: str
    target: float
    aim: float
    smallest: int
    largest: int
    before: Mapping[str, Recall]
    queries: Queries
    exact: Mapping[str, Sequence[Exact]]
    progress: MeasureCallback
    measured: dict[tuple[str, int], Recall] = field(default_factory=dict[tuple[str, int], Recall])

    def search(self) -> list[Recall]:
        """Store the smallest setting with which every kind reaches the aim, or else the largest; return its recalls.

        Texts need more than stored images, so that the images mostly confirm what the texts have found.
        """
        setting = self.smallest
        for kind in self.before:
            setting = self._smallest_for(kind, setting)
        store_setting(self.connection, self.method, setting, self.column)
        return [self._measure(kind, setting) for kind in self.before]

    def _smallest_for(self, kind: str, smallest: int) -> int:
        """Return the smallest setting from `smallest` on with which a kind of query reaches the aim, or the largest.

        Doubles the setting until it reaches the aim, then bisects: apart from a little noise, recall grows with the
        setting.
        """
        too_small, setting = smallest - 1, smallest
        while setting < self.largest and not self._reaches(kind, setting):
            too_small, setting = setting, min(2 * setting, self.largest)
        while setting - too_small > max(1, setting // PRECISION):
            middle = (too_small + setting) // 2
            if self._reaches(kind, middle):
                setting = middle
            else:
                too_small = middle
        return setting

    def _reaches(self, kind: str, setting: int) -> bool:
        """Whether a kind of query reaches the aim; the measurement ends as soon as it cannot any more."""
        store_setting(self.connection, self.method, setting, self.column)
        # What float arithmetic leaves of 1 - aim may be a little less than whole hits.
        allowed = (1 - self.aim) * sum(truth.found for truth in self.exact[kind]) + 1e-6
        results: list[tuple[int, float]] = []
        for result in self._misses(kind, setting):
            results.append(result)
            allowed -= result[0]
            if allowed < 0:
                return False
        self.measured[kind, setting] = summary(self._trial(kind, setting), self.exact[kind], results)
        return True

    def _measure(self, kind: str, setting: int) -> Recall:
        known = self.measured.get((kind, setting))
        if known is not None:
            return known
        return summary(self._trial(kind, setting), self.exact[kind], list(self._misses(kind, setting)))

    def _misses(self, kind: str, setting: int) -> Iterator[tuple[int, float]]:
        trial, vectors, exact = self._trial(kind, setting), self.queries[kind], self.exact[kind]
        return misses(self.connection, trial, vectors, exact, self.progress, self.column)

    def _trial(self, kind: str, setting: int) -> Recall:
        return replace(self.before[kind], setting=setting, target=self.target)


def _smallest_setting(state: IndexStatus, queries: Queries) -> int:
    if len(queries.get("text", ())) >= ENOUGH_TEXTS:
        return MIN_EF_SEARCH if state.method == "hnsw" else 1
    return fit_setting(state.method or "ivfflat", state.lists, None, rows=state.rows)
