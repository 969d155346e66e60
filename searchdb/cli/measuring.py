"""Shows the progress bars of index builds and measurements on standard error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from searchdb.errors import DatabaseError
from searchdb.index.status import build_progress

if TYPE_CHECKING:
    from searchdb.db.database import Database

POLL_S = 0.25
"""Seconds between two queries for the progress of the build."""


@contextmanager
def building_bar(database: Database) -> Generator[None]:
    """Show the progress of a build, read from PostgreSQL's progress view, while the caller waits for the build."""
    finished = threading.Event()
    with _bar("building the index") as update:

        def watch() -> None:
            while not finished.wait(POLL_S):
                try:
                    with database.connect() as connection:
                        progress = build_progress(connection)
                except DatabaseError:
                    return  # the build itself reports the error
                if progress is not None:
                    update(progress.phase, progress.done, progress.total)

        watcher = threading.Thread(target=watch, name="searchdb-build-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()


@contextmanager
def measuring_bar() -> Generator[Callable[[str, int, int], None]]:
    """Show the progress of a measurement; yield the callback that updates it: what is measured, done, total."""
    with _bar("measuring") as update:
        yield update


@contextmanager
def _bar(label: str) -> Generator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=None)

        def update(what: str, done: int, total: int) -> None:
            progress.update(task, description=f"{label}: {what}", completed=done, total=total or None)

        yield update
