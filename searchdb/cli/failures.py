"""`searchdb failures`: lists, retries and clears references that could not be ingested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import click

from searchdb.cli import Group, open_collection
from searchdb.cli.ingest import run_ingest
from searchdb.cli.output import print_json, print_table
from searchdb.plurals import counted
from searchdb.records import Failure, mask_credentials


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select failures."""
    command = click.option("--error", metavar="CLASS", help="only failures of this class")(command)
    return click.option("--source", metavar="NAME", help="only failures of this source")(command)


@click.group("failures", cls=Group)
def failures_command() -> None:
    """List, retry and clear references that could not be ingested."""


@failures_command.command("list")
@filters
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def list_failures(ctx: click.Context, source: str | None, error: str | None, as_json: bool) -> None:
    """List failures: the reference, the error, the number of attempts, and whether a retry may help.

    Images that could not be embedded for a switch to another model are among them; one whose ingest failed, too, is
    listed once.
    """
    from searchdb.switch.unembedded import unembedded_failures

    collection = open_collection(ctx)
    with collection.database.connect() as connection:
        unembedded = {each.image: each for each in unembedded_failures(connection, source=source, error=error)}
    recorded = _each_once(collection.store.failures(source=source, error=error), unembedded)
    found = (replace(failure, image=mask_credentials(failure.image)) for failure in recorded)
    if as_json:
        shown = ({k: v for k, v in asdict(failure).items() if k != "item"} for failure in found)
        print_json({"failures": list(shown)})
        return
    columns = ("image", "source", "error", "message", "attempts", "retryable")
    print_table(columns, ([getattr(failure, name) for name in columns] for failure in found))


def _each_once(failures: Iterable[Failure], unembedded: dict[str, Failure]) -> Iterator[Failure]:
    """Yield the failures of ingests, then those of images that could not be embedded and are not among them."""
    for failure in failures:
        unembedded.pop(failure.image, None)
        yield failure
    yield from unembedded.values()


@failures_command.command("retry")
@filters
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def retry_failures(ctx: click.Context, source: str | None, error: str | None, as_json: bool) -> None:
    """Ingest failed references again; the exit status is 1 if there are some and none succeeds.

    Images that could not be embedded for a switch to another model are embedded, and found again if that succeeds.
    """
    from searchdb.records import SourceItem
    from searchdb.switch.unembedded import unembedded_failures

    collection = open_collection(ctx)
    failures = list(collection.store.failures(source=source, error=error))
    items = [SourceItem.from_json(failure.item) for failure in failures if failure.item is not None]
    if malformed := len(failures) - len(items):
        which = counted(malformed, "reference is", "references are")
        click.echo(f"{which} malformed: correct the source and ingest it again", err=True)
    report = run_ingest("retrying", partial(collection.ingest, items, retry_failed=True))
    with collection.database.connect() as connection:
        unembedded = any(True for _ in unembedded_failures(connection, source=source, error=error))
    again = collection.retry_unembedded(source=source, error=error) if unembedded else None
    if again is not None:
        click.echo(
            "of the images that were not embedded, "
            f"{counted(again.moved_back, 'is', 'are')} found again, {again.failed:,} failed"
            + (f", {counted(again.queued, 'has', 'have')} changed and will be ingested" if again.queued else ""),
            err=True,
        )
    if as_json:
        print_json(report.to_json() | ({} if again is None else {"unembedded": asdict(again)}))
    succeeded = report.readable or (again is not None and again.moved_back + again.queued)
    if (failures or again is not None) and not succeeded:
        ctx.exit(1)


@failures_command.command("clear")
@filters
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.pass_context
def clear_failures(ctx: click.Context, source: str | None, error: str | None, as_json: bool) -> None:
    """Delete failures, so that the next run treats these references as new."""
    cleared = open_collection(ctx).store.clear_failures(source=source, error=error)
    if as_json:
        print_json({"cleared": cleared})
    else:
        click.echo(f"cleared {counted(cleared, 'failure')}", err=True)
