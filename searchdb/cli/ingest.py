"""`searchdb ingest`: stores images and videos from files, URLs or the Unsplash dataset."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

from searchdb.cli import Group, open_collection
from searchdb.cli.ingest_vectors import vectors_command
from searchdb.cli.output import loading_bar, print_json, progress_bar
from searchdb.cli.prose import describe_ingest, describe_load, describe_losses
from searchdb.errors import ConfigError, SourceError
from searchdb.plurals import counted

if TYPE_CHECKING:
    from searchdb.ingest.report import IngestReport
    from searchdb.ingest.run import ProgressCallback

MAX_CHUNK_SIZE = 1000
"""Limit of --chunk-size: a chunk's resized images stay in memory until all are fetched, 150 MB at this size."""


def _default_chunk_size(_ctx: click.Context, _parameter: click.Parameter, value: int | None) -> int:
    from searchdb.ingest.enqueue import DEFAULT_CHUNK_SIZE  # slow to import, so not for --help

    return value or DEFAULT_CHUNK_SIZE


def _patterns(_ctx: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Check the patterns of --exclude."""
    from searchdb.sources.exclusion import Exclusion

    try:
        Exclusion(patterns=value)
    except SourceError as exc:
        raise click.BadParameter(str(exc)) from exc
    return value


exclude_option = click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    callback=_patterns,
    help="leave out what matches, as a line of .gitignore does; may be repeated",
)


def _every(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> float | Literal["key"] | None:
    from searchdb.video.sampling import parse_every

    try:
        every = float(value) if value is not None and value != "key" else value
        parse_every(every)  # pyright: ignore[reportArgumentType] - refuses other texts
    except (ValueError, ConfigError) as exc:
        raise click.BadParameter("give seconds between two frames, from 0.04 to 86400, or: key") from exc
    return every  # pyright: ignore[reportReturnType]


every_option = click.option(
    "--every",
    metavar="SECONDS|key",
    callback=_every,
    help="of videos, a frame every so many seconds, or each key frame; reads stored ones again "
    "[default: 1; stored ones as they are]",
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all sources share."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print a report as JSON"),
        click.option("--retry-failed", is_flag=True, help="retry references that failed before"),
        click.option("--enqueue-only", is_flag=True, help="only fill the queue; `searchdb worker` does the work"),
        click.option(
            "--chunk-size",
            type=click.IntRange(1, MAX_CHUNK_SIZE),
            callback=_default_chunk_size,
            help="images per chunk [default: 128]",
        ),
        click.option("--limit", type=click.IntRange(1), metavar="N", help="ingest only the first N references"),
    ):
        command = option(command)
    return command


@click.group("ingest", cls=Group)
def ingest_command() -> None:
    """Embed and store images and frames of videos."""


@ingest_command.command("files")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@exclude_option
@click.option("--prune", is_flag=True, help="remove images of these folders whose files no longer exist")
@click.option("--yes", is_flag=True, help="with --prune: even if most of a folder, or the folder itself, is gone")
@every_option
@click.option("--reread", is_flag=True, help="compare the content of files whose size and time have not changed")
@common
@click.pass_context
def ingest_files(
    ctx: click.Context,
    paths: tuple[str, ...],
    exclude: tuple[str, ...],
    prune: bool,
    yes: bool,
    every: float | Literal["key"] | None,
    reread: bool,
    limit: int | None,
    chunk_size: int,
    retry_failed: bool,
    enqueue_only: bool,
    as_json: bool,
) -> None:
    """Ingest folders with their subfolders, files and globs; folder names become tags."""
    if yes and not prune:
        raise click.UsageError("--yes goes with --prune")
    if prune and (enqueue_only or limit is not None):
        raise click.UsageError(
            "--prune needs a complete ingest, so that moved files keep their images: "
            "leave out --limit and --enqueue-only"
        )
    ingest = partial(
        open_collection(ctx).ingest_files,
        *paths,
        exclude=exclude,
        prune="always" if yes else prune,
        limit=limit,
        chunk_size=chunk_size,
        retry_failed=retry_failed,
        every=every,
        reread=reread,
        enqueue_only=enqueue_only,
    )
    report = run_ingest("ingesting files", ingest, enqueue_only=enqueue_only)
    if report.gone and not report.losses:
        advice = f"removed {report.removed:,} of them" if prune else "--prune removes them"
        gone = (
            "the file of 1 stored image or video no longer exists"
            if report.gone == 1
            else f"the files of {report.gone:,} stored images and videos no longer exist"
        )
        click.echo(f"{gone}: {advice}", err=True)
    elif report.losses:
        click.echo(describe_losses(report, prune=prune), err=True)
    _finish(ctx, report, as_json)
    if prune and report.losses and not yes:
        ctx.exit(1)


@ingest_command.command("urls")
@click.argument("source", metavar="FILE|-")
@every_option
@common
@click.pass_context
def ingest_urls(
    ctx: click.Context,
    source: str,
    every: float | Literal["key"] | None,
    limit: int | None,
    chunk_size: int,
    retry_failed: bool,
    enqueue_only: bool,
    as_json: bool,
) -> None:
    """Ingest a list of URLs: one per line, or CSV, TSV or JSONL with a `url` column and metadata columns."""
    ingest = partial(
        open_collection(ctx).ingest_urls,
        source,
        every=every,
        limit=limit,
        chunk_size=chunk_size,
        retry_failed=retry_failed,
        enqueue_only=enqueue_only,
    )
    report = run_ingest("ingesting URLs", ingest, enqueue_only=enqueue_only)
    _finish(ctx, report, as_json)


@ingest_command.command("unsplash")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--rendition",
    metavar="QUERY",
    help="query string for the image server [default: w=640&fm=jpg&q=80&fit=max]",
)
@click.option("--only-metadata", is_flag=True, help="load the tables without fetching photos")
@common
@click.pass_context
def ingest_unsplash(
    ctx: click.Context,
    paths: tuple[str, ...],
    rendition: str | None,
    only_metadata: bool,
    limit: int | None,
    chunk_size: int,
    retry_failed: bool,
    enqueue_only: bool,
    as_json: bool,
) -> None:
    """Ingest the Unsplash Lite dataset: the zip as downloaded, its folder, or parts such as photos.tsv000.

    Its tables are loaded first: unsplash_photos, unsplash_keywords, unsplash_collections, unsplash_conversions and
    unsplash_colors. Then the photos not stored yet are fetched as small images; `--rendition ''` fetches the originals.
    """
    from searchdb.unsplash.photos import DEFAULT_RENDITION, parse_rendition
    from searchdb.unsplash.reader import find_parts

    rendition = DEFAULT_RENDITION if rendition is None else rendition
    parse_rendition(rendition)  # fails now rather than after half an hour of loading
    has_photos = any(part.table == "photos" for part in find_parts(paths))
    collection = open_collection(ctx)
    with loading_bar() as show:
        loaded = collection.load_unsplash(*paths, progress=show)
    click.echo(describe_load(loaded), err=True)
    if only_metadata or not has_photos:
        if as_json:
            print_json({"tables": loaded.to_json()})
        return
    ingest = partial(
        collection.ingest_unsplash,
        *paths,
        rendition=rendition,
        load_tables=False,
        limit=limit,
        chunk_size=chunk_size,
        retry_failed=retry_failed,
        enqueue_only=enqueue_only,
    )
    report = run_ingest("ingesting photos", ingest, enqueue_only=enqueue_only)
    _finish(ctx, report, as_json, tables=loaded.to_json())


ingest_command.add_command(vectors_command)


class IngestCall(Protocol):
    """One of `SearchDB`'s `ingest` methods with all arguments except `progress`."""

    def __call__(self, *, progress: ProgressCallback) -> IngestReport:
        """Ingest, and return the report."""
        ...


def run_ingest(label: str, ingest: IngestCall, *, enqueue_only: bool = False) -> IngestReport:
    """Ingest with a progress bar, and print what was done, also after an interrupt."""
    with showing_progress(label) as show:
        report = ingest(progress=show)
    if enqueue_only:
        click.echo(
            f"{counted(report.queued, 'reference is', 'references are')} queued: `searchdb worker` ingests them",
            err=True,
        )
    if report.done or not enqueue_only:
        click.echo(describe_ingest(report), err=True)
    return report


@contextmanager
def showing_progress(label: str) -> Generator[ProgressCallback]:
    """Show a progress bar and yield its callback; after an interrupt, print what is stored and how to continue."""
    from searchdb.ingest.report import IngestReport

    report = IngestReport()
    interrupted = True
    try:
        with progress_bar(label) as show:

            def update(current: IngestReport) -> None:
                nonlocal report
                report = current
                show(current)

            yield update
        interrupted = False
    finally:
        if interrupted and (report.queued or report.done):
            click.echo(
                f"stopped: {counted(report.stored, 'image is', 'images are')} stored. To ingest what is still "
                "queued, run the same command again, or `searchdb worker`",
                err=True,
            )


def _finish(ctx: click.Context, report: IngestReport, as_json: bool, **more: Any) -> None:
    """Print the report if JSON was requested; exit with status 1 if nothing was readable, queued or removed."""
    if as_json:
        print_json(report.to_json() | more)
    if not (report.readable or report.queued > report.done or report.removed):
        ctx.exit(1)
