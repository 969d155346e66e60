"""Progress bars of `searchdb index`, on standard error: how far a build is, and how far a measurement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from searchdb.errors import DatabaseError
from searchdb.index.status import build_progress

if TYPE_CHECKING:
    from searchdb.db.database import Database

LOOK_S = 0.25
"""Seconds between two looks at how far the build is."""


@contextmanager
def building_bar(database: Database) -> Iterator[None]:
    """Show how far a build is, as PostgreSQL's own progress view tells it, while the caller waits for it."""
    ended = threading.Event()
    with _bar("building the index") as move:

        def watch() -> None:
            while not ended.wait(LOOK_S):
                try:
                    with database.connect() as connection:
                        progress = build_progress(connection)
                except DatabaseError:
                    return  # the build itself will say so
                if progress is not None:
                    move(progress.phase, progress.done, progress.total)

        watcher = threading.Thread(target=watch, name="searchdb-build-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


@contextmanager
def measuring_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show how far a measurement is. Yields what moves it: what is being measured, done, total."""
    with _bar("measuring") as move:
        yield move


@contextmanager
def _bar(label: str) -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)

        def move(what: str, done: int, total: int) -> None:
            progress.update(task, description=f"{label}: {what}", completed=done, total=total or None)

        yield move
