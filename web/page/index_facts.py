"""Describes the vector index for the status page."""

from __future__ import annotations

from searchdb.index.records import Recall
from searchdb.index.status import IndexStatus


def index_line(status: IndexStatus) -> str:
    """Return the index's method, parameters, rows and state as one line; code is in backticks."""
    if status.method is None:
        return f"none, every search reads all {status.row_count} rows: run `searchdb index build`"
    if status.method == "hnsw":
        parameters = f"m {status.m}, ef_construction {status.ef_construction}, ef_search {status.setting}"
    elif status.lists == 1:
        parameters = "one list: every search is exact"
    else:
        parameters = f"{status.lists} lists, {status.setting} probed"
    built = f"built at {status.rows_at_build:,} rows" if status.built_at else "not built since the schema was created"
    state = "fits"
    if status.stale or not status.valid:
        method = f" --method {status.method}" if status.chosen else ""
        state = f"{'stale' if status.valid else 'INVALID'}: run `searchdb index build{method}`"
    half = " over halfvec" if status.value_type == "halfvec" else ""
    return f"{status.method}{half}, {parameters}; {status.row_count} rows now, {built}: {state}"


def index_facts(status: IndexStatus) -> list[tuple[str, str]]:
    """Return labels and values of further facts; code is in backticks."""
    facts = [
        ("built", f"{status.built_at:%Y-%m-%d %H:%M}" if status.built_at else "with the schema"),
        ("size", f"{status.byte_size / 2**20:,.1f} MB"),
        ("used", f"{status.scans:,} times since then"),
        ("tuned", _tuning(status)),
        *((recall.label, _recall(recall, status)) for recall in status.recalls),
    ]
    if status.recall_of("text") is None and status.lists != 1:
        facts.append(("text", "recall not measured for texts: run `searchdb index recall`"))
    if status.building is not None:
        facts.append(("building", status.building.phase))
    return facts + [("leftover", f"{name}, from a build that was killed") for name in status.leftovers]


def _tuning(status: IndexStatus) -> str:
    if status.lists == 1:
        return "not needed: every search is exact"
    if status.tuned is None or status.tuned.measured_at is None:
        return "not tuned: run `searchdb index tune`"
    current = "" if status.tuned_since_build else "; the index or the setting has changed since"
    tuned = status.tuned
    alone = "" if tuned.kind == "text" else ", on stored images alone"
    missed = f", reached {tuned.recall:.3f}" if tuned.target is not None and tuned.recall < tuned.target else ""
    return f"to recall {tuned.target} on {tuned.measured_at:%Y-%m-%d}{alone}{missed}{current}"


def _recall(recall: Recall, status: IndexStatus) -> str:
    line = f"recall@{recall.match_count} {recall.recall:.3f}, p50 {recall.p50_ms:.2f} ms"
    line += f"; exact scan {recall.exact_p50_ms:.2f} ms"
    if recall.measured_at is None:
        return line
    old = status.built_at is not None and recall.measured_at < status.built_at
    return f"{line}, on {recall.measured_at:%Y-%m-%d}{', before the last build' if old else ''}"
