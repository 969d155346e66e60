"""`searchdb worker`: processes the queue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

import click

from searchdb.cli import open_collection
from searchdb.cli.ingest import showing_progress
from searchdb.cli.output import print_json
from searchdb.cli.prose import describe_ingest


@click.command("worker")
@click.option("--concurrency", type=click.IntRange(1, 64), help="chunks processed at a time [default: 4]")
@click.option("--drain", is_flag=True, help="exit when the queue is empty")
@click.option("--json", "as_json", is_flag=True, help="print a report as JSON at the end")
@click.pass_context
def worker_command(ctx: click.Context, concurrency: int | None, drain: bool, as_json: bool) -> None:
    """Process the queue that `searchdb ingest` fills, together with any number of other workers.

    On SIGTERM or Ctrl-C it stores the images already started and exits; a second signal ends it at once, and other
    workers take over its chunks. Files are ingested by workers on the machine that queued them, URLs by all workers.
    """
    from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY

    collection = open_collection(ctx)
    with stop_on_signals() as stop, showing_progress("working") as show:
        report = collection.work(drain=drain, stop=stop, concurrency=concurrency or DEFAULT_CONCURRENCY, progress=show)
    click.echo(describe_ingest(report), err=True)
    if as_json:
        print_json(report.to_json())


@contextmanager
def stop_on_signals() -> Generator[threading.Event]:
    """Yield an event that the first SIGTERM or Ctrl-C sets instead of interrupting; a second one ends the process."""
    stop = threading.Event()

    def end(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        click.echo("stopping once the images already started are stored; a second signal stops at once", err=True)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
