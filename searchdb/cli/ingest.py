"""`searchdb ingest`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from searchdb.cli import open_collection
from searchdb.cli.output import loading_bar, print_json, progress_bar

if TYPE_CHECKING:
    from searchdb.client import SearchDB
    from searchdb.ingest.pipeline import IngestReport
    from searchdb.records import RejectedItem, SourceItem

MAX_CHUNK_SIZE = 1000
"""Scaled pictures wait in memory until their chunk is whole: 150 MB of them."""


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every source has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print a report as JSON"),
        click.option("--retry-failed", is_flag=True, help="try references again that failed before"),
        click.option("--enqueue-only", is_flag=True, help="queue only; `searchdb worker` does the work"),
        click.option(
            "--chunk-size", type=click.IntRange(1, MAX_CHUNK_SIZE), help="pictures in one chunk [default: 128]"
        ),
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
    report = run_ingest(collection, "ingesting files", islice(listed, limit), **options)
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
    report = run_ingest(collection, "ingesting URLs", islice(listed, limit), **options)
    _finish(ctx, report, as_json)


@ingest_command.command("unsplash")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--rendition", metavar="QUERY", help="asks for small pictures [default: w=640&fm=jpg&q=80&fit=max]")
@click.option("--only-metadata", is_flag=True, help="load the tables, fetch no pictures")
@common
@click.pass_context
def ingest_unsplash(
    ctx: click.Context,
    paths: tuple[str, ...],
    rendition: str | None,
    only_metadata: bool,
    limit: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Ingest the Unsplash Lite dataset: the zip as downloaded, its folder, or parts such as photos.tsv000.

    Its tables are filled first: unsplash_photos, unsplash_keywords, unsplash_collections, unsplash_conversions and
    unsplash_colors. Then the photos without a picture are fetched, small ones; `--rendition ''` asks for the originals.
    """
    from searchdb.unsplash.photos import DEFAULT_RENDITION, parse_rendition
    from searchdb.unsplash.reader import find_parts

    wanted = DEFAULT_RENDITION if rendition is None else rendition
    parse_rendition(wanted)  # before half an hour of loading
    has_photos = any(part.table == "photos" for part in find_parts(paths))
    collection = open_collection(ctx)
    with loading_bar() as show:
        loaded = collection.load_unsplash(*paths, progress=show)
    click.echo(loaded.in_words(), err=True)
    if only_metadata or not has_photos:
        if as_json:
            print_json({"tables": loaded.to_json()})
        return
    items = collection.unsplash_items(*paths, rendition=wanted, limit=limit)
    report = run_ingest(collection, "ingesting photos", items, **options)
    _finish(ctx, report, as_json, tables=loaded.to_json())


def run_ingest(
    collection: SearchDB,
    label: str,
    items: Iterable[SourceItem | RejectedItem],
    *,
    enqueue_only: bool = False,
    chunk_size: int | None = None,
    retry_failed: bool = False,
) -> IngestReport:
    """Ingest with a progress bar and say what became of everything, also when interrupted."""
    from searchdb.ingest.pipeline import DEFAULT_CHUNK_SIZE

    with working(label) as show:
        report = collection.ingest(
            items,
            chunk_size=chunk_size or DEFAULT_CHUNK_SIZE,
            retry_failed=retry_failed,
            enqueue_only=enqueue_only,
            progress=show,
        )
    if enqueue_only:
        click.echo(f"{report.queued:,} references are queued: `searchdb worker` ingests them", err=True)
    if report.done or not enqueue_only:
        click.echo(report.in_words(), err=True)
    return report


@contextmanager
def working(label: str) -> Iterator[Callable[[IngestReport], None]]:
    """Show a progress bar; yield what moves it. When interrupted say what is stored, and that the rest is queued."""
    from searchdb.ingest.pipeline import IngestReport

    report = IngestReport()
    interrupted = True
    try:
        with progress_bar(label) as show:

            def note(current: IngestReport) -> None:
                nonlocal report
                report = current
                show(current)

            yield note
        interrupted = False
    finally:
        if interrupted and (report.queued or report.done):
            click.echo(
                f"stopped; {report.stored:,} pictures were stored before that and stay. What is still queued goes on "
                "with the same command, or with `searchdb worker`",
                err=True,
            )


def _finish(ctx: click.Context, report: IngestReport, as_json: bool, **more: Any) -> None:
    """Print the report as JSON if asked, and fail where not a single picture was readable, or will be."""
    if as_json:
        print_json(report.to_json() | more)
    if not (report.readable or report.queued > report.done):
        ctx.exit(1)
