"""`searchdb watch`: keeps the collection equal to the files in folders."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from searchdb.cli import open_collection
from searchdb.cli.ingest import exclude_option
from searchdb.cli.output import print_json, printable
from searchdb.cli.prose import describe_step
from searchdb.cli.worker import stop_on_signals

if TYPE_CHECKING:
    from searchdb.watch.records import WatchReport


@click.command("watch")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@exclude_option
@click.option(
    "--prune/--no-prune", default=True, help="remove images whose files no longer exist, or keep them [default: prune]"
)
@click.option("--yes", is_flag=True, help="remove them even if most of a folder is gone, as when a disk is not mounted")
@click.option("--poll/--no-poll", default=None, help="look for changes, or be notified [default: by the file system]")
@click.option("--poll-interval", type=float, metavar="SECONDS", help="time between two looks [default: 30]")
@click.option(
    "--settle", type=float, metavar="SECONDS", help="read a file when it has not changed for so long [default: 5]"
)
@click.option("--json", "as_json", is_flag=True, help="print a report as JSON at the end")
@click.pass_context
def watch_command(
    ctx: click.Context,
    paths: tuple[str, ...],
    exclude: tuple[str, ...],
    prune: bool,
    yes: bool,
    poll: bool | None,
    poll_interval: float | None,
    settle: float | None,
    as_json: bool,
) -> None:
    """Ingest folders with their subfolders, then follow them: new, changed, moved and deleted files.

    It runs until SIGTERM or Ctrl-C. A file that is being copied is read once it has not changed for some seconds.
    """
    from searchdb.watch.records import POLL_S
    from searchdb.watch.settling import SETTLE_S

    if yes and not prune:
        raise click.UsageError("--yes does not go with --no-prune")
    collection = open_collection(ctx)
    click.echo(f"watching {', '.join(map(printable, paths))}; `searchdb status` shows it, Ctrl-C ends it", err=True)
    with stop_on_signals() as stop:
        report = collection.watch(
            *paths,
            exclude=exclude,
            prune="always" if yes else prune,
            poll=poll,
            poll_interval_s=POLL_S if poll_interval is None else poll_interval,
            settle_s=SETTLE_S if settle is None else settle,
            stop=stop,
            on_step=_print_step,
        )
    click.echo(f"the watch has ended: {describe_step(report)}", err=True)
    if as_json:
        print_json(report.to_json())


def _print_step(step: WatchReport) -> None:
    click.echo(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {describe_step(step)}", err=True)
