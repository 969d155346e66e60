"""`searchdb worker`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

from searchdb.cli import open_collection
from searchdb.cli.ingest import working
from searchdb.cli.output import print_json


@click.command("worker")
@click.option("--concurrency", type=click.IntRange(1, 64), help="chunks in hand at a time [default: 4]")
@click.option("--drain", is_flag=True, help="end when the queue is empty")
@click.option("--json", "as_json", is_flag=True, help="print a report as JSON at the end")
@click.pass_context
def worker_command(ctx: click.Context, concurrency: int | None, drain: bool, as_json: bool) -> None:
    """Work off the queue that `searchdb ingest` fills, together with any number of other workers.

    SIGTERM and Ctrl-C end it when what it has in hand is stored; a second one ends it at once, and then another worker
    takes over. Files are ingested by workers on the machine that queued them, URLs by all.
    """
    from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY

    collection = open_collection(ctx)
    with _signals() as stop, working("working") as show:
        report = collection.work(drain=drain, stop=stop, concurrency=concurrency or DEFAULT_CONCURRENCY, progress=show)
    click.echo(report.in_words(), err=True)
    if as_json:
        print_json(report.to_json())


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Yield what SIGTERM and Ctrl-C set, instead of interrupting; the second of them ends the process."""
    stop = threading.Event()

    def end(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        click.echo("stopping when what is in hand is stored; once more stops at once", err=True)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
