"""`searchdb export`: writes search results, or what filters select, to a table, a folder or a contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from searchdb.cli import open_collection
from searchdb.cli.output import print_json, printable
from searchdb.cli.query_options import filter_options, query_options
from searchdb.errors import ExportError
from searchdb.plurals import counted

if TYPE_CHECKING:
    from searchdb.export.report import ExportReport
    from searchdb.exporting import ExportProgress

STREAM = "-"
SHOWN_FAILURES = 20
"""Failures that are printed; --json has all."""


@click.command("export")
@query_options
@click.option("--to", "target", metavar="FILE|-", help="file to write, or - for standard output, the default")
@click.option("--to-folder", metavar="DIR", help="folder to fill with the images themselves")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "tsv", "jsonl", "parquet", "npz", "html"]),
    help="default: by the extension of FILE, or csv",
)
@click.option("--columns", metavar="NAME,...", help="columns of a table; * means the default ones")
@click.option("--vectors", is_flag=True, help="add the vectors, for `searchdb ingest vectors` or other programs")
@click.option("--keep-formulas", is_flag=True, help="in CSV, leave texts as they are that look like formulas")
@click.option("--link", is_flag=True, help="fill the folder with symbolic links, the default")
@click.option("--copy", is_flag=True, help="fill the folder with copies; downloads images at URLs")
@click.option("--count", type=int, help="the most images  [default: 100 for a search, otherwise all]")
@filter_options
@click.option("--json", "as_json", is_flag=True, help="print a report as JSON")
@click.pass_context
def export_command(
    ctx: click.Context,
    text: str | None,
    target: str | None,
    to_folder: str | None,
    form: str | None,
    columns: str | None,
    vectors: bool,
    keep_formulas: bool,
    link: bool,
    copy: bool,
    count: int | None,
    as_json: bool,
    **search: Any,
) -> None:
    """Export search results, or without a query all images that the filters select.

    Tables are CSV, TSV, JSON lines, Parquet or npz. HTML is a contact sheet in one file, for browsers and for paper. A
    folder gets links to the images, or copies, named by rank; existing files are kept, and another run completes it.
    The exit status is 1 if an image could not be linked, copied or shown.

    \b
    searchdb export "a boat at sunset" --to boats.csv --columns id,image,similarity,taken_at
    searchdb export --taken-after 2024-01-01 --to 2024.parquet --columns '*,embedding'
    searchdb export --vectors --to everything.parquet
    searchdb export "a boat" --min-relevance 0.5 --to boats.html
    searchdb export --tag harbour --to-folder harbours --copy
    """
    given = {"to": target, "format": form, "columns": columns, "vectors": vectors, "keep-formulas": keep_formulas}
    if to_folder is not None:
        for name, value in given.items():
            if value:
                raise click.UsageError(f"--{name} is for files, --to-folder is not: leave one of them out")
    elif link or copy:
        raise click.UsageError(f"--{'link' if link else 'copy'} needs --to-folder")
    if link and copy:
        raise click.UsageError("--link and --copy exclude each other")
    if as_json and to_folder is None and target in (None, STREAM):
        raise click.UsageError("--json prints a report on standard output: name a file, or use --format jsonl")
    collection = open_collection(ctx)
    with _progress() as progress:
        more = {} if to_folder is not None else {"vectors": vectors}
        arguments: dict[str, Any] = {**search, **more, "count": count, "progress": progress}
        if to_folder is not None:
            report = collection.export_folder(to_folder, text, copy=copy, **arguments)
        else:
            report = _export_file(collection, target or STREAM, form, columns, text, arguments, keep_formulas)
    if as_json:
        print_json(report.to_json())
    _describe(report, copy=copy)
    if report.failed:
        ctx.exit(1)


def _export_file(
    collection: Any, target: str, form: str | None, columns: str | None, text: str | None, arguments: Any, keep: bool
) -> ExportReport:
    from searchdb.export.tables import BINARY_FORMATS, checked_format

    names = None if columns is None else columns.split(",")
    try:
        if target != STREAM:
            export = partial(collection.export, target)
        else:
            if checked_format(form, target) in BINARY_FORMATS and sys.stdout.isatty():
                raise click.UsageError(f"a terminal cannot show {form}: name a file with --to, or redirect the output")
            export = partial(collection.export, sys.stdout.buffer)
        return export(text, format=form, columns=names, keep_formulas=keep, **arguments)
    except ExportError as exc:
        if exc.field in ("columns", "format"):
            raise click.UsageError(str(exc)) from exc
        raise


def _describe(report: ExportReport, *, copy: bool) -> None:
    """Print on standard error what was exported and what failed."""
    done = counted(report.exported, "image")
    if report.format == "folder":
        done += " copied" if copy else " linked"
        there = f", {report.unchanged:,} there already" if report.unchanged else ""
        click.echo(f"{done} into {printable(report.target)}{there}", err=True)
    elif report.target != STREAM:
        click.echo(f"{done} exported to {printable(report.target)}", err=True)
    if not report.failed:
        return
    lacking = ("has no thumbnail", "have no thumbnail") if report.format == "html" else ("failed", "failed")
    click.echo(f"{counted(len(report.failed), *lacking)}:", err=True)
    for failure in report.failed[:SHOWN_FAILURES]:
        click.echo(f"  {printable(failure.image)}: {printable(failure.message)}", err=True)
    if (more := len(report.failed) - SHOWN_FAILURES) > 0:
        click.echo(f"  and {more:,} more: --json names all", err=True)


@contextmanager
def _progress() -> Generator[ExportProgress]:
    """Show the number of exported images on a terminal's standard error; yield the callback that updates it."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("exporting", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
