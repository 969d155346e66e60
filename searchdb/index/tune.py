"""Tunes how deep match_images searches: the least with which real queries reach a recall, for every client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Engine

from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.build import owner, store_setting
from searchdb.index.recall import (
    DEFAULT_SAMPLE,
    MeasureCallback,
    Queries,
    RecallReport,
    compare,
    compare_again,
    one_moment,
    queries_of,
    record,
    silent,
)
from searchdb.index.status import (
    BUILD_LOCK_KEY,
    EF_SEARCH,
    MAX_EF_SEARCH,
    IndexStatus,
    Recall,
    depth_in_words,
    fit_probes,
    index_status,
)

MIN_EF_SEARCH = 40
"""Least ef_search that is tried, pgvector's default: below it a search is hardly faster, but a query that goes astray
misses all of its neighbours, which a sample of queries shows too seldom."""
TIMED_QUERIES = 50
"""Queries of each kind that tell what the chosen setting costs, side by side with the exact scan."""


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """What tuning found. `chosen` is what match_images does now if it `reached` the target, else the best measured."""

    target: float
    reached: bool
    before: RecallReport
    chosen: RecallReport

    @property
    def notes(self) -> list[str]:
        """What to bear in mind about it."""
        notes = self.chosen.notes
        if self.reached and not any(recall.kind == "text" for recall in self.chosen.recalls):
            notes.append("without text queries the default was not gone below")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, but for dates."""
        before, after = self.before.to_json(), self.chosen.to_json()
        return {"target": self.target, "reached": self.reached, "before": before, "chosen": after, "notes": self.notes}

    def in_words(self) -> str:
        """Return the decision and its price as one line for people."""
        now, before = self.chosen.recalls[0], self.before.recalls[0]
        worst = min(self.chosen.recalls, key=lambda recall: recall.recall)
        depth = depth_in_words(now.method, now.setting, now.lists)
        price = (
            f"a search takes {now.p50_ms:.2f} ms, before {before.p50_ms:.2f} ms, "
            f"an exact scan {now.exact_p50_ms:.2f} ms"
        )
        if self.reached:
            return f"match_images now searches with {depth}, in every client: {price}"
        way_out = "build with a larger --m and --ef-construction, or with --method ivfflat"
        return (
            f"recall {self.target} is out of reach: the best that was measured is {worst.recall:.3f} on {worst.kind}, "
            f"with {depth} ({price}). Nothing was changed; {way_out}"
        )


def tune_index(
    engine: Engine,
    *,
    target: float,
    count: int = 10,
    sample: int = DEFAULT_SAMPLE,
    texts: np.ndarray | None = None,
    progress: MeasureCallback = silent,
) -> TuneReport | None:
    """Store the least probes, or ef_search, with which every kind of queries reaches a recall, on match_images.

    Candidates are tried on match_images itself, in a transaction that nobody else sees into. Stored pictures alone
    never bring the setting below its default. Returns None if another process is building or tuning.

    Args:
        target: the recall, above 0 and at most 1.
        count, sample, texts, progress: as of `measure`.

    Raises:
        ConfigError: the target is no recall.
        QueryError: there are no pictures.
        DatabaseError: there is no index, or we may not change match_images; or PostgreSQL failed.
    """
    if not 0 < target <= 1:
        raise ConfigError(f"the target is {target}, a recall is above 0 and at most 1")
    with one_moment(engine) as connection:
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

        trials = connection.begin_nested()

        def attempt(setting: int) -> list[Recall]:
            """Measure with a setting; of the kinds, up to the first that misses the target."""
            store_setting(connection, method, setting)
            tried: list[Recall] = []
            for base in before:
                seen = replace(base, setting=setting, target=target)
                tried.append(compare_again(connection, seen, queries[base.kind], exact[base.kind], progress))
                if tried[-1].recall < target and setting < deepest:
                    break
            return tried

        method = state.method
        deepest = MAX_EF_SEARCH if method == "hnsw" else state.lists or 1
        chosen = _least(attempt, target, shallowest=_shallowest(state, queries), deepest=deepest)
        reached = _reaches(chosen, target)
        store_setting(connection, method, chosen[0].setting)
        few = {kind: vectors[:TIMED_QUERIES] for kind, vectors in queries.items()}
        timed, _ = compare(connection, state, few, count, progress)
        chosen = [_with_times_of(recall, side) for recall, side in zip(chosen, timed, strict=True)]
        if reached:
            trials.commit()
            record(connection, chosen)
        else:
            trials.rollback()
    return TuneReport(
        target=target, reached=reached, before=RecallReport(recalls=before), chosen=RecallReport(recalls=chosen)
    )


def _least(attempt: Callable[[int], list[Recall]], target: float, *, shallowest: int, deepest: int) -> list[Recall]:
    """Return what the least setting that reaches the target gives; else what the deepest gives.

    Doubles until the target is reached, then halves the gap: recall grows with the depth, but for a little noise.
    """
    missed, setting = shallowest - 1, shallowest
    best = attempt(setting)
    while not _reaches(best, target) and setting < deepest:
        missed, setting = setting, min(2 * setting, deepest)
        best = attempt(setting)
    if not _reaches(best, target):
        return best
    while setting - missed > 1:
        middle = (missed + setting) // 2
        tried = attempt(middle)
        if _reaches(tried, target):
            setting, best = middle, tried
        else:
            missed = middle
    return best


def _with_times_of(recall: Recall, timed: Recall) -> Recall:
    """Return a recall with times that were taken in turn with the exact scan's, not minutes after them."""
    return replace(
        recall,
        p50_ms=timed.p50_ms,
        p95_ms=timed.p95_ms,
        exact_p50_ms=timed.exact_p50_ms,
        exact_p95_ms=timed.exact_p95_ms,
    )


def _reaches(recalls: Sequence[Recall], target: float) -> bool:
    return all(recall.recall >= target for recall in recalls)


def _shallowest(state: IndexStatus, queries: Queries) -> int:
    if "text" in queries:
        return MIN_EF_SEARCH if state.method == "hnsw" else 1
    return EF_SEARCH if state.method == "hnsw" else fit_probes(state.lists or 1)
