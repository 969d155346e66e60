"""`searchdb model switch`, `status` and `forget`: change the collection's model while it is searched."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from searchdb.cli import models_as_arguments, open_collection
from searchdb.cli.output import print_json, printable
from searchdb.cli.switch_prose import (
    PHASES,
    describe_aborted,
    describe_plan,
    describe_switch,
    describe_switched,
    duration,
)
from searchdb.cli.worker import stop_on_signals
from searchdb.errors import TooManyMissingError
from searchdb.plurals import counted
from searchdb.records import mask_credentials

if TYPE_CHECKING:
    from searchdb.client import SearchDB
    from searchdb.switch.report import UnembeddedImage
    from searchdb.switch.state import SwitchStatus

SHOWN = 20
"""Images that could not be embedded and are listed without --json."""


@click.command("switch")
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="measure what it would take, and change nothing")
@click.option("--abort", is_flag=True, help="end the open switch, and drop what it has made")
@click.option("--accept-missing", is_flag=True, help="switch even if over a tenth of the images cannot be embedded")
@click.option("--retry-failed", is_flag=True, help="with --accept-missing, try images that failed before again")
@click.option("--no-work", is_flag=True, help="leave the images to `searchdb worker`")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def switch_command(
    ctx: click.Context,
    name: str | None,
    dry_run: bool,
    abort: bool,
    accept_missing: bool,
    retry_failed: bool,
    no_work: bool,
    as_json: bool,
) -> None:
    """Switch the collection to another model while people search it.

    NAME is a hub name, a folder or `demo`. All images are embedded again, by this command and by every `searchdb
    worker`; then the new model becomes the current one in a moment. If it is interrupted, the same command goes on. The
    old vectors are kept until `searchdb model forget`, so that switching back takes seconds.
    """
    if abort and (name is not None or dry_run):
        raise click.UsageError("--abort ends the open switch, whichever it is: leave out NAME and --dry-run")
    if not abort and name is None:
        raise click.UsageError("name the model to switch to, or use --abort")
    from searchdb.switch.abort import abort_switch

    collection = open_collection(ctx)
    if abort:
        aborted = abort_switch(collection.database)
        click.echo(describe_aborted(aborted), err=True)
        if as_json:
            print_json({"aborted": aborted.model.name, "kept": aborted.kept})
        return
    assert name is not None  # noqa: S101 - checked above
    if dry_run:
        with models_as_arguments(name):
            plan = collection.plan_switch(name)
        if as_json:
            print_json(plan.to_json())
        else:
            click.echo(describe_plan(plan))
        return
    with models_as_arguments(name), stop_on_signals() as stop, showing_switch() as show:
        try:
            report = collection.switch_model(
                name,
                accept_missing=accept_missing,
                retry_failed=retry_failed,
                work=not no_work,
                progress=show,
                stop=stop,
            )
        except TooManyMissingError as exc:
            _list_unembedded(exc.unembedded)
            raise
    if as_json:
        print_json(report.to_json())
    _list_unembedded(report.unembedded)
    click.echo(describe_switched(report), err=True)
    if not report.changed:
        ctx.exit(1)


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def status_command(ctx: click.Context, as_json: bool) -> None:
    """Show the collection's model, and how far the switch to another one is."""
    collection = open_collection(ctx)
    status = collection.switch_status()
    model = _current(collection)
    if as_json:
        print_json({"model": model, "switch": None if status is None else status.to_json()})
        return
    click.echo(f"model     {model or 'none yet'}")
    click.echo(f"switch    {'none is open' if status is None else describe_switch(status)}")


@click.command("forget")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def forget_command(ctx: click.Context, name: str, as_json: bool) -> None:
    """Drop the vectors of a model that the collection was switched from, and all that was made with it."""
    from searchdb.switch.forget import forget_model

    report = forget_model(open_collection(ctx).database, name)
    if as_json:
        print_json(asdict(report))
        return
    click.echo(
        f"the vectors of {printable(report.model)} are dropped, and {counted(report.texts, 'text')}: "
        f"{report.index_bytes / 1e6:,.1f} MB of its index are free; "
        f"{report.vector_bytes / 1e6:,.1f} MB in the rows are, when these are written again",
        err=True,
    )


def _current(collection: SearchDB) -> str | None:
    from searchdb.db.current_model import current_model

    with collection.database.connect() as connection:
        model = current_model(connection)
    return None if model is None else model.name


def _list_unembedded(images: Sequence[UnembeddedImage]) -> None:
    if not images:
        return
    click.echo(f"{counted(len(images), 'image')} could not be embedded with the new model:", err=True)
    for each in images[:SHOWN]:
        click.echo(f"  {printable(mask_credentials(each.image))}: {each.error}: {printable(each.message)}", err=True)
    if len(images) > SHOWN:
        click.echo(
            f"  and {len(images) - SHOWN:,} more: `searchdb failures list` lists them after the switch", err=True
        )


@contextmanager
def showing_switch() -> Generator[Callable[[SwitchStatus], None]]:
    """Show a progress bar on stderr: phase, images embedded of all, rate, failures, time left. Yield its callback."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TextColumn("{task.fields[failed]:,} failed"),
        TextColumn("{task.fields[left]}"),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task("switching", total=None, rate=0.0, failed=0, left="")
    started = False

    def show(status: SwitchStatus) -> None:
        nonlocal started
        if not started:
            started = True
            progress.start()
        progress.update(
            task,
            description=PHASES.get(status.phase, status.phase),
            completed=status.done,
            total=status.images,
            rate=status.rate_per_s,
            failed=status.failed,
            left="" if status.seconds_left is None else f"{duration(status.seconds_left)} left",
        )

    try:
        yield show
    finally:
        if started:
            progress.stop()
