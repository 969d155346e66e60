"""What does the web add to the time of a search, and how does it perform with many visitors at once?

gunicorn runs as documented for operators, with a CLIP of the usual size (ViT-B/32) whose random weights find nothing
useful but take as long; the stored vectors have the geometry of a trained one's. The bare SQL is one statement of
another client, `search_images` for a cached text and `match_images` for a vector; the encoder runs in this process.
Requests, statements and encoder runs take turns. The breakdown of a request's time comes from the server's /metrics.
Then 64 visitors run cached queries for a minute.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import numpy as np
import sqlalchemy as sa
from transformers import AutoTokenizer

from benchmarks.report import table
from benchmarks.stages import make_large_model
from benchmarks.vectors import clip_like, connect, fill
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.index.build import build_index

ROWS, QUICK_ROWS = 25_000, 5_000
ROUNDS, QUICK_ROUNDS = 300, 60
VISITORS = 64
VISIT_S, QUICK_VISIT_S = 60.0, 8.0
WARM_UP_S = 3.0
"""Seconds of the visit before memory is first measured: the first requests create threads and connections."""
TIMEOUT_S = 120.0
TEXTS = tuple(f"a {thing} {place}" for thing in ("dog", "boat", "house", "child") for place in ("at night", "in snow"))
COUNT = 10
MIB = 2**20
CACHED_SQL = "SELECT id, image, similarity FROM search_images(%s, 0, %s)"
NOTHING_SQL = "SELECT 1"
VECTOR_SQL = "SELECT id, image, similarity FROM match_images(%s, 0, %s)"

Figures = dict[str, float]
T = TypeVar("T")


class Client:
    """One visitor's keep-alive connection, with about as little client overhead as PostgreSQL's client."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._responses = self._connection.makefile("rb")

    def get(self, path: str, **query: str | int) -> bytes:
        """Return the response body; raise RuntimeError unless the status is 200."""
        target = f"{path}?{urlencode(query)}" if query else path
        self._connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, length = self._responses.readline(), 0
        while line := self._responses.readline().strip().lower():
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
        body = self._responses.read(length)
        if b" 200 " not in status:
            raise RuntimeError(f"{path}: {status!r} {body[:200]!r}")
        return body


def measure(home: Path, *, quick: bool) -> tuple[Figures, str]:
    """Return the figures and tables of them."""
    folder = make_large_model(home / "vit-b32")
    settings = Settings(home=home, model=str(folder), database_url=None)
    vectors, _ = clip_like(QUICK_ROWS if quick else ROWS, 0)
    with SearchDB(settings) as collection:
        collection.embedder.load()
        fill(collection.database, vectors, collection.embedder.identity)
        build_index(collection.database.engine)
        with _served(settings, collection.database.libpq_url) as port:
            figures, shown = _requests(collection, port, QUICK_ROUNDS if quick else ROUNDS)
            visited, seen = _visit(port, QUICK_VISIT_S if quick else VISIT_S)
    return figures | visited, f"{shown}\n\n{seen}"


@contextmanager
def _served(settings: Settings, database_url: str) -> Iterator[int]:
    """Run gunicorn; yield its port once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "SEARCHDB_HOME": str(settings.home),
        "SEARCHDB_MODEL": settings.model,
        "SEARCHDB_RATE_LIMIT": "",
    }
    command = [sys.executable, "-m", "gunicorn", "--config=python:web.ops.serving", f"--bind=127.0.0.1:{port}"]
    with (settings.home / "web.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stderr=log)
        try:
            until = time.monotonic() + TIMEOUT_S
            while not _ready(port):
                if time.monotonic() > until or server.poll() is not None:
                    raise RuntimeError("gunicorn did not become ready")
                time.sleep(0.2)
            yield port
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(TIMEOUT_S)


def _ready(port: int) -> bool:
    try:
        return bool(Client(port).get("/readyz"))
    except (OSError, RuntimeError):
        return False


def _requests(collection: SearchDB, port: int, rounds: int) -> tuple[Figures, str]:
    """Measure single requests, and the SQL and encoder runs that they cannot do without."""
    client = Client(port)
    embedder = collection.embedder
    texts, new = cycle(TEXTS), (f"an image that was not searched for before, number {n}" for n in count())
    tokenizer = AutoTokenizer.from_pretrained(embedder.folder)
    collection.searcher.embed(list(TEXTS))
    for text in TEXTS:
        client.get("/api/search", q=text)
        client.get("/", q=text)
    seconds: dict[str, list[float]] = {}
    stages: dict[str, dict[str, list[float]]] = {}

    def timed(name: str, run: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = run()
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    def request(name: str, path: str, text: str) -> None:
        first, before = _metrics(client), _metrics(client)
        timed(name, lambda: client.get(path, q=text, count=COUNT) if path != "/" else client.get(path, q=text))
        after = _metrics(client)
        for stage in before:
            own = before[stage] - first[stage]  # reading /metrics queries the database, too
            stages.setdefault(name, {}).setdefault(stage, []).append(after[stage] - before[stage] - own)

    nothing = sa.text(NOTHING_SQL)

    def transaction() -> None:
        with collection.database.begin() as pooled:
            pooled.execute(nothing)

    with closing(connect(collection.database)) as connection:
        for _ in range(rounds):
            timed("a round trip", lambda: connection.execute(NOTHING_SQL).fetchall())
            timed("a transaction of the pool", transaction)
            text = next(texts)
            request("api, cached", "/api/search", text)
            timed("bare SQL, cached", lambda text=text: connection.execute(CACHED_SQL, [text, COUNT]).fetchall())
            request("page, cached", "/", text)
            text = next(new)
            request("api, new text", "/api/search", text)
            text = next(new)
            timed("tokenise", lambda text=text: tokenizer([text]))
            [vector] = timed("encoder", lambda text=text: embedder.embed_texts([text]))
            timed("bare SQL, vector", lambda v=vector: connection.execute(VECTOR_SQL, [v, COUNT]).fetchall())
            seconds.setdefault("encoder + SQL", []).append(seconds["encoder"][-1] + seconds["bare SQL, vector"][-1])
    p50 = {name: 1000 * float(np.median(taken)) for name, taken in seconds.items()}
    figures = {
        "web_overhead_ms": p50["api, cached"] - p50["bare SQL, cached"],
        "web_overhead_new_text_ms": p50["api, new text"] - p50["encoder + SQL"],
        "web_api_cached_p50_ms": p50["api, cached"],
        "web_api_new_text_p50_ms": p50["api, new text"],
        "web_page_cached_p50_ms": p50["page, cached"],
    }
    shown = {
        name: f"p50 {p50[name]:.2f} ms, p95 {1000 * float(np.percentile(taken, 95)):.2f} ms"
        + (f"; {_in_stages(stages[name])}" if name in stages else "")
        for name, taken in seconds.items()
    }
    shown["api - bare SQL, cached"] = f"{figures['web_overhead_ms']:.2f} ms"
    shown["api - encoder - SQL, new text"] = f"{figures['web_overhead_new_text_ms']:.2f} ms"
    return figures, table(f"one query through the web, {len(TEXTS)} texts, a ViT-B/32", shown)


def _metrics(client: Client) -> dict[str, float]:
    """Return the server's total seconds by stage, and its number of statements."""
    metrics = client.get("/metrics").decode()

    def total(pattern: str) -> float:
        return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", metrics, re.MULTILINE))

    return {
        "inside": total(r'searchdb_http_request_seconds_sum\{route="/(?:api/search)?"\}'),
        "encoder": total(r'searchdb_embed_seconds_sum\{kind="text"\}'),
        "SQL": total(r"searchdb_sql_seconds_sum"),
        "statements": total(r"searchdb_sql_seconds_count"),
    }


def _in_stages(stages: Mapping[str, list[float]]) -> str:
    median = {name: float(np.median(values)) for name, values in stages.items()}
    own = median["inside"] - median["encoder"] - median["SQL"]
    inside = {"encoder": median["encoder"], f"{median['statements']:.0f} statements": median["SQL"], "rest": own}
    return ", ".join(f"{name} {1000 * value:.2f}" for name, value in inside.items() if value)


def _visit(port: int, seconds: float) -> tuple[Figures, str]:
    """Run VISITORS clients at once; each sends its next cached query as soon as the last is answered."""
    until = time.perf_counter() + seconds
    taken: list[list[float]] = [[] for _ in range(VISITORS)]
    errors: list[str] = []

    def visit(number: int) -> None:
        client = Client(port)
        for text in cycle(np.roll(TEXTS, number).tolist()):
            started = time.perf_counter()
            try:
                client.get("/api/search", q=text, count=COUNT)
            except (OSError, RuntimeError) as exc:
                errors.append(str(exc))
                client = Client(port)
            ended = time.perf_counter()
            taken[number].append(ended - started)
            if ended > until:
                return

    visitors = [threading.Thread(target=visit, args=[number]) for number in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    time.sleep(WARM_UP_S)
    before = _resident(Client(port))
    for visitor in visitors:
        visitor.join()
    after = _resident(Client(port))
    every = np.concatenate([np.array(each) for each in taken])
    figures = {
        "web_visitors": float(VISITORS),
        "web_visitors_errors": float(len(errors)),
        "web_visitors_per_s": len(every) / seconds,
        "web_visitors_p50_ms": 1000 * float(np.median(every)),
        "web_visitors_p99_ms": 1000 * float(np.percentile(every, 99)),
        "web_visitors_memory_growth": after / before,
        "web_worker_mib": after / MIB,
    }
    shown = {
        "requests": f"{len(every):,}, {figures['web_visitors_per_s']:,.0f} per second",
        "errors": f"{len(errors):,}{f', such as {errors[0]}' if errors else ''}",
        "latency": f"p50 {figures['web_visitors_p50_ms']:.0f} ms, p99 {figures['web_visitors_p99_ms']:.0f} ms",
        "memory of the worker": f"{before / MIB:,.0f} MiB after the warm-up, {after / MIB:,.0f} at the end",
    }
    return figures, table(f"{VISITORS} visitors at once, {seconds:.0f} s, cached queries", shown)


def _resident(client: Client) -> float:
    """Return the resident memory of the server's only worker, in bytes."""
    found = re.search(rb"^process_resident_memory_bytes (\S+)$", client.get("/metrics"), re.MULTILINE)
    if found is None:
        raise RuntimeError("the server does not report its memory")
    return float(found[1])
