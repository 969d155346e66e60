"""`searchdb model compare`: compares two models on a sample of the images, before the collection is switched."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from searchdb.cli import models_as_arguments, open_collection
from searchdb.cli.output import print_json, print_table, printable
from searchdb.records import LARGEST_ID

if TYPE_CHECKING:
    from searchdb.compare.records import CompareProgress, ModelComparison

OUTPUT = "model-comparison.html"
SHOWN_QUERIES = 20
"""Queries in the printed table, those that differ most; the page and --json have all."""
SHOWN_CHARACTERS = 60
SHOWN_LEFT_OUT = 5


@click.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="[A] B")
@click.option(
    "--queries",
    required=True,
    metavar="FILE",
    help="texts, one a line; or CSV, TSV or JSON lines with the columns query and, for what is right, relevant",
)
@click.option(
    "--sample", type=click.IntRange(1, LARGEST_ID), default=1000, show_default=True, help="random images to rank"
)
@click.option("--seed", type=click.IntRange(0, LARGEST_ID), default=0, help="another number draws other images")
@click.option(
    "--count", type=click.IntRange(1, 100), default=10, show_default=True, help="images of a list, the k of overlap@k"
)
@click.option(
    "--output",
    default=OUTPUT,
    show_default=True,
    metavar="FILE",
    help="HTML page to write",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def compare_command(
    ctx: click.Context,
    models: tuple[str, ...],
    queries: str,
    sample: int,
    seed: int,
    count: int,
    output: str,
    as_json: bool,
) -> None:
    """Compare two models on a random sample of the images, or model B with the collection's.

    Both rank the sample for each query. The page shows the lists side by side. Where the queries' file names the images
    that are right, by id, path or URL, it has the quality of both models, and whether their difference may be chance.
    Nothing is written to the database.

    \b
    searchdb model compare openai/clip-vit-large-patch14 --queries queries.txt
    searchdb model compare demo ./my-model --queries judged.csv --sample 5000 --output demo-mine.html
    """
    if len(models) > 2:
        raise click.UsageError(f"{len(models)} models are named: compare two, or one with the collection's")
    with models_as_arguments(*models), _progress() as progress:
        comparison = open_collection(ctx).compare_models(
            *models, queries=queries, sample=sample, seed=seed, count=count, output=output, progress=progress
        )
    if as_json:
        print_json(comparison.to_json())
    else:
        _describe(comparison)
    click.echo(f"the lists side by side: {printable(str(comparison.output))}", err=True)


def _describe(comparison: ModelComparison) -> None:
    from searchdb.compare.verdict import duration, rate, signed, significance, size, verdict

    for letter, model in (("A", comparison.first), ("B", comparison.second)):
        click.echo(f"{letter}  {printable(model.name)}  (weights {model.weights_sha256[:12]})")
    click.echo()
    for sentence in verdict(comparison):
        click.echo(printable(sentence))
    for each in comparison.left_out[:SHOWN_LEFT_OUT]:
        click.echo(f"  {printable(each.image)}: {printable(each.message)}", err=True)
    click.echo()
    both = (comparison.first, comparison.second)
    rows = [
        ("numbers of a vector", *(f"{model.dimension:,}" for model in both)),
        ("vectors of all images", *(size(model.vector_bytes) for model in both)),
        ("images embedded a second", *(rate(model.images_per_s) for model in both)),
        ("all images, without reading", *(duration(model.embedding_s) for model in both)),
        ("texts embedded a second", *(rate(model.texts_per_s) for model in both)),
        ("similarity of the best image, median", *(f"{model.median_best_similarity:.3f}" for model in both)),
        ("similarity of any image, median", *(f"{model.median_similarity:.3f}" for model in both)),
    ]
    print_table(("", "A", "B"), rows)
    if comparison.differences:
        click.echo()
        print_table(
            ("quality", "A", "B", "B - A", "95% interval", ""),
            (
                (
                    each.figure,
                    f"{each.first:.3f}",
                    f"{each.second:.3f}",
                    signed(each.difference),
                    f"{signed(each.low)} to {signed(each.high)}",
                    significance(each, comparison.judged),
                )
                for each in comparison.differences
            ),
        )
    click.echo()
    differing = sorted(comparison.queries, key=lambda each: each.rank_biased_overlap)[:SHOWN_QUERIES]
    title = "query" if len(differing) == len(comparison.queries) else f"query, the {SHOWN_QUERIES} that differ most"
    print_table(
        (title, "in common", "RBO"),
        ((_cut(each.text), f"{100 * each.overlap:.0f}%", f"{each.rank_biased_overlap:.2f}") for each in differing),
    )


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


@contextmanager
def _progress() -> Generator[Callable[[CompareProgress], None]]:
    """Show the current step, what is done of it, and the time left, on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, step = None, ""

        def show(progress: CompareProgress) -> None:
            nonlocal task, step
            if task is None or progress.step != step:
                if task is not None:
                    bar.remove_task(task)
                task, step = bar.add_task(progress.step, total=progress.total), progress.step
            bar.update(task, completed=progress.done)

        yield show
