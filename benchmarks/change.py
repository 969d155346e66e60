"""How long do searches wait while a collection changes to another model?

Eight clients search all the time. The collection changes from 512 to 768 numbers and back several times; both have
their vectors, their index and their texts, so that only the change-over itself is measured. The second vectors are the
first ones turned into 768 numbers: every search finds the same images by both, which is checked.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg
import sqlalchemy as sa

from benchmarks.report import table
from benchmarks.vectors import clip_like, connect
from searchdb.config import Settings
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database, open_database
from searchdb.db.tables import query_embeddings
from searchdb.db.vectors import current_column
from searchdb.index.build import build_index
from searchdb.records import ModelIdentity
from searchdb.switch.change_over import change_over
from searchdb.switch.finish import finish
from searchdb.switch.start import start_switch

ROWS, QUICK_ROWS = 200_000, 10_000
CHANGES = 6
CLIENTS = 8
TEXTS = 16
ALONE_S = 10.0
"""Seconds of searches without a change, to compare with."""
BETWEEN_S = 2.0
"""Seconds between two changes."""
NARROW = ModelIdentity(name="narrow", weights_sha256=b"n" * 32, dimension=512)
WIDE = ModelIdentity(name="wide", weights_sha256=b"w" * 32, dimension=768)


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search: when it began, in seconds of time.perf_counter, and how long it took."""

    began: float
    seconds: float

    def overlaps(self, moments: Sequence[tuple[float, float]]) -> bool:
        """Whether it ran at some time within one of the moments, which have a beginning and an end."""
        return any(self.began < end and self.began + self.seconds > begin for begin, end in moments)


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Threads that search until they are stopped."""

    searches: list[Search] = field(default_factory=list[Search])
    errors: list[str] = field(default_factory=list[str])


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures, times in milliseconds, and a table of them."""
    rows = QUICK_ROWS if quick else ROWS
    settings = Settings(home=home, database_url=None)
    with open_database(settings) as database:
        _fill(database, settings, rows)
        found = _found(database)
        with _searching(database) as clients:
            time.sleep(ALONE_S)
            changes, locked = list[tuple[float, float]](), list[float]()
            for number in range(CHANGES):
                switch = start_switch(database, settings, NARROW if number % 2 else WIDE)
                began = time.perf_counter()
                locked.append(change_over(database, switch).locked_s)
                changes.append((began, time.perf_counter()))
                finish(database)
                if _found(database) != found:
                    raise RuntimeError("the images of a search differ after the change")
                time.sleep(BETWEEN_S)
    if clients.errors:
        raise RuntimeError(f"{len(clients.errors)} searches failed: {clients.errors[0]}")
    alone = sorted(search.seconds for search in clients.searches if search.began + search.seconds < changes[0][0])
    during = [search.seconds for search in clients.searches if search.overlaps(changes)]
    p99 = alone[len(alone) * 99 // 100]
    figures = {
        "change_rows": float(rows),
        "change_lock_ms": 1000 * statistics.median(locked),
        "change_longest_lock_ms": 1000 * max(locked),
        "change_search_p50_ms": 1000 * statistics.median(alone),
        "change_search_p99_ms": 1000 * p99,
        "change_longest_search_ms": 1000 * max(during),
        "change_longest_to_p99": max(during) / p99,
    }
    shown = {
        "searches wait for the lock": f"{figures['change_lock_ms']:.0f} ms, at most "
        f"{figures['change_longest_lock_ms']:.0f} ms, in {CHANGES} changes",
        "searches without a change": f"p50 {figures['change_search_p50_ms']:.1f} ms, "
        f"p99 {figures['change_search_p99_ms']:.1f} ms of {len(alone):,}",
        "searches during a change": f"at most {figures['change_longest_search_ms']:.0f} ms of {len(during):,}, "
        f"{figures['change_longest_to_p99']:.1f} times that p99",
        "searches that failed": f"none of {len(clients.searches):,}",
    }
    return figures, table(f"change of the model, {rows:,} images, {CLIENTS} clients", shown)


def _fill(database: Database, settings: Settings, rows: int) -> None:
    """Store images and texts with the vectors of both models, and build both indexes."""
    images, texts = clip_like(rows, TEXTS)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDE.dimension, NARROW.dimension)))[0].T
    turn = turn.astype(np.float32)
    with database.begin() as connection:
        narrow_id = claim_model(connection, NARROW)
    switch = start_switch(database, settings, WIDE)
    columns = f"image, source, embedding, {switch.column.name}, embedding_model_id, sha256, width, height, byte_size"
    copying = f"COPY images ({columns}) FROM STDIN (FORMAT BINARY)"
    with closing(connect(database)) as connection, connection.cursor() as cursor, cursor.copy(copying.encode()) as copy:
        copy.set_types(["text", "text", "vector", "vector", "int4", "bytea", "int4", "int4", "int8"])
        for n, vector in enumerate(images):
            digest = n.to_bytes(32, "big")
            copy.write_row((str(n), "benchmark", vector, vector @ turn, narrow_id, digest, 768, 512, 100_000))
    with database.begin() as connection:
        connection.execute(
            sa.insert(query_embeddings),
            [
                {"embedding_model_id": model_id, "query": f"text {n}", "embedding": vector}
                for model_id, vectors in ((narrow_id, texts), (switch.model_id, texts @ turn))
                for n, vector in enumerate(vectors)
            ],
        )
        column = current_column(connection)
    for each in (column, switch.column):
        build_index(database.engine, column=each)


def _found(database: Database) -> list[set[int]]:
    """Return the images that an exact scan finds for each text."""
    with database.begin() as connection:
        connection.exec_driver_sql("SET LOCAL enable_indexscan = off")
        return [
            set(connection.scalars(sa.text("SELECT id FROM search_images(:query, -1, 10)"), {"query": f"text {n}"}))
            for n in range(2)
        ]


@contextmanager
def _searching(database: Database) -> Iterator[Clients]:
    """Have CLIENTS threads search within the `with`."""
    clients, stop = Clients(), threading.Event()

    def search(number: int) -> None:
        with closing(psycopg.connect(database.libpq_url, autocommit=True)) as connection:
            while not stop.is_set():
                began = time.perf_counter()
                try:
                    query = f"text {number % TEXTS}"
                    found = connection.execute("SELECT id FROM search_images(%s, -1, 10)", (query,)).fetchall()
                    if len(found) != 10:
                        clients.errors.append(f"{len(found)} images")
                except psycopg.Error as exc:
                    clients.errors.append(str(exc))
                clients.searches.append(Search(began=began, seconds=time.perf_counter() - began))
                number += CLIENTS + 1

    threads = [threading.Thread(target=search, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        stop.set()
        for thread in threads:
            thread.join()
