"""Collects and serves Prometheus metrics: requests, model runs, SQL statements and the state of the collection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

import sqlalchemy as sa
from flask import Blueprint
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import event, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.db.connections import POOL_OVERFLOW, POOL_SIZE
from searchdb.db.counts import EXACT_UP_TO, count_rows
from searchdb.db.database import Database
from searchdb.db.switch_tables import unembedded_images
from searchdb.db.tables import images, ingest_failures, ingest_pending
from searchdb.errors import DatabaseError
from searchdb.switch.state import switch_status

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable that names the folder in which several processes share their metrics."""
STATE_TIMEOUT_MS = 2000
"""Milliseconds that counting the collection may take: Prometheus waits for it, by default at most ten seconds."""
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
"""Methods that are counted by name; clients can invent others, which are counted as "other"."""
NO_ROUTE = "none"
"""Label of requests without a route: clients choose the path, which would add any number of labels."""
REQUEST_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
EMBED_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
SQL_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 20)

_COUNTED = {
    "pictures": images,
    "pending": ingest_pending,
    "failures": ingest_failures,
    "unembedded": unembedded_images,
}
_HELP = {
    "pictures": "Searchable images",
    "pending": "References that are queued or being ingested",
    "failures": "References that could not be ingested",
    "unembedded": "Images that the current model could not embed",
}
_SWITCH_HELP = {
    "missing": "Images without a vector by the model that the collection is switched to; absent if there is none.",
    "failed": "Images that this model could not embed; absent if there is none.",
}


class Metrics:
    """The metrics of one application; each application in a process has its own.

    If PROMETHEUS_MULTIPROC_DIR is set, the values are sums over all processes that share the folder, except the state
    of the collection, which is the same for all.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._states: list[Collector] = []
        self._requests = Counter(
            "searchdb_http_requests",
            "Requests handled.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "searchdb_http_request_seconds",
            "Time from a request to the start of its response.",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._embed_seconds = Histogram(
            "searchdb_embed_seconds",
            "Time of one run of the model, including the wait for other runs.",
            ["kind"],
            buckets=EMBED_BUCKETS,
            registry=self._registry,
        )
        self._sql_seconds = Histogram(
            "searchdb_sql_seconds", "Time of one SQL statement.", buckets=SQL_BUCKETS, registry=self._registry
        )
        self._text_vectors = Counter(
            "searchdb_text_vectors",
            "Vectors of query texts by source: the cache in the database, the cache in memory, or the model.",
            ["source"],
            registry=self._registry,
        )
        self._pool_in_use = Gauge(
            "searchdb_pool_connections_in_use",
            "Connections to the database that are in use.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._pool_limit = Gauge(
            "searchdb_pool_connections_limit",
            "Connections to the database that may be in use at once.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._slots_in_use = Gauge(
            "searchdb_slots_in_use",
            "Slots of limited work that are in use.",
            ["kind"],
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._slots_limit = Gauge(
            "searchdb_slots_limit",
            "Slots of limited work.",
            ["kind"],
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        self._refusals = Counter(
            "searchdb_refusals",
            "Requests that were refused because this kind of work was busy.",
            ["kind"],
            registry=self._registry,
        )
        if SHARED_FOLDER not in os.environ:
            ProcessCollector(registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method if method in METHODS else "other", route, status).inc()
        self._request_seconds.labels(route).observe(seconds)

    def embedded(self, kind: str, count: int, seconds: float) -> None:
        """Count one run of the model on `count` inputs; `kind` is "text", or "picture" for images."""
        self._embed_seconds.labels(kind).observe(seconds)
        if kind == "text":
            self._text_vectors.labels("model").inc(count)

    def cached(self, where: str, count: int) -> None:
        """Count text vectors that were cached; `where` is "database" or "memory"."""
        self._text_vectors.labels(where).inc(count)

    def slots(self, kind: str, used: int, limit: int) -> None:
        """Set how many slots of a kind of work are in use, and how many there are."""
        self._slots_in_use.labels(kind).set(used)
        self._slots_limit.labels(kind).set(limit)

    def refused(self, kind: str) -> None:
        """Count one request that was refused because this kind of work was busy."""
        self._refusals.labels(kind).inc()

    def watch(self, *engines: sa.Engine) -> None:
        """Measure the statements and connections of a database, which may have an engine for each role."""
        self._pool_limit.set(POOL_SIZE + POOL_OVERFLOW)
        for engine in engines:
            self._watch(engine, engines)

    def _watch(self, engine: sa.Engine, engines: Sequence[sa.Engine]) -> None:
        @event.listens_for(engine, "before_cursor_execute")
        def started(connection: sa.Connection, *_: object) -> None:
            connection.info["searchdb_started"] = time.perf_counter()

        @event.listens_for(engine, "after_cursor_execute")
        def ended(connection: sa.Connection, *_: object) -> None:
            self._sql_seconds.observe(time.perf_counter() - connection.info["searchdb_started"])

        # Read from the pool instead of counting up and down: broken connections are never checked in.
        @event.listens_for(engine, "checkout")
        def checked_out(*_: object) -> None:
            self._pool_in_use.set(_checked_out(engines))

        @event.listens_for(engine, "checkin")
        def checked_in(*_: object) -> None:
            self._pool_in_use.set(max(_checked_out(engines) - 1, 0))  # the pool still counts this connection

    def add_state(self, state: Collector) -> None:
        """Add a collector that runs whenever the metrics are read."""
        self._states.append(state)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        shown = CollectorRegistry()
        if SHARED_FOLDER in os.environ:
            MultiProcessCollector(shown)
        else:
            shown.register(self._registry)
        for state in self._states:
            shown.register(state)
        return generate_latest(shown)


class CollectionState(Collector):
    """Reads the counts of the collection from the database on every scrape, and whether the database responds.

    Args:
        database: returns the open database, or raises DatabaseError.
    """

    def __init__(self, database: Callable[[], Database]) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that can be read; never raises."""
        counts, switch, up = None, None, True
        try:
            with self._database().reading() as connection:
                connection.execute(text(f"SET LOCAL statement_timeout = {STATE_TIMEOUT_MS}"))
                counts = {name: count_rows(connection, table).rows for name, table in _COUNTED.items()}
                switch = switch_status(connection)
        except DatabaseError as exc:
            up = exc.sqlstate is not None  # the server has responded, if only with a timeout
        except PoolTimeoutError:  # every connection is in use
            pass
        yield GaugeMetricFamily("searchdb_database_up", "Whether the database responds.", value=up)
        if counts is not None:
            for name, description in _HELP.items():
                estimated = f"{description}; above {EXACT_UP_TO} an estimate."
                yield GaugeMetricFamily(f"searchdb_{name}", estimated, value=counts[name])
        if switch is not None:
            for name, value in (("missing", switch.missing), ("failed", switch.failed)):
                yield GaugeMetricFamily(f"searchdb_switch_{name}", _SWITCH_HELP[name], value=value)


def blueprint(metrics: Metrics) -> Blueprint:
    """Return the blueprint that serves `/metrics`."""
    shown = Blueprint("metrics", __name__)

    @shown.get("/metrics")
    def exposition() -> ResponseReturnValue:
        return metrics.exposition(), {"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"}

    return shown


def _checked_out(engines: Sequence[sa.Engine]) -> int:
    return sum(engine.pool.checkedout() for engine in engines if isinstance(engine.pool, sa.QueuePool))
