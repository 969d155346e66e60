"""`searchdb demo`: draws, ingests, searches and serves the demo album."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from searchdb.cli import open_collection
from searchdb.cli.ingest import run_ingest
from searchdb.cli.output import print_hits
from searchdb.cli.serve import HOST, environment_of, require_free_port
from searchdb.plurals import counted
from searchdb.records import RejectedItem, SourceItem

SOURCE = "demo"
QUERIES = ("a red car", "a boat at sunset", "a cat in the snow")
HITS = 5


@click.command("demo")
@click.option("--no-serve", is_flag=True, help="exit after the searches")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="port of the page")
@click.option("--remove", is_flag=True, help="remove the demo's images from the collection instead")
@click.pass_context
def demo_command(ctx: click.Context, no_serve: bool, port: int, remove: bool) -> None:
    """Draw the demo album, ingest it, search it, and serve the page.

    The album and a small CLIP model trained for it come with searchdb. Before you add photographs, remove the album
    (`searchdb demo --remove`): the collection can then use the real model.
    """
    collection = open_collection(ctx, model="demo")
    if remove:
        click.echo(f"removed {counted(collection.store.delete_source(SOURCE), 'image')}", err=True)
        return
    if not no_serve:
        require_free_port(HOST, port)

    from searchdb.demo.album import draw_album

    folder = collection.settings.home / "album"
    click.echo(f"drawing the album in {folder}", err=True)
    draw_album(folder)
    run_ingest("ingesting the album", partial(collection.ingest, album_items(folder)))
    for query in QUERIES:
        click.echo()
        print_hits(collection.search(query, count=HITS), title=f"Ranked results for: {query}")
    if not no_serve:
        ctx.exit(_serve(ctx, port))


def album_items(folder: Path) -> Iterator[SourceItem | RejectedItem]:
    """Yield the images of a drawn album with the metadata in its manifest."""
    from searchdb.demo.album import read_manifest
    from searchdb.sources.files import files

    rows = {row.image: row for row in read_manifest(folder)}
    for item in files([folder]):
        row = rows.get(Path(item.image).name)
        if row is not None and isinstance(item, SourceItem):
            yield replace(item, source=SOURCE, description=row.description, tags=tuple(row.tags), metadata=row.metadata)


def _serve(ctx: click.Context, port: int) -> int:
    """Run `searchdb serve` in a separate process and return its exit status.

    Gunicorn forks, and this process already has torch's threads and open connections, which do not survive a fork.
    """
    click.echo(f"\nthe page is on http://{HOST}:{port} (Ctrl-C stops it)", err=True)
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "searchdb", "serve", f"--host={HOST}", f"--port={port}"],
        env=os.environ | environment_of(ctx, model="demo"),
    )
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
