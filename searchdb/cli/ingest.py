"""`searchdb ingest`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from searchdb.cli import open_collection
from searchdb.cli.output import print_json, progress_bar

if TYPE_CHECKING:
    from searchdb.collection import SearchDB
    from searchdb.ingest import IngestReport
    from searchdb.records import RejectedItem, SourceItem


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every source has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print a report as JSON"),
        click.option("--retry-failed", is_flag=True, help="try references again that failed before"),
        click.option("--chunk-size", type=click.IntRange(1, 2000), help="pictures in one write [default: 128]"),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="take the first N references only"),
    ):
        command = option(command)
    return command


@click.group("ingest")
def ingest_command() -> None:
    """Embed and store pictures."""


@ingest_command.command("files")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--prune", is_flag=True, help="remove pictures of these folders whose files are gone")
@common
@click.pass_context
def ingest_files(
    ctx: click.Context, paths: tuple[str, ...], prune: bool, limit: int | None, as_json: bool, **options: Any
) -> None:
    """Ingest folders (recursively), files and globs; folder names become tags."""
    from searchdb.sources.files import files

    listed = files(paths)
    collection = open_collection(ctx)
    total = min(sum(1 for _ in files(paths)), limit or 2**63)
    report = run_ingest(collection, "ingesting files", islice(listed, limit), total=total, **options)
    gone = collection.gone_files(*paths)
    removed = collection.store.delete_images(gone) if gone and prune else 0
    if gone:
        advice = f"removed {removed:,} of them" if prune else "--prune removes them"
        click.echo(f"{len(gone):,} stored pictures are gone from these folders: {advice}", err=True)
    _finish(ctx, report, as_json, gone=len(gone), removed=removed)


@ingest_command.command("urls")
@click.argument("source", metavar="FILE|-")
@common
@click.pass_context
def ingest_urls(ctx: click.Context, source: str, limit: int | None, as_json: bool, **options: Any) -> None:
    """Ingest a list of URLs: one a line, or CSV, TSV or JSONL with a `url` column and metadata columns."""
    from searchdb.sources.urls import urls

    listed = urls(source)
    collection = open_collection(ctx)
    total = None if source == "-" else min(sum(1 for _ in urls(source)), limit or 2**63)
    report = run_ingest(collection, "ingesting URLs", islice(listed, limit), total=total, **options)
    _finish(ctx, report, as_json)


def run_ingest(
    collection: SearchDB,
    label: str,
    items: Iterable[SourceItem | RejectedItem],
    *,
    total: int | None,
    retry_failed: bool = False,
    chunk_size: int | None = None,
) -> IngestReport:
    """Ingest with a progress bar and say what became of everything, also when interrupted."""
    from searchdb.ingest import DEFAULT_CHUNK_SIZE, IngestReport

    report = IngestReport()
    interrupted = True
    try:
        with progress_bar(label, total) as show:

            def note(current: IngestReport) -> None:
                nonlocal report
                report = current
                show(current)

            report = collection.ingest(
                items, retry_failed=retry_failed, chunk_size=chunk_size or DEFAULT_CHUNK_SIZE, progress=note
            )
        interrupted = False
    finally:
        if interrupted:
            click.echo(f"stopped; {report.stored:,} pictures were stored before that and stay", err=True)
    click.echo(report.in_words(), err=True)
    return report


def _finish(ctx: click.Context, report: IngestReport, as_json: bool, **more: int) -> None:
    """Print the report as JSON if asked, and fail where not a single picture was readable."""
    if as_json:
        print_json(report.to_json() | more)
    if not report.readable:
        ctx.exit(1)
