"""`searchdb index`: shows, builds, measures and tunes the vector index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

import click

from searchdb.cli import Group, open_collection
from searchdb.cli.index_prose import index_details, index_summary, recall_line, tuning_summary
from searchdb.cli.output import print_json

if TYPE_CHECKING:
    import numpy as np

    from searchdb.client import SearchDB
    from searchdb.index.recall import RecallReport
    from searchdb.index.status import IndexStatus

BUSY = "another process is building or tuning the index: wait for it, or see `searchdb index status`"

_measuring = [
    click.option(
        "--queries",
        type=click.File(encoding="utf-8", errors="replace"),
        help="texts to search for, one per line; - reads standard input [default: the texts searched for last]",
    ),
    click.option(
        "--sample",
        type=click.IntRange(1, 10_000),
        default=100,
        show_default=True,
        help="stored images to search by; also the most stored texts",
    ),
    click.option(
        "--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="hits compared, the k of recall@k"
    ),
    click.option("--json", "as_json", is_flag=True, help="print JSON"),
]


def _with_measuring_options(command: Any) -> Any:
    for option in reversed(_measuring):
        command = option(command)
    return command


@click.group("index", cls=Group)
def index_command() -> None:
    """Show, build, measure and tune the vector index."""


@index_command.command("status")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Show the index: method, parameters, size, use, recall, and the rows at the last build and now."""
    from searchdb.index.status import index_status

    with open_collection(ctx).database.connect() as connection:
        _show(index_status(connection), as_json)


@index_command.command("build")
@click.option(
    "--method",
    type=click.Choice(["ivfflat", "hnsw"]),
    help="hnsw searches faster; ivfflat builds and adds images faster [default: what searches fastest]",
)
@click.option(
    "--type",
    "value_type",
    type=click.Choice(["vector", "halfvec"]),
    help="indexed values: vectors, or half as long, which is faster and as accurate [default: halfvec]",
)
@click.option("--lists", type=click.IntRange(1, 32768), help="ivfflat lists [default: fitted to the rows]")
@click.option("--m", type=click.IntRange(2, 100), help="hnsw neighbours of each element [default: 24]")
@click.option(
    "--ef-construction",
    type=click.IntRange(4, 1000),
    help="hnsw candidates when an element is inserted, at least 2 m [default: 320]",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def build_command(
    ctx: click.Context,
    method: str | None,
    value_type: str | None,
    lists: int | None,
    m: int | None,
    ef_construction: int | None,
    as_json: bool,
) -> None:
    """Rebuild the index to fit the rows, and tune it; searches and ingest continue."""
    if method != "hnsw" and (m is not None or ef_construction is not None):
        raise click.UsageError("--m and --ef-construction need --method hnsw")
    if method == "hnsw" and lists is not None:
        raise click.UsageError("--lists needs --method ivfflat")
    if m is not None and ef_construction is not None and ef_construction < 2 * m:
        raise click.UsageError(f"--ef-construction must be at least twice --m, here {2 * m}")
    from searchdb.cli.measuring import building_bar

    collection = open_collection(ctx)
    with building_bar(collection.database):
        built = collection.build_index(
            method=method, value_type=value_type, lists=lists, m=m, ef_construction=ef_construction
        )
    if built is None:
        raise click.ClickException(BUSY)
    _show(built, as_json)


@index_command.command("recall")
@_with_measuring_options
@click.pass_context
def recall_command(ctx: click.Context, queries: TextIO | None, sample: int, count: int, as_json: bool) -> None:
    """Compare match_images with an exact scan, for text queries and for stored images."""
    from searchdb.cli.measuring import measuring_bar
    from searchdb.index.recall import measure_recall

    collection = open_collection(ctx)
    texts = _embed(collection, queries)
    with measuring_bar() as progress:
        report = measure_recall(collection.database.engine, count=count, sample=sample, texts=texts, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        _show_recalls(report)
        _show_notes(report.notes)


@index_command.command("tune")
@click.option(
    "--recall",
    "target",
    type=click.FloatRange(0, 1, min_open=True),
    help="share of the true neighbours that searches should find [SEARCHDB_RECALL; default: 0.98]",
)
@_with_measuring_options
@click.pass_context
def tune_command(
    ctx: click.Context, target: float | None, queries: TextIO | None, sample: int, count: int, as_json: bool
) -> None:
    """Find the least search effort that reaches a recall, and set it for every client."""
    from searchdb.cli.measuring import measuring_bar
    from searchdb.index.tune import tune_index

    collection = open_collection(ctx)
    texts = _embed(collection, queries)
    with measuring_bar() as progress:
        report = tune_index(
            collection.database.engine,
            target=collection.settings.recall if target is None else target,
            count=count,
            sample=sample,
            texts=texts,
            progress=progress,
        )
    if report is None:
        raise click.ClickException(BUSY)
    if as_json:
        print_json(report.to_json())
    else:
        _show_recalls(report.chosen)
        if report.reached:
            click.echo(tuning_summary(report))
        _show_notes(report.notes)
    if not report.reached:
        raise click.ClickException(tuning_summary(report))


def _embed(collection: SearchDB, queries: TextIO | None) -> np.ndarray | None:
    """Return the vectors of the texts in a file; None without a file."""
    if queries is None:
        return None
    texts = list(dict.fromkeys(line.strip() for line in queries if line.strip()))
    if not texts:
        raise click.UsageError("--queries contains no text")
    return collection.searcher.embed(texts)


def _show(status: IndexStatus, as_json: bool) -> None:
    if as_json:
        print_json(status.to_json())
        return
    click.echo(index_summary(status))
    for name, value in index_details(status):
        click.echo(f"{name:9} {value}")


def _show_recalls(report: RecallReport) -> None:
    for recall in report.recalls:
        click.echo(f"{recall.label:9} {recall_line(recall)}")


def _show_notes(notes: list[str]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)
