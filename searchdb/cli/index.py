"""`searchdb index`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from searchdb.cli import open_collection
from searchdb.cli.output import print_json

if TYPE_CHECKING:
    from searchdb.index import IndexStatus


@click.group("index")
def index_command() -> None:
    """Look after the vector index."""


@index_command.command("status")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def index_status(ctx: click.Context, as_json: bool) -> None:
    """Show method, parameters, size, and the rows at its last build and now."""
    _show(open_collection(ctx).status().index, as_json)


@index_command.command("build")
@click.option("--lists", type=click.IntRange(1, 32768), help="ivfflat lists [default: fitted to the rows]")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def index_build(ctx: click.Context, lists: int | None, as_json: bool) -> None:
    """Rebuild the index to fit the rows; searches and ingest go on meanwhile."""
    from searchdb.index import build

    built = build(open_collection(ctx).database.engine, lists=lists)
    if built is None:
        raise click.ClickException("another process is building the index: wait for it, or see `searchdb index status`")
    _show(built, as_json)


def _show(status: IndexStatus, as_json: bool) -> None:
    if as_json:
        print_json(status.to_json())
    else:
        click.echo(status.in_words())
