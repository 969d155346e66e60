"""`searchdb ingest vectors`: stores vectors that other programs made."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from searchdb.cli import models_as_arguments, open_collection
from searchdb.cli.output import print_json, printable, progress_bar
from searchdb.cli.prose import describe_ingest
from searchdb.errors import ConfigError
from searchdb.plurals import counted

if TYPE_CHECKING:
    from searchdb.vector_ingesting import VectorReport


@click.command("vectors")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", metavar="NAME", help="the model that made the vectors [default: the collection's]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["npz", "npy", "parquet", "jsonl", "csv", "tsv", "copy"]),
    help="default: by the extension",
)
@click.option("--reference", metavar="COLUMN", help="column of the images' paths or URLs")
@click.option("--vector", metavar="COLUMN", help="column, or key of an npz, of the vectors")
@click.option("--base", metavar="FOLDER", help="folder that relative paths begin in")
@click.option(
    "--reference-template",
    metavar="TEXT",
    help="makes references: {} is the reference column's value, or without one the row's number from 0; {NAME} a "
    "column's value",
)
@click.option("--metadata", metavar="FILE", help="file with the other columns of an npy [default: the one beside it]")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="read only the first N rows")
@click.option("--dry-run", is_flag=True, help="read the files, and store nothing")
@click.option("--json", "as_json", is_flag=True, help="print a report as JSON")
@click.pass_context
def vectors_command(
    ctx: click.Context,
    files: tuple[str, ...],
    model: str | None,
    form: str | None,
    reference: str | None,
    vector: str | None,
    base: str | None,
    reference_template: str | None,
    metadata: str | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Store vectors of images that another program made: npz, npy, Parquet, JSONL, CSV, or text of COPY.

    Nothing is embedded. A folder may be the output of clip-retrieval. Columns of references, vectors and metadata are
    found by their usual names.

    \b
    searchdb ingest vectors laion/ --model openai/clip-vit-base-patch32
    searchdb ingest vectors photos.npz --model my-model --base ~/Pictures
    searchdb ingest vectors ids.parquet --model my-model --reference-template 'https://example.org/{}.jpg'
    """
    collection = open_collection(ctx)
    ingest = partial(
        collection.ingest_vectors,
        *files,
        model=model,
        form=form,
        reference=reference,
        vector=vector,
        base=base,
        reference_template=reference_template,
        metadata=metadata,
        limit=limit,
        dry_run=dry_run,
    )
    try:
        with models_as_arguments(model), progress_bar("reading vectors") as show:
            report = ingest(progress=show)
    except ConfigError as exc:
        raise click.UsageError(str(exc)) from exc
    click.echo(describe_vectors(report, dry_run=dry_run), err=True)
    if as_json:
        print_json(report.to_json())
    if not report.readable:
        ctx.exit(1)


def describe_vectors(report: VectorReport, *, dry_run: bool = False) -> str:
    """Return the report of an ingest of vectors in a few lines."""
    lines = [describe_ingest(report, "row")]
    if dry_run:
        unusable = report.failed.total()
        lines = [f"{counted(report.done, 'row')}: {report.stored:,} could be stored, {unusable:,} cannot be used"]
        lines += [f"  {count:6,} {error}" for error, count in report.failed.most_common()]
    if report.rescaled:
        were = "was" if report.rescaled == 1 else "were"
        lines.append(f"{counted(report.rescaled, 'vector')} had another length than 1 and {were} scaled to it")
    if not report.verified and report.readable:
        lines.append(
            f"the model {printable(report.model)} is not on this machine, so its weights could not be checked: the "
            "vectors are stored under its name. Search by stored images with --like; texts and other images "
            "need the model"
        )
    return "\n".join(lines)
