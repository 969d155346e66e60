"""`searchdb status`: shows the state of the collection."""

from __future__ import annotations

import click

from searchdb.cli import open_collection
from searchdb.cli.index_prose import index_summary
from searchdb.cli.output import print_json
from searchdb.cli.prose import describe_queue, describe_relevance, describe_space, describe_watch, describe_worker
from searchdb.cli.switch_prose import describe_switch
from searchdb.plurals import counted


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Show the number of images, and the state of all parts: queue, watches, model, index, space, server and so on."""
    status = open_collection(ctx).status()
    if as_json:
        print_json(status.to_json())
        return
    from searchdb.db.counts import RowCount

    exact = status.count("failed").exact
    server = f"{'embedded ' if status.server['embedded'] else ''}PostgreSQL {status.server['version']}"
    click.echo(f"images    {status.count('images')}")
    click.echo(f"pending   {status.count('pending')}")
    click.echo(f"failed    {status.count('failed')}")
    for error, count in status.failures.items():
        click.echo(f"          {RowCount(rows=count, exact=exact)} {error}")
    click.echo(f"queue     {describe_queue(status.queue)}")
    for worker in status.queue.workers:
        click.echo(f"worker    {describe_worker(worker)}")
    for watch in status.watches:
        click.echo(f"watch     {describe_watch(watch)}")
    unseen = "" if status.verified else ": only its name is known, its vectors came from elsewhere"
    click.echo(f"model     {status.model or 'none yet'}{unseen}")
    if status.switch is not None:
        click.echo(f"switch    {describe_switch(status.switch)}")
    if status.unembedded:
        click.echo(f"no vector {counted(status.unembedded, 'image')}, not found: `searchdb failures list` says why")
    click.echo(f"relevance {describe_relevance(status.relevance)}")
    click.echo(f"index     {index_summary(status.index)}")
    for use in status.space:
        click.echo(f"space     {describe_space(use)}")
    click.echo(f"server    {server} at {status.server['url']}")
