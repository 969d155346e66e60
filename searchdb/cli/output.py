"""Prints the output of commands: ranked lists, tables, JSON documents, progress bars."""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import click

from searchdb.clock import clock
from searchdb.records import mask_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from searchdb.ingest.report import IngestReport
    from searchdb.records import Hit
    from searchdb.unsplash.loader import LoadProgress

PIPE_WIDTH = 1000
"""Width of a table written to a pipe, in characters: wide enough that paths do not wrap."""


def print_json(document: Any) -> None:
    """Print one JSON document, in ASCII where standard output lacks characters: an escape of ours would break it.

    JSON has no NaN and no infinity: as in PostgreSQL, they become strings.
    """
    is_utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    dump = partial(json.dumps, default=_json_value, ensure_ascii=not is_utf8, allow_nan=False)
    try:
        printed = dump(document)
    except ValueError:
        printed = dump(_without_nan(document))
    click.echo(printed)


def hit_json(hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON values, the most important fields first."""
    from dataclasses import asdict

    values = asdict(hit)
    first = ("id", "image", "similarity", "relevance", "parts", "source", "tags", "description", "width", "height")
    return {name: values.pop(name) for name in first} | values


def print_hits(hits: Sequence[Hit], *, title: str, offset: int = 0) -> None:
    """Print a ranked list: rank, similarity, relevance, similarity to each part of the query, image and caption.

    A frame is shown as its video and the time in it.
    """
    relevance = ["relevance"] if any(hit.relevance is not None for hit in hits) else []
    parts = list(hits[0].parts or ()) if hits else []
    click.echo(title)
    print_table(
        ("rank", "similarity", *relevance, *parts, "image", "caption"),
        (
            (
                str(offset + n),
                f"{hit.similarity:.4f}",
                *(["" if hit.relevance is None else f"{hit.relevance:.2f}"] if relevance else []),
                *(f"{similarity:.4f}" for similarity in (hit.parts or {}).values()),
                _named(hit),
                hit.description or "",
            )
            for n, hit in enumerate(hits, 1)
        ),
    )


def _named(hit: Hit) -> str:
    if hit.video is None or hit.video_time is None:
        return mask_credentials(hit.image)
    more = f"  ({hit.moments:,} moments)" if hit.moments is not None and hit.moments > 1 else ""
    return f"{mask_credentials(hit.video)}  {clock(hit.video_time)}{more}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows as a table with a header line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else _printable(value)) for value in row))
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        click.echo(line.rstrip())


@contextmanager
def progress_bar(label: str) -> Generator[Callable[[IngestReport], None]]:
    """Show a progress bar on stderr: done, total, rate, failures, time left. Yield the callback that updates it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:,.0f}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("{task.fields[failed]:,} failed"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(label, total=None, failed=0)
    started = False

    def show(report: IngestReport) -> None:
        nonlocal started
        if not started:  # not earlier: an error in the arguments prints one line and no bar
            started = True
            progress.start()
        progress.update(task, completed=report.done, total=report.total, failed=report.failed.total())

    try:
        yield show
    finally:
        if started:
            progress.stop()


@contextmanager
def loading_bar() -> Generator[Callable[[LoadProgress], None]]:
    """Show a progress bar on stderr for a load: current part, bytes of all parts, time left. Yield its callback."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("loading", total=None)

        def show(loaded: LoadProgress) -> None:
            progress.update(
                task, description=f"loading {loaded.part}", completed=loaded.bytes_done, total=loaded.bytes_total
            )

        yield show


def printable(text: str) -> str:
    """Return a text with what a terminal would not show, or obey, escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _printable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    plain = _json_value(value)
    text = plain if isinstance(plain, str) else json.dumps(plain, default=_json_value, ensure_ascii=False)
    return printable(text)


def _without_nan(value: Any) -> Any:
    """Return a document whose numbers that JSON does not have are replaced by their names, such as "NaN"."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in cast("list[Any]", value)]
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    if hasattr(value, "to_list"):  # pgvector's Vector
        return value.to_list()
    if isinstance(value, list | dict):
        return cast(Any, value)
    return str(value)
