"""Describes the vector index, its recall and its tuning in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchdb.index.records import Recall
    from searchdb.index.status import BuildProgress, IndexStatus
    from searchdb.index.tune import TuneReport

NO_TEXT_RECALL = (
    "recall not measured for texts: run `searchdb index recall`, after some text searches or with --queries"
)


def index_summary(status: IndexStatus) -> str:
    """Return the state of the index as one line."""
    method = f" --method {status.method}" if status.chosen and status.method else ""
    advice = f"run `searchdb index build{method}`"
    if status.method is None:
        return f"none, every search reads all {status.row_count} rows: {advice}"
    built = f"built at {status.rows_at_build:,} rows" if status.built_at else "not built since the schema was created"
    state = f"INVALID: {advice}" if not status.valid else f"stale: {advice}" if status.stale else "fits"
    half = " over halfvec" if status.value_type == "halfvec" else ""
    return f"{status.method}{half}, {_parameters(status)}; {status.row_count} rows now, {built}: {state}"


def stale_index_advice(status: IndexStatus) -> str | None:
    """Return what to do about an index that makes searches slow; None if it fits, or is being built."""
    if not status.stale or status.building is not None:
        return None
    return (
        f"searches are slow, because the vector index does not fit the {status.row_count} images: "
        "run `searchdb index build`, as the owner of the tables"
    )


def index_details(status: IndexStatus) -> list[tuple[str, str]]:
    """Return labels and values of what the summary leaves out."""
    details = [
        ("built", f"{status.built_at:%Y-%m-%d %H:%M}" if status.built_at else "with the schema"),
        ("size", f"{status.byte_size / 2**20:,.1f} MB"),
        ("used", f"{status.scans:,} times since then"),
        ("tuned", _tuning(status)),
    ]
    for recall in status.recalls:
        old = status.built_at and recall.measured_at and recall.measured_at < status.built_at
        when = f" on {recall.measured_at:%Y-%m-%d}, at {recall.row_count:,} rows" if recall.measured_at else ""
        details.append((recall.label, f"{recall_line(recall)}{when}{', before the last build' if old else ''}"))
    if status.recall_of("text") is None and status.lists != 1:
        details.append(("text", NO_TEXT_RECALL))
    if status.building is not None:
        details.append(("building", build_progress_line(status.building)))
    details += [
        ("leftover", f"{name}, from a build that was killed: it slows down writes; the next build drops it")
        for name in status.leftovers
    ]
    return details


def build_progress_line(progress: BuildProgress) -> str:
    """Return the progress of a build in a few words."""
    return f"{progress.phase}, {progress.done / progress.total:.0%}" if progress.total else progress.phase


def recall_line(recall: Recall) -> str:
    """Return a measurement as one line."""
    return (
        f"recall@{recall.match_count} {recall.recall:.3f} with {_effort(recall)}, "
        f"p50 {recall.p50_ms:.2f} ms, p95 {recall.p95_ms:.2f} ms; exact scan p50 {recall.exact_p50_ms:.2f} ms, "
        f"p95 {recall.exact_p95_ms:.2f} ms: {recall.speedup:.1f} times as fast ({recall.queries:,} queries)"
    )


def tuning_summary(report: TuneReport) -> str:
    """Return the result of tuning, and the time of a search with it, as one line."""
    now, before = report.chosen.recalls[0], report.before.recalls[0]
    worst = min(report.chosen.recalls, key=lambda recall: recall.recall)
    effort = _effort(now)
    cost = (
        f"a search by {'a stored image' if now.kind == 'pictures' else 'a text'} takes {now.p50_ms:.2f} ms, "
        f"before {before.p50_ms:.2f} ms; an exact scan {now.exact_p50_ms:.2f} ms"
    )
    if report.reached:
        return f"match_images now searches with {effort}, in every client: {cost}"
    return (
        f"recall {report.target} is out of reach: the best measured is {worst.recall:.3f} on {worst.label}, "
        f"with {effort}, which match_images now searches with ({cost}). For more, build with a larger --m and "
        "--ef-construction, or with --method ivfflat"
    )


def _effort(recall: Recall) -> str:
    """Return the search effort, such as `4 of 158 lists` or `ef_search 80`."""
    if recall.method == "hnsw":
        return f"ef_search {recall.setting}"
    if recall.method == "ivfflat":
        return f"{min(recall.setting, recall.lists or 1)} of {recall.lists} lists"
    return "no index"


def _parameters(status: IndexStatus) -> str:
    if status.method == "hnsw":
        return f"m {status.m}, ef_construction {status.ef_construction}, ef_search {status.setting}"
    exact = status.lists == 1
    return "one list: every search is exact" if exact else f"{status.lists} lists, {status.setting} probed"


def _tuning(status: IndexStatus) -> str:
    if status.lists == 1:
        return "not needed: every search is exact"
    tuned = status.tuned
    if tuned is None or tuned.measured_at is None:
        return "not tuned: run `searchdb index tune`"
    line = f"to recall {tuned.target} on {tuned.measured_at:%Y-%m-%d}, at {tuned.row_count:,} rows"
    if tuned.kind != "text":
        line += ", on stored images alone: there were no texts"
    if tuned.target is not None and tuned.recall < tuned.target:
        line += f", which was out of reach: {tuned.recall:.3f} on {'texts' if tuned.kind == 'text' else 'images'}"
    if status.tuned_since_build:
        return line
    if status.built_at is not None and tuned.measured_at < status.built_at:
        return f"{line}; not since the last build, which kept the search effort: run `searchdb index tune`"
    return f"{line}; changed manually since, from {tuned.setting} to {status.setting}"
