"""What grows with the collection? Times what is done often at a million images, the earlier way and today's in turn.

The rows come by COPY, as from a person with psql: the first search meets an index that has learnt from none of them.
That is timed, too, and the build that it leads to. Then every pair of old and new takes turns, in the same process on
the same database. Vectors have the geometry of CLIP's, words and tags are made up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import sqlalchemy as sa
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from benchmarks.report import interleaved
from benchmarks.vectors import clip_like, connect
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.counts import RowCount, count_rows
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images, relevance_scale
from searchdb.index.on_demand import rebuild_on_demand
from searchdb.index.status import index_status
from searchdb.search.facets import facets
from searchdb.search.filters import Filters
from searchdb.search.image_sample import refresh_sample
from searchdb.search.query_cache import QueryCache
from searchdb.search.searcher import Query, Searcher
from searchdb.status import collection_status
from web import create_app
from web.backend import EXTENSION

ROWS, QUICK_ROWS = 1_000_000, 20_000
ROUNDS = 5
THINGS = ("dog", "cat", "boat", "house", "tree", "bridge", "child", "bird")
WEATHERS = ("snow", "rain", "fog", "sun")
TEXT = "a dog in the snow"
COLUMNS = (
    "image, source, embedding, embedding_model_id, sha256, width, height, byte_size, description, city, camera, tags"
)
COUNTERS = ("searchdb.search.searcher", "searchdb.status", "searchdb.index.status", "web.ops.metrics")
"""Modules that count rows."""
WORDS = {
    "words_many": ("dog", "an eighth of them"),
    "words_some": ("boat snow", "a thirty-second"),
    "words_few": ("number77", "a thousandth"),
}
"""Words, and which share of the images has them."""

_EARLIER_SAMPLE = text(
    "INSERT INTO image_sample (image_id, embedding) "
    "SELECT id, embedding FROM images WHERE id IN (SELECT id FROM images ORDER BY random() LIMIT 1000)"
)
_EARLIER_FACETS = """
    WITH found AS (
        SELECT source, country, city, camera, tags, sign((width - height)::double precision)::text AS orientation
        FROM images WHERE {condition} ORDER BY id DESC LIMIT 30001
    )
    SELECT 'images', NULL, count(*) FROM found
    UNION ALL (SELECT 'tag', tag, count(*) FROM (SELECT unnest(tags) AS tag FROM found) t GROUP BY tag
               ORDER BY count(*) DESC, tag LIMIT 20)
"""
_EARLIER_VALUES = """
    UNION ALL (SELECT '{name}', max({name}), count(*) FROM found WHERE {name} IS NOT NULL GROUP BY lower({name})
               ORDER BY count(*) DESC, max({name}) LIMIT 20)
"""

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is timed: the earlier way, and today's."""

    title: str
    before: Callable[[], object]
    after: Callable[[], object]


def measure(home: Path, *, quick: bool, rows: int | None = None) -> tuple[Figures, str]:
    """Return the figures, times in milliseconds, and a Markdown table of them."""
    logging.disable(logging.INFO)  # the application logs every request
    rows = rows or (QUICK_ROWS if quick else ROWS)
    figures: Figures = {"million_rows": float(rows)}
    lines = [f"| {rows:,} images | before, ms | now, ms |", "|---|---:|---:|"]

    def record(name: str, title: str, before: float, after: float) -> None:
        figures[f"million_{name}_before_ms"], figures[f"million_{name}_ms"] = 1000 * before, 1000 * after
        lines.append(f"| {title} | {1000 * before:,.1f} | {1000 * after:,.1f} |")

    settings = Settings(home=home, model="demo", database_url=None)
    with SearchDB(settings) as collection:
        database, cache = collection.database, QueryCache(collection.embedder)
        started = time.perf_counter()
        _copy(collection, rows)
        figures["million_copy_s"] = time.perf_counter() - started
        searcher = Searcher(database.engine, collection.embedder, cache)
        searcher.search(Query(text=TEXT))
        with database.begin() as connection:
            counted = interleaved(_counts(connection), ROUNDS)
        copied = interleaved({"search": lambda: searcher.search(Query(text=TEXT))}, ROUNDS)
        started = time.perf_counter()
        if not rebuild_on_demand(database.engine, cache=lambda: cache):
            raise RuntimeError("the index was not built")
        figures["million_build_s"] = time.perf_counter() - started
        with closing(connect(database)) as connection:
            connection.execute("VACUUM images")  # the best case for counting all rows
        built = interleaved({"search": lambda: searcher.search(Query(text=TEXT))}, ROUNDS)
        record(
            "search_copied",
            "a search after COPY: each one; once the first has had the index built",
            *(copied["search"], built["search"]),
        )
        record("count_copied", "the number of images, after COPY without ANALYZE", *counted.values())
        with _pairs(collection, settings) as pairs:
            for name, pair in pairs.items():
                record(name, pair.title, *interleaved({"before": pair.before, "after": pair.after}, ROUNDS).values())
        with database.begin() as connection:
            state = index_status(connection)
    index = f"{state.method}, {state.lists} lists, {state.setting} probed" if state.lists else f"{state.method}"
    lines += [
        "",
        f"Copying the rows took {figures['million_copy_s']:,.0f} s; building and tuning the index ({index}), in the "
        f"background, {figures['million_build_s']:,.0f} s.",
    ]
    return figures, "\n".join(lines)


def _copy(collection: SearchDB, rows: int) -> None:
    vectors, _ = clip_like(rows, 0)
    with collection.database.begin() as connection:
        model_id = claim_model(connection, collection.embedder.identity)
    copying = f"COPY images ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
    with (
        closing(connect(collection.database)) as connection,
        connection.cursor() as cursor,
        cursor.copy(copying) as copy,
    ):
        types = ["text", "text", "vector", "int4", "bytea", "int4", "int4", "int8", "text", "text", "text", "text[]"]
        copy.set_types(types)
        for n in range(rows):
            thing, weather = THINGS[n % len(THINGS)], WEATHERS[n // len(THINGS) % len(WEATHERS)]
            words = f"a {thing} in the {weather}, one of number{n % 1000}, as people describe their photographs"
            described = (words, f"City {n % 500}", f"Camera {n % 40}", [f"tag {n % 700}", thing])
            copy.write_row((str(n), "benchmark", vectors[n], model_id, n.to_bytes(32, "big"), 768, 512, 1, *described))


def _counts(connection: Connection) -> Mapping[str, Callable[[], object]]:
    return {"before": lambda: _count_all(connection, images), "after": lambda: count_rows(connection, images)}


def _count_all(connection: Connection, table: sa.Table) -> RowCount:
    """Count every row, as all callers of `count_rows` did."""
    return RowCount(rows=connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _earlier(run: Callable[[], object]) -> Callable[[], object]:
    """Return a function that counts every row wherever rows are counted."""

    def counting_all() -> object:
        with ExitStack() as patches:
            for module in COUNTERS:
                patches.enter_context(mock.patch(f"{module}.count_rows", _count_all))
            return run()

    return counting_all


@contextmanager
def _pairs(collection: SearchDB, settings: Settings) -> Iterator[Mapping[str, Pair]]:
    """Yield what is timed in turn."""
    database = collection.database
    app = create_app(settings, embedder=collection.embedder)
    client = app.test_client()
    requests = {
        "home": ("the start page", lambda: client.get("/")),
        "results": ("a page of results, cached text", lambda: client.get("/", query_string={"q": TEXT})),
        "metrics": ("a scrape of /metrics", lambda: client.get("/metrics")),
        "status": ("`searchdb status`", lambda: collection_status(database, settings)),
    }
    pairs = {name: Pair(title=title, before=_earlier(run), after=run) for name, (title, run) in requests.items()}
    for pair in pairs.values():
        pair.after()  # opens the database and fills the caches
    with database.connect() as connection, _read_only(collection) as (kept, measuring):
        pairs |= {
            "count": Pair(
                title="the number of images", before=_counts(connection)["before"], after=_counts(connection)["after"]
            ),
            "sample": Pair(
                title="drawing the sample for relevance",
                before=partial(_earlier_sample, connection),
                after=partial(_sample, connection),
            ),
            "facets": _facets(connection, "the values of the filter panel", None),
            **{
                name: _facets(connection, f"the same, with the words “{words}” ({share})", Filters(words=words))
                for name, (words, share) in WORDS.items()
            },
            "reader": Pair(title="a search by a reading role, no scale stored", before=measuring, after=kept),
        }
        yield pairs
    app.extensions[EXTENSION].close()


def _earlier_sample(connection: Connection) -> None:
    connection.execute(text("DELETE FROM image_sample"))
    connection.execute(_EARLIER_SAMPLE)
    connection.rollback()


def _sample(connection: Connection) -> None:
    refresh_sample(connection)
    connection.rollback()


def _facets(connection: Connection, title: str, filters: Filters | None) -> Pair:
    condition = "true"
    if filters is not None:
        compiled = filters.condition().compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        condition = str(compiled)
    values = "".join(
        _EARLIER_VALUES.format(name=name) for name in ("source", "country", "city", "camera", "orientation")
    )
    statement = text((_EARLIER_FACETS.format(condition=condition) + values).replace(":", r"\:"))

    def before() -> None:
        connection.execute(statement).all()
        connection.rollback()

    def after() -> None:
        facets(connection, filters)
        connection.rollback()  # ends the settings of its transaction

    return Pair(title=title, before=before, after=after)


@contextmanager
def _read_only(collection: SearchDB) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """Yield searches that may not store the scale of relevance: one keeps it in memory, one measures it each time."""
    with collection.database.begin() as connection:
        connection.execute(sa.delete(relevance_scale))
    url = collection.database.url.update_query_dict({"options": "-c default_transaction_read_only=on"})
    reading = Settings(home=collection.settings.home, model="demo", database_url=libpq_url(url))
    with Database(reading) as database:
        cache = QueryCache(collection.embedder)
        searcher = Searcher(database.engine, collection.embedder, cache)

        def kept() -> object:
            return searcher.search(Query(text=TEXT))

        def measuring() -> object:
            return Searcher(database.engine, collection.embedder, cache).search(Query(text=TEXT))

        kept()
        yield kept, measuring
