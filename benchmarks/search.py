"""How fast is match_images compared with a common recipe's function, an exact scan and FAISS, and what is its recall?

The recipe is from hosted-CLIP guides: an ivfflat index with 100 lists created on the empty table, and a function that
orders by similarity, descending, with the threshold in the same WHERE. The exact scan is the statement of match_images
without an index. FAISS runs in this process, without a database: IndexFlatIP, which the FAISS guides use, and
IndexHNSWFlat. The vectors have the geometry of CLIP's (benchmarks/vectors.py), and the queries are texts, whose
neighbours are much harder to find than those of images. Our indexes are built, and tune themselves, as by
`searchdb index build`. They and FAISS's graph are tuned to recall 0.98 on half of the queries and measured on the other
half.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, LiteralString, Self

import faiss
import numpy as np
import sqlalchemy as sa

from benchmarks.report import table
from benchmarks.vectors import clip_like, connect, fill
from searchdb.config import Settings
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.schema import migrate
from searchdb.db.tables import query_embeddings
from searchdb.index.build import build_index
from searchdb.index.status import index_status
from searchdb.records import ModelIdentity

SIZES, QUICK_SIZES = (25_000, 100_000), (25_000,)
"""Numbers of rows. The figures of the last are also stored without the size in their names."""
LARGE_SIZES = (500_000,)
QUERIES = 100
"""Texts to tune on, and as many others to measure: they differ much in how hard their neighbours are to find."""
COUNT = 10
ROUNDS, QUICK_ROUNDS = 100, 40
SLOW_S = 8.0
"""Seconds after which a slow side is measured no more: its median is known by then."""
CLIENTS = 4
CLIENTS_S, QUICK_CLIENTS_S = 3.0, 1.0
SAMPLE_S = 0.1
"""Seconds between two samples of a build's memory."""
BUILDERS = """
SELECT pid FROM pg_stat_activity
WHERE query LIKE 'CREATE INDEX%' OR leader_pid IN (SELECT pid FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%')
"""
MIB = 2**20
TARGET = 0.98
"""The recall to tune to."""
INDEXES: Mapping[str, Mapping[str, Any]] = {
    "": {"method": "hnsw"},
    "_hnsw_vector": {"method": "hnsw", "value_type": "vector"},
    "_ivfflat": {"method": "ivfflat"},
    "_ivfflat_vector": {"method": "ivfflat", "value_type": "vector"},
}
"""Arguments of `build_index` for the indexes compared, by the suffix of their figures' names. It builds the first by
default, and the third for a large collection. That has only those over halfvec: a graph of vectors takes too long."""
MANY = 100
"""The searcher asks for this many hits, whatever page of them it shows."""
FAISS_LINKS, FAISS_CONSTRUCTION = 32, 200
"""More links and candidates than FAISS's defaults: a smaller graph does not reach the recall of texts."""
FAISS_DEPTHS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)

RECIPE = """
CREATE TABLE recipe (id bigint PRIMARY KEY, image text, embedding vector(512));
CREATE INDEX ON recipe USING ivfflat (embedding vector_cosine_ops) WITH (lists = 100);
CREATE FUNCTION recipe_match_images(query_embedding vector(512), match_threshold float8, match_count int)
RETURNS TABLE (id bigint, image text, similarity float8) LANGUAGE sql STABLE AS $$
    SELECT id, image, 1 - (embedding <=> query_embedding) AS similarity FROM recipe
    WHERE 1 - (embedding <=> query_embedding) > match_threshold ORDER BY similarity DESC LIMIT match_count
$$;
"""
MATCH = "SELECT image FROM match_images(%s, 0, %s)"
RECIPE_MATCH = "SELECT image FROM recipe_match_images(%s, 0, %s)"
EXACT = """
SELECT nearest.image
FROM (SELECT id, image, embedding <=> %s AS distance FROM images ORDER BY embedding <=> %s LIMIT %s) AS nearest
ORDER BY nearest.distance + 0, nearest.id
"""

Ask = Callable[[np.ndarray], Sequence[int]]
"""Returns the row numbers of the images nearest to a query, best first."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of one side.

    Median and 95th percentile in ms, with all sides taking turns, so that each finds the caches as the others left
    them; and queries per second when only this side runs, with one client and with CLIENTS clients.
    """

    p50_ms: float
    p95_ms: float
    per_s: float
    per_s_clients: float


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of them."""
    sizes = QUICK_SIZES if quick else SIZES
    figures, shown = _of_sizes(home, sizes, quick=quick)
    last = f"_{sizes[-1] // 1000}k"
    return figures | {name.removesuffix(last): value for name, value in figures.items() if name.endswith(last)}, shown


def measure_large(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of a large collection; a quick run skips it."""
    return ({}, "search: large collections are skipped") if quick else _of_sizes(home, LARGE_SIZES, quick=False)


def _of_sizes(home: Path, sizes: Sequence[int], *, quick: bool) -> tuple[dict[str, float], str]:
    figures: dict[str, float] = {}
    tables: list[str] = []
    with Database(Settings(home=home, database_url=None)) as database:
        migrate(database)
        with closing(connect(database)) as connection:
            connection.execute(RECIPE)
        for rows in sizes:
            found, shown = _measure(database, rows, quick=quick)
            figures |= {f"{name}_{rows // 1000}k": value for name, value in found.items()}
            tables.append(table(f"search, {rows:,} images, tuned to recall {TARGET}", shown))
    return figures, "\n\n".join(tables)


def _measure(database: Database, rows: int, *, quick: bool) -> tuple[dict[str, float], dict[str, str]]:
    vectors, queries = clip_like(rows, 2 * QUERIES)
    known, unknown = queries[:QUERIES], queries[QUERIES:]
    _fill(database, vectors, known)
    figures: dict[str, float] = {}
    shown: dict[str, str] = {}
    with ExitStack() as stack:

        def client(statement: LiteralString, places: int, *settings: LiteralString, count: int = COUNT) -> Ask:
            connection = stack.enter_context(closing(connect(database)))
            for setting in settings:
                connection.execute(setting)
            return lambda query: _numbers(connection.execute(statement, [*[query] * places, count]).fetchall())

        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        graph, depth = _faiss_graph(vectors, known)
        others: dict[str, Callable[[], Ask]] = {
            "recipe_sql": lambda: client(RECIPE_MATCH, 1),
            # In a separate session: with this setting match_images could not use its index either.
            "exact": lambda: client(EXACT, 2, "SET enable_indexscan = off"),
            "faiss_flat": lambda: lambda query: flat.search(query[None], COUNT)[1][0],
            "faiss_hnsw": lambda: lambda query: graph.search(query[None], COUNT)[1][0],
        }
        figures["faiss_hnsw_recall_at_10"] = _recall(others["faiss_hnsw"](), vectors, unknown)
        for suffix, arguments in INDEXES.items():
            if rows in LARGE_SIZES and arguments.get("value_type") == "vector":
                continue
            started = time.perf_counter()
            with _Memory(database) as memory:
                build_index(database.engine, **arguments)
            built_s = time.perf_counter() - started
            ours = {"match_images": lambda: client(MATCH, 1), "match_images_100": lambda: client(MATCH, 1, count=MANY)}
            recall = _recall(ours["match_images"](), vectors, unknown)
            recall_of_many = _recall(ours["match_images_100"](), vectors, unknown, MANY)
            times = _times(ours | others, unknown, quick=quick)
            figures[f"recall_at_10{suffix}"] = recall
            figures[f"search_p50_ms{suffix}"] = times["match_images"].p50_ms
            figures[f"recall_at_100{suffix}"] = recall_of_many
            figures[f"search_100_p50_ms{suffix}"] = times["match_images_100"].p50_ms
            figures[f"index_build_s{suffix}"] = built_s
            figures[f"index_build_mib{suffix}"] = memory.peak / MIB
            for name in others:
                figures[f"search_vs_{name}{suffix}"] = times[name].p50_ms / times["match_images"].p50_ms
            label = " ".join(map(str, arguments.values()))
            figures[f"index_mib{suffix}"] = _index_bytes(database) / MIB
            shown |= {name: _times_line(times[name]) for name in others}
            shown[f"match_images, {label}"] = (
                f"{_times_line(times['match_images'])}, recall@10 {recall:.3f}, {_depth(database)}"
            )
            shown[f"  100 hits, {label}"] = f"{_times_line(times['match_images_100'])}, recall@100 {recall_of_many:.3f}"
            shown[f"  built, {label}"] = (
                f"in {built_s:.0f} s, {figures[f'index_mib{suffix}']:,.0f} MB, peak memory {memory.peak / MIB:,.0f} MB"
            )
            ratios = ", ".join(f"{name} {figures[f'search_vs_{name}{suffix}']:.2f}" for name in others)
            shown[f"  times faster, {label}"] = ratios
        shown["faiss_hnsw's recall@10"] = f"{figures['faiss_hnsw_recall_at_10']:.3f} with efSearch {depth}"
    return figures, shown


def _times(sides: Mapping[str, Callable[[], Ask]], queries: np.ndarray, *, quick: bool) -> dict[str, Times]:
    """Run the same queries on every side in turn, so that other load on the machine affects all equally."""
    asks = {name: opened() for name, opened in sides.items()}
    turn = cycle(queries)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for ask in asks.values():
        ask(queries[0])
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        query = next(turn)
        for name, ask in asks.items():
            if sum(seconds[name]) < SLOW_S:
                started = time.perf_counter()
                ask(query)
                seconds[name].append(time.perf_counter() - started)
    return {
        name: Times(
            p50_ms=float(np.median(taken)) * 1000,
            p95_ms=float(np.percentile(taken, 95)) * 1000,
            per_s=_throughput([asks[name]], queries, quick=quick),
            per_s_clients=_throughput([sides[name]() for _ in range(CLIENTS)], queries, quick=quick),
        )
        for name, taken in seconds.items()
    }


class _Memory:
    """Samples the total memory of a build's server processes inside a `with`; `peak` is the maximum, in bytes.

    A page that several of them share, such as PostgreSQL's shared buffers, counts once.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        with closing(connect(self._database)) as connection:
            while not self._done.wait(SAMPLE_S):
                found = connection.execute(BUILDERS).fetchall()
                self.peak = max(self.peak, sum(_proportional(pid) for (pid,) in found))


def _proportional(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 once it has ended."""
    with suppress(OSError):
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return 1024 * int(found[1]) if found else 0
    return 0


def _throughput(clients: Sequence[Ask], queries: np.ndarray, *, quick: bool) -> float:
    """Return the queries per second of all clients together."""
    until = time.perf_counter() + (QUICK_CLIENTS_S if quick else CLIENTS_S)
    done = [0] * len(clients)

    def work(number: int) -> None:
        for query in cycle(np.roll(queries, number, axis=0)):
            clients[number](query)
            done[number] += 1
            if time.perf_counter() > until:
                return

    started = time.perf_counter()
    threads = [threading.Thread(target=work, args=[number]) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - started)


def _faiss_graph(vectors: np.ndarray, queries: np.ndarray) -> tuple[faiss.IndexHNSWFlat, int]:
    """Return FAISS's graph, and the smallest of FAISS_DEPTHS with which it reaches the recall."""
    graph = faiss.IndexHNSWFlat(vectors.shape[1], FAISS_LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = FAISS_CONSTRUCTION
    graph.add(vectors)
    for depth in FAISS_DEPTHS:
        graph.hnsw.efSearch = depth
        if _recall(lambda query: graph.search(query[None], COUNT)[1][0], vectors, queries) >= TARGET:
            break
    return graph, int(graph.hnsw.efSearch)


def _fill(database: Database, vectors: np.ndarray, texts: np.ndarray) -> None:
    """Store the vectors in both tables, and the tuning queries in the query cache."""
    model = ModelIdentity(name="benchmark", weights_sha256=b"b" * 32, dimension=512)
    fill(database, vectors, model)
    with database.begin() as ours:
        ours.execute(sa.delete(query_embeddings))
        model_id = claim_model(ours, model)
        cached = [{"embedding_model_id": model_id, "query": str(n), "embedding": v} for n, v in enumerate(texts)]
        ours.execute(sa.insert(query_embeddings), cached)
    with closing(connect(database)) as connection:
        connection.execute("TRUNCATE recipe")
        connection.execute("INSERT INTO recipe SELECT id, image, embedding FROM images")
        connection.execute("ANALYZE recipe")


def _numbers(rows: Sequence[tuple[str]]) -> list[int]:
    return [int(image) for (image,) in rows]


def _recall(ask: Ask, vectors: np.ndarray, queries: np.ndarray, count: int = COUNT) -> float:
    exact = np.argpartition(-(queries @ vectors.T), count, axis=1)[:, :count]
    return float(
        np.mean(
            [
                len({*map(int, ask(query))} & {*best.tolist()}) / count
                for query, best in zip(queries, exact, strict=True)
            ]
        )
    )


def _times_line(times: Times) -> str:
    return (
        f"p50 {times.p50_ms:.2f} ms, p95 {times.p95_ms:.2f} ms, {times.per_s:,.0f}/s, "
        f"{times.per_s_clients:,.0f}/s with {CLIENTS} clients"
    )


def _depth(database: Database) -> str:
    with database.connect() as connection:
        state = index_status(connection)
    return f"ef_search {state.setting}" if state.method == "hnsw" else f"{state.setting} of {state.lists} lists"


def _index_bytes(database: Database) -> int:
    with database.connect() as connection:
        return index_status(connection).byte_size
