"""Runs searchdb in processes of their own, and waits for what they do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.status import queue_status
from tests.helpers import warm_processes
from tests.helpers.image_server import ImageServer
from tests.helpers.waiting import GIVE_UP_S

IMAGES = 96

CHUNK = 8

SHORT_SILENCE = """
import searchdb.ingest.worker, searchdb.ingest.queue
from searchdb.db.tables import procrastinate_workers
import sqlalchemy

searchdb.ingest.worker.HEARTBEAT_S, searchdb.ingest.worker.STALLED_AFTER_S = 0.2, 2.0
searchdb.ingest.queue.ALIVE = procrastinate_workers.c.last_heartbeat > sqlalchemy.text("now() - interval '2 seconds'")
"""
"""A worker that takes another for dead after two seconds of silence."""

QUICK_RECOVERY = """
import searchdb.ingest.worker

searchdb.ingest.worker.HEARTBEAT_S, searchdb.ingest.worker.STALLED_AFTER_S = 0.2, 0
"""
"""A worker that looks for dead ones at once: those that `age_heartbeat` has marked."""


class Run:
    """One searchdb process. What it prints goes to files, so that it never waits for its reader.

    It is forked from a process that has imported the libraries, or a `new_interpreter`, which costs several seconds.
    """

    def __init__(
        self,
        settings: Settings,
        output: Path,
        arguments: Sequence[str],
        *,
        before: str = "",
        new_interpreter: bool = False,
    ) -> None:
        url = settings.database_url
        environment = os.environ | {
            **({} if url is None else {"DATABASE_URL": url.get_secret_value()}),
            "SEARCHDB_HOME": str(settings.home),
            "SEARCHDB_MODEL": "demo",
            "SEARCHDB_ALLOW_PRIVATE_ADDRESSES": "1",
            "SEARCHDB_MAX_IMAGE_BYTES": "1000000",
        }
        program = ["-c", f"{before}\nfrom searchdb.cli import main\nmain()"] if before else ["-m", "searchdb"]
        self._stdout, self._stderr = output.with_suffix(".out"), output.with_suffix(".err")
        with self._stdout.open("w") as stdout, self._stderr.open("w") as stderr:
            begin = warm_processes.start_interpreter if new_interpreter else warm_processes.start
            self.process = begin(
                [*program, *arguments], env=environment, stdout=stdout, stderr=stderr, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def wait(self, timeout_s: float = GIVE_UP_S) -> int:
        """Return the exit status; there was no traceback."""
        status = self.process.wait(timeout=timeout_s)
        assert "Traceback" not in self.stderr, self.stderr
        return status

    def report(self, timeout_s: float = GIVE_UP_S) -> dict[str, Any]:
        """Return the report of a run that ended well."""
        assert self.wait(timeout_s) == 0, self.stderr
        return json.loads(self.stdout)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it and what it has started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=GIVE_UP_S)


class Runs:
    """Starts searchdb processes; those that still live at the end of its `with` are killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._runs: list[Run] = []

    def start(self, *arguments: str, before: str = "", new_interpreter: bool = False) -> Run:
        output = self._folder / f"run-{len(self._runs)}"
        run = Run(self._settings, output, arguments, before=before, new_interpreter=new_interpreter)
        self._runs.append(run)
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.kill()


def write_list(folder: Path, server: ImageServer, count: int = IMAGES) -> Path:
    """Write a list of `count` different images."""
    listed = folder / "list.tsv"
    lines = (f"{server.url(f'/ok.jpg?seed={n}')}\tpicture {n}\n" for n in range(count))
    listed.write_text("url\tdescription\n" + "".join(lines))
    return listed


def enqueue(collection: SearchDB, listed: Path, *, chunk_size: int = CHUNK) -> None:
    collection.ingest_urls(str(listed), enqueue_only=True, chunk_size=chunk_size)


def workers(collection: SearchDB) -> set[int]:
    """The process ids of the workers that are alive."""
    with collection.database.connect() as connection:
        return {worker.pid for worker in queue_status(connection).workers}


def age_heartbeat(collection: SearchDB, dead: Run) -> None:
    """Make a killed worker's last heartbeat an old one, so that the others know at once that it is dead."""
    statement = (
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour' "
        "WHERE id IN (SELECT id FROM ingest_workers WHERE pid = :pid)"
    )
    with collection.database.begin() as connection:
        assert connection.execute(sa.text(statement), {"pid": dead.pid}).rowcount == 1


def assert_complete(collection: SearchDB, count: int = IMAGES) -> None:
    assert collection.store.counts() == {"images": count, "failed": 0, "pending": 0}
    status = collection.status().queue
    assert (status.queued, status.running) == (0, 0)
    with collection.database.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM procrastinate_jobs")).mappings().all() == []
