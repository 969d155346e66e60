"""Builds the vector index beside the one in use, swaps it in, and tunes it."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.config import DEFAULT_RECALL
from searchdb.db.connections import behind_pooler, lift_time_limits
from searchdb.db.driver_errors import require_writable
from searchdb.db.extension import advice_on_builds
from searchdb.db.functions import FUNCTIONS, installation
from searchdb.db.tables import index_builds
from searchdb.db.vectors import CURRENT, SIGNATURE, VectorColumn, current_column
from searchdb.errors import ConfigError, DatabaseError, ModelError
from searchdb.index.depth import owner, store_setting
from searchdb.index.exact import MeasureCallback
from searchdb.index.policy import EXACT_ROWS, best_method, fit_lists, fit_setting
from searchdb.index.recall import silent
from searchdb.index.self_tune import MakeCache, self_tune
from searchdb.index.status import (
    BUILD_LOCK_KEY,
    SETTINGS,
    IndexStatus,
    index_status,
    last_tuning,
    leftovers,
    new_index,
    old_index,
)
from searchdb.search.image_sample import MIN_SAMPLE, refresh_sample
from searchdb.search.relevance import calibrate

BUILD_MEMORY_MB = (160, 2048)
"""Bounds of a build's maintenance_work_mem: 32 MB for each of its processes, and what a small server can spare."""
BUILD_WORKERS = 4
"""Parallel worker processes of a build, if the server has them."""
HNSW_M = 24
"""Neighbours of each element: with pgvector's default of 16, texts need a third more candidates for the same recall."""
HNSW_EF_CONSTRUCTION = 320
"""Candidates when an element is inserted. With 256, texts need a quarter more time for a recall of 0.98 among 60,000
images; with 128, it is out of reach from 100,000 images on, and with pgvector's default of 64 from 60,000 on."""
NUMBER_BYTES = {"vector": 4, "halfvec": 2}
"""Types of indexed values, and the size of one number."""
MIN_SAMPLES, SAMPLES_PER_LIST = 10_000, 50
"""Rows that ivfflat's k-means samples and holds in memory (pgvector, ivfbuild.c)."""
ORPHAN_CHECK = "2s"
"""Interval at which the server process of a build checks that its client is still connected."""
CLEAN_UP_TIMEOUT = "15s"
"""Longest wait for a failed build to release its lock; after that, the next build cleans up."""
OUT_OF_SHARED_MEMORY = ("53100", "53200")
"""PostgreSQL's errors when /dev/shm is full (64 MB in containers): disk full, or out of memory."""
INSUFFICIENT_PRIVILEGE = "42501"
NUMBER_OUT_OF_RANGE = "22003"
"""Of a vector from before the CHECK on their length, with a number that half precision cannot hold."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    method: str
    value_type: str
    chosen: bool
    column: VectorColumn
    lists: int | None = None
    m: int | None = None
    ef_construction: int | None = None

    @property
    def definition(self) -> str:
        options = {"lists": self.lists, "m": self.m, "ef_construction": self.ef_construction}
        given = ", ".join(f"{name} = {int(value)}" for name, value in options.items() if value is not None)
        value = self.column.name
        if self.value_type != "vector":
            value = f"({value}::{self.value_type}({self.column.dimension}))"
        return f"ON images USING {self.method} ({value} {self.value_type}_cosine_ops) WITH ({given})"

    def memory_mb(self, rows: int) -> float:
        """Return the memory a build needs, in MB, plus 10 % (pgvector, ivfkmeans.c and hnswbuild.c)."""
        size = 8 + NUMBER_BYTES[self.value_type] * self.column.dimension
        if self.method == "hnsw":
            # an element's header, its value, and 16 bytes for each of 2 m neighbours and those in higher layers
            return 1.1 * rows * (240 + size + 32 * (self.m or HNSW_M)) / 2**20
        lists = self.lists or 1
        samples = max(SAMPLES_PER_LIST * lists, MIN_SAMPLES)
        # the sampled vectors, old and new centres, distances between samples and centres, and among centres
        return 1.1 * ((samples + 2 * lists) * size + 4 * (samples + lists) * (lists + 3)) / 2**20


def build_index(
    engine: Engine,
    *,
    method: str | None = None,
    value_type: str | None = None,
    lists: int | None = None,
    m: int | None = None,
    ef_construction: int | None = None,
    cache: MakeCache | None = None,
    target: float = DEFAULT_RECALL,
    progress: MeasureCallback = silent,
    column: VectorColumn | None = None,
) -> IndexStatus | None:
    """Build a new index while searches and ingest continue; return None if another process is building or tuning.

    The new index is built beside the old one and then takes its name, so that one of the two is always in use. A build
    that fails or is killed leaves at most one index behind, which the next build drops. Afterwards `match_images` is
    tuned, for every client, on the stored texts and images; where there are too few texts to tell, it searches with the
    setting of `fit_setting` at least. Last, the scale of relevance is measured again.

    Args:
        method: `ivfflat` or `hnsw`; by default ivfflat if `lists` are given, or else `best_method` for the rows.
        value_type: `vector`, or `halfvec` (default), whose index is smaller and faster at the same recall.
        lists: ivfflat's lists; fitted to the rows unless given.
        m: hnsw's neighbours of each element.
        ef_construction: hnsw's candidates when an element is inserted, at least 2 m.
        cache, target: as in `self_tune`; without `cache` the scale is left to the first search.
        progress: called while the index is tuned.
        column: whose index is built, by default the current model's. Its function is created if it does not exist, and
            `cache` is of its model.

    Raises:
        ConfigError: a parameter does not fit the method or another parameter, or needs more memory than there is.
        DatabaseError: we do not own the tables, or PostgreSQL failed.
    """
    if method is not None and method not in SETTINGS:
        raise ConfigError(f"there is no index method {method!r}, only {' and '.join(SETTINGS)}")
    if value_type is not None and value_type not in NUMBER_BYTES:
        raise ConfigError(f"there is no type {value_type!r} of indexed values, only {' and '.join(NUMBER_BYTES)}")
    if method != "hnsw" and (m or ef_construction):
        raise ConfigError("m and ef_construction are parameters of hnsw: use method hnsw or omit them")
    if method == "hnsw" and lists:
        raise ConfigError("lists is a parameter of ivfflat: use method ivfflat or omit it")
    if not 0 < target <= 1:
        raise ConfigError(f"the target recall is {target}, but must be above 0 and at most 1")
    chosen = any(value is not None for value in (method, value_type, lists, m, ef_construction))
    if method is None and lists:
        method = "ivfflat"
    with _session(engine) as connection:
        if (advice := advice_on_builds(connection)) is not None:
            raise DatabaseError(advice)
        other = owner(connection)
        if other is not None:
            error = DatabaseError(f"only the owner of the tables may build the index: connect as {other}")
            error.sqlstate = INSUFFICIENT_PRIVILEGE
            raise error
        require_writable(connection, "building the index")
        with _lock(engine, connection) as locked:
            if not locked:
                return None
            column = column or current_column(connection)
            if column.name != CURRENT:
                _ensure_function(connection, column)
            rows = connection.scalar(text(f"SELECT count({column.name}) FROM images")) or 0  # noqa: S608 - our name
            method, value_type = method or best_method(rows), value_type or "halfvec"
            if method == "hnsw":
                m = m or HNSW_M
                ef_construction = ef_construction or max(HNSW_EF_CONSTRUCTION, 2 * m)
            else:
                lists = lists or fit_lists(rows)
            plan = _Plan(
                method=method,
                value_type=value_type,
                chosen=chosen,
                column=column,
                lists=lists,
                m=m,
                ef_construction=ef_construction,
            )
            _set_up(connection, plan, rows)
            driver = connection.connection.dbapi_connection
            try:
                _build(engine, connection, plan, rows)
            except BaseException:
                _clean_up(engine, connection, driver, column)
                raise
        if rows >= EXACT_ROWS and plan.lists != 1:
            self_tune(engine, cache, target=target, progress=progress, column=column)
        if cache is not None and rows >= MIN_SAMPLE:
            _calibrate(engine, cache, column)
        return index_status(connection, column)


@contextmanager
def _session(engine: Engine) -> Generator[Connection]:
    """Yield a separate autocommit connection; its settings and its lock end with it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield connection


@contextmanager
def _lock(engine: Engine, connection: Connection) -> Generator[bool]:
    """Take the lock of builds, and yield whether it is ours: that of the session, which ends with the build's process.

    Behind a pooler a session is not ours, but a transaction is: the lock is then held by an idle one beside the build.
    """
    if not behind_pooler(connection):
        locked = bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(BUILD_LOCK_KEY))))
        yield locked
        if locked:  # the server notices a closed connection only a moment later, and the next build would find the lock
            connection.execute(sa.select(sa.func.pg_advisory_unlock(BUILD_LOCK_KEY)))
        return
    with engine.connect() as holder:
        # Without parameters, so that the statement leaves no open portal, for whose snapshot the build would wait.
        yield bool(holder.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({BUILD_LOCK_KEY})").scalar())


def _set_up(connection: Connection, plan: _Plan, rows: int) -> None:
    low, high = BUILD_MEMORY_MB
    # If the administrator allows every build more than our limit, so may this one.
    setting = "SELECT setting::bigint / 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'"
    configured = connection.scalar(text(setting))
    pooler = behind_pooler(connection)
    high = configured or 0 if pooler else max(high, configured or 0)
    needed = plan.memory_mb(rows)
    if needed > high and plan.method == "ivfflat":
        raise ConfigError(
            f"an index with {plan.lists:,} lists takes {needed:,.0f} MB of memory to build, more than {high:,} MB: "
            "use fewer lists, or raise the server's maintenance_work_mem"
        )
    if needed > high:
        logger.warning(
            "the graph needs about %s MB, more than %s MB: the build will be slow; raise the server's "
            "maintenance_work_mem to speed it up",
            f"{needed:,.0f}",
            f"{high:,}",
        )
    if pooler:  # the settings would reach other clients, and perhaps not the build
        return
    connection.execute(text(f"SET maintenance_work_mem = '{int(min(max(needed, low), high))}MB'"))
    connection.execute(text(f"SET max_parallel_maintenance_workers = {BUILD_WORKERS}"))
    lift_time_limits(connection, local=False)
    with suppress(DatabaseError):  # unsupported on some platforms: there a build outlives its killed client
        connection.execute(text(f"SET client_connection_check_interval = '{ORPHAN_CHECK}'"))


def _build(engine: Engine, connection: Connection, plan: _Plan, rows: int) -> None:
    started = time.monotonic()
    _drop_leftovers(connection, plan.column)
    create = text(f"CREATE INDEX CONCURRENTLY {new_index(plan.column)} {plan.definition}")
    try:
        connection.execute(create)
    except DatabaseError as exc:
        if exc.sqlstate == NUMBER_OUT_OF_RANGE:
            error = DatabaseError(
                f"an image has a vector that no index can hold ({exc}): `searchdb db repair` names it"
            )
            error.sqlstate = exc.sqlstate
            raise error from exc
        if exc.sqlstate not in OUT_OF_SHARED_MEMORY or behind_pooler(connection):
            raise
        logger.warning("the server is short of shared memory (%s): building in a single process instead", exc)
        _drop_leftovers(connection, plan.column)
        connection.execute(text("SET max_parallel_maintenance_workers = 0"))
        connection.execute(create)
    with engine.begin() as swap:
        lift_time_limits(swap, local=True)
        setting = fit_setting(plan.method, plan.lists, last_tuning(swap, plan.method, plan.column), rows=rows)
        # Renaming blocks no query; dropping the old index here would need an exclusive lock on the table. With the
        # schema, because the extension's may have an index of another collection.
        schema = swap.scalar(
            text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'images'::regclass")
        )
        swap.execute(text(f"ALTER INDEX IF EXISTS {schema}.{plan.column.index} RENAME TO {old_index(plan.column)}"))
        swap.execute(text(f"ALTER INDEX {new_index(plan.column)} RENAME TO {plan.column.index}"))
        store_setting(swap, plan.method, setting, plan.column)
        swap.execute(
            sa.insert(index_builds).values(
                method=plan.method,
                type=plan.value_type,
                chosen=plan.chosen,
                lists=plan.lists,
                m=plan.m,
                ef_construction=plan.ef_construction,
                row_count=rows,
                embedding_model_id=plan.column.model_id,
                seconds=time.monotonic() - started,
            )
        )
    _drop_leftovers(connection, plan.column)
    connection.execute(text("ANALYZE images"))
    refresh_sample(connection, plan.column)


def _calibrate(engine: Engine, cache: MakeCache, column: VectorColumn) -> None:
    """Measure the scale of relevance: those who may only read the collection cannot store it."""
    try:
        with engine.connect() as connection:
            calibrate(connection, cache(), column)
    except (ModelError, DatabaseError) as exc:
        logger.warning("the scale of relevance was not measured; the first search by a text will do it: %s", exc)


def _ensure_function(connection: Connection, column: VectorColumn) -> None:
    """Create the function that searches a column beside the current one, with which its setting is stored."""
    exists = text("SELECT to_regprocedure(:name) IS NOT NULL")
    if not connection.scalar(exists, {"name": column.function + SIGNATURE}):
        connection.execute(text(installation(FUNCTIONS["match_images"], column)))


def _drop_leftovers(connection: Connection, column: VectorColumn) -> None:
    for name in leftovers(connection, column):
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))


def _clean_up(engine: Engine, connection: Connection, driver: Any, column: VectorColumn) -> None:
    """Drop what a failed build left, on its connection or, if that is lost or was interrupted, on a new one."""
    # The caller needs the build's own error; the next build drops what cannot be dropped now.
    with suppress(DatabaseError):
        if not connection.invalidated:
            _drop_leftovers(connection, column)
            return
        driver.close()  # SQLAlchemy discards it without closing it, which would keep the lock
        with _session(engine) as fresh:
            if behind_pooler(fresh):  # the lock is still held, in its transaction
                _drop_leftovers(fresh, column)
                return
            fresh.execute(text(f"SET lock_timeout = '{CLEAN_UP_TIMEOUT}'"))
            fresh.execute(sa.select(sa.func.pg_advisory_lock(BUILD_LOCK_KEY)))
            _drop_leftovers(fresh, column)
