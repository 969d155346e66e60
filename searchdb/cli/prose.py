"""Describes reports of ingests and loads, the queue, workers, watches, relevance and space in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from searchdb.cli.output import printable
from searchdb.wording import counted

if TYPE_CHECKING:
    from searchdb.ingest.report import IngestReport
    from searchdb.search.relevance import RelevanceStatus
    from searchdb.status import QueueStatus, WorkerStatus
    from searchdb.storage import SpaceUse
    from searchdb.unsplash.loader import LoadReport
    from searchdb.watch.records import WatchReport
    from searchdb.watch.registry import WatchStatus


def describe_ingest(report: IngestReport, *, of: str = "reference") -> str:
    """Return the report of an ingest or a worker in a few lines; `of` is what it counts."""
    lines = [
        f"{counted(report.done, of)}: {report.stored:,} stored{_frames(report)}, {report.unchanged:,} unchanged, "
        f"{report.failed.total():,} failed, {report.known_failures:,} failed before"
    ]
    lines += [f"  {count:6,} {error}" for error, count in report.failed.most_common()]
    if report.failed:
        lines.append("`searchdb failures list` shows the reasons")
    if report.sidecars or report.parts:
        sidecars = "sidecar" if report.sidecars == 1 else "sidecars"
        parts = "RAW file or video" if report.parts == 1 else "RAW files and videos"
        counts = ((report.sidecars, sidecars), (report.parts, parts))
        beside = ", ".join(f"{count:,} {what}" for count, what in counts if count)
        lines.append(f"files that belong to an image beside them: {beside}")
    if report.excluded:
        left_out = "1 file or folder was" if report.excluded == 1 else f"{report.excluded:,} files and folders were"
        lines.append(f"{left_out} left out: clutter, sidecars without an image, or excluded by patterns")
    if report.index_rebuilt:
        lines.append("the vector index was rebuilt, because the collection had outgrown it")
    if report.known_failures:
        one = report.known_failures == 1
        which = "reference failed before and was" if one else "references failed before and were"
        lines.append(f"{report.known_failures:,} {which} not tried: --retry-failed tries {'it' if one else 'them'}")
    return "\n".join(lines)


def _frames(report: IngestReport) -> str:
    return f" (videos with {counted(report.frames, 'frame')} among them)" if report.frames else ""


def describe_losses(report: IngestReport, *, prune: bool) -> str:
    """Return in one line which folders lost most of their images, and what became of these images."""
    lost = "; ".join(printable(str(loss)) for loss in report.losses)
    if report.removed:
        return f"removed {report.removed:,} images: {lost}"
    what = "nothing was removed: " if prune else ""
    option = "--yes" if prune else "--prune --yes"
    return f"{what}{lost}. Mount their disk if it is not there; if they were deleted on purpose, {option} removes them"


def describe_load(report: LoadReport) -> str:
    """Return the report of loading the Unsplash dataset's tables in a few lines."""
    from searchdb.unsplash.columns import FORMATS

    lines = [
        f"{table}: {report.rows[table]:,} rows, {report.written[table]:,} new or changed, {report.bad[table]:,} bad"
        for table in FORMATS
        if report.rows[table] or report.bad[table]
    ]
    if report.refreshed:
        lines.append(f"updated the metadata of {report.refreshed:,} stored photos")
    return "\n".join([*lines, *(f"  {bad}" for bad in report.bad_rows)])


def describe_queue(queue: QueueStatus) -> str:
    """Return the state of the queue in one line."""
    from searchdb.db.counts import RowCount

    queued = RowCount(rows=queue.queued, exact=queue.exact)
    workers = f"{len(queue.workers)} worker{'' if len(queue.workers) == 1 else 's'}"
    return f"{queued} queued, {queue.running:,} running, {queue.rate_per_s:,.1f}/s in the last minute, {workers}"


def describe_relevance(relevance: RelevanceStatus) -> str:
    """Return what relevance is measured by, in one line."""
    if relevance.measured_at is None:
        return "not measured yet: the first search by a text does it, from 20 images on"
    return (
        f"by this collection (no constants of the model): a sample of {relevance.sampled:,} images, measured "
        f"{relevance.measured_at:%Y-%m-%d %H:%M}"
    )


def describe_worker(worker: WorkerStatus) -> str:
    """Return where a worker runs and since when, in one line."""
    return f"{worker.host}, process {worker.pid}, since {worker.started_at:%Y-%m-%d %H:%M}"


def describe_watch(watch: WatchStatus) -> str:
    """Return which folders a watch follows, where it runs, and what it does, in one line."""
    parts = [
        ", ".join(map(printable, watch.paths)),
        f"{watch.host}, process {watch.pid}, since {watch.started_at:%Y-%m-%d %H:%M}",
        "no change yet" if watch.changed_at is None else f"last change {watch.changed_at:%Y-%m-%d %H:%M}",
    ]
    if watch.polling:
        parts.append("polling")
    if watch.waiting:
        parts.append(f"{watch.waiting:,} {'file is' if watch.waiting == 1 else 'files are'} still being written")
    if watch.lost:
        parts.append(f"LOST: not heard of since {watch.seen_at:%Y-%m-%d %H:%M}")
    if watch.problem:
        parts.append(printable(watch.problem))
    return "; ".join(parts)


def describe_step(step: WatchReport) -> str:
    """Return what a step of a watch has done, or all of them, in one line."""
    copied = f" ({step.copied:,} of them moved or copied)" if step.copied else ""
    parts = [f"{step.stored:,} stored{copied}", f"{step.removed:,} removed", f"{step.failed.total():,} failed"]
    if step.waiting:
        parts.append(f"{step.waiting:,} still being written")
    return ", ".join(parts)


def describe_space(use: SpaceUse) -> str:
    """Return what a part of the collection takes, and its limit, in one line."""
    limit = "" if use.limit is None else f" of {_megabytes(use.limit)}"
    return f"{use.name} {_megabytes(use.bytes)}{limit}{f' ({use.setting})' if use.setting else ''}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
