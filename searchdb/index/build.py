"""Builds the vector index beside the one in use and swaps it in."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.db.tables import VECTOR_INDEX, images, index_builds
from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.policy import fit_lists, fit_setting
from searchdb.index.status import (
    BUILD_LOCK_KEY,
    MATCH_IMAGES,
    NEW_INDEX,
    OLD_INDEX,
    SETTINGS,
    IndexStatus,
    index_status,
    last_tuning,
    leftovers,
)
from searchdb.records import EMBEDDING_DIMENSION
from searchdb.search.relevance import refresh_sample

BUILD_MEMORY_MB = (160, 2048)
"""Bounds of a build's maintenance_work_mem: 32 MB for each of its processes, and what a small server can spare."""
BUILD_WORKERS = 4
"""Parallel worker processes of a build, if the server has them."""
HNSW_M = 16
"""Neighbours of each element: pgvector's default."""
HNSW_EF_CONSTRUCTION = 128
"""Candidates when an element is inserted: twice pgvector's default halves the ef_search that texts need."""
VECTOR_BYTES = 8 + 4 * EMBEDDING_DIMENSION
"""Size of one stored vector."""
MIN_SAMPLES, SAMPLES_PER_LIST = 10_000, 50
"""Rows that ivfflat's k-means samples and holds in memory (pgvector, ivfbuild.c)."""
ORPHAN_CHECK = "2s"
"""Interval at which the server process of a build checks that its client is still connected."""
CLEAN_UP_TIMEOUT = "15s"
"""Longest wait for a failed build to release its lock; after that, the next build cleans up."""
OUT_OF_SHARED_MEMORY = ("53100", "53200")
"""PostgreSQL's errors when /dev/shm is full (64 MB in containers): disk full, or out of memory."""
INSUFFICIENT_PRIVILEGE = "42501"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    method: str
    lists: int | None = None
    m: int | None = None
    ef_construction: int | None = None

    @property
    def definition(self) -> str:
        options = {"lists": self.lists, "m": self.m, "ef_construction": self.ef_construction}
        given = ", ".join(f"{name} = {int(value)}" for name, value in options.items() if value is not None)
        return f"ON images USING {self.method} (embedding vector_cosine_ops) WITH ({given})"

    def memory_mb(self, rows: int) -> float:
        """Return the memory a build needs, in MB, plus 10 % (pgvector, ivfkmeans.c and hnswbuild.c)."""
        if self.method == "hnsw":
            # an element's header, its vector, and 16 bytes for each of 2 m neighbours and those in higher layers
            return 1.1 * rows * (240 + VECTOR_BYTES + 32 * (self.m or HNSW_M)) / 2**20
        lists = self.lists or 1
        samples = max(SAMPLES_PER_LIST * lists, MIN_SAMPLES)
        # the sampled vectors, old and new centres, distances between samples and centres, and among centres
        return 1.1 * ((samples + 2 * lists) * VECTOR_BYTES + 4 * (samples + lists) * (lists + 3)) / 2**20


def build_index(
    engine: Engine,
    *,
    method: str = "ivfflat",
    lists: int | None = None,
    m: int | None = None,
    ef_construction: int | None = None,
) -> IndexStatus | None:
    """Build a new index while searches and ingest continue; return None if another process is building or tuning.

    The new index is built beside the old one and then takes its name, so that one of the two is always in use. A build
    that fails or is killed leaves at most one index behind, which the next build drops. Afterwards `match_images`
    searches with the setting of `fit_setting`, for every client.

    Args:
        method: `ivfflat` or `hnsw`.
        lists: ivfflat's lists; fitted to the rows unless given.
        m: hnsw's neighbours of each element.
        ef_construction: hnsw's candidates when an element is inserted, at least 2 m.

    Raises:
        ConfigError: a parameter does not fit the method or another parameter, or needs more memory than there is.
        DatabaseError: we do not own the tables, or PostgreSQL failed.
    """
    if method not in SETTINGS:
        raise ConfigError(f"there is no index method {method!r}, only {' and '.join(SETTINGS)}")
    if method == "ivfflat" and (m or ef_construction):
        raise ConfigError("m and ef_construction are parameters of hnsw: use method hnsw or omit them")
    if method == "hnsw" and lists:
        raise ConfigError("lists is a parameter of ivfflat: use method ivfflat or omit it")
    with _session(engine) as connection:
        other = owner(connection)
        if other is not None:
            error = DatabaseError(f"only the owner of the tables may build the index: connect as {other}")
            error.sqlstate = INSUFFICIENT_PRIVILEGE
            raise error
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(BUILD_LOCK_KEY))):
            return None
        rows = connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0
        if method == "hnsw":
            m = m or HNSW_M
            plan = _Plan(method=method, m=m, ef_construction=ef_construction or max(HNSW_EF_CONSTRUCTION, 2 * m))
        else:
            plan = _Plan(method=method, lists=lists or fit_lists(rows))
        _set_up(connection, plan, rows)
        driver = connection.connection.dbapi_connection
        try:
            _build(engine, connection, plan, rows)
        except BaseException:
            _clean_up(engine, connection, driver)
            raise
        # The server notices a closed connection only a moment later; a build right after this one would find the lock.
        connection.execute(sa.select(sa.func.pg_advisory_unlock(BUILD_LOCK_KEY)))
        return index_status(connection)


def owner(connection: Connection) -> str | None:
    """Return the role that may build and tune the index; None if our own role may."""
    row = connection.execute(
        text(
            "SELECT pg_get_userbyid(CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN p.proowner ELSE c.relowner END), "
            "pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.proowner, 'USAGE') "
            "FROM pg_class c, pg_proc p WHERE c.oid = to_regclass('images') AND p.oid = to_regprocedure(:function)"
        ),
        {"function": MATCH_IMAGES},
    ).one()
    return None if row[1] else row[0]


@contextmanager
def _session(engine: Engine) -> Generator[Connection]:
    """Yield a separate autocommit connection; its settings and its lock end with it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield connection


def _set_up(connection: Connection, plan: _Plan, rows: int) -> None:
    low, high = BUILD_MEMORY_MB
    # If the administrator allows every build more than our limit, so may this one.
    setting = "SELECT setting::bigint / 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'"
    configured = connection.scalar(text(setting))
    high = max(high, configured or 0)
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
    connection.execute(text(f"SET maintenance_work_mem = '{int(min(max(needed, low), high))}MB'"))
    connection.execute(text(f"SET max_parallel_maintenance_workers = {BUILD_WORKERS}"))
    connection.execute(text("SET statement_timeout = 0"))
    with suppress(DatabaseError):  # unsupported on some platforms: there a build outlives its killed client
        connection.execute(text(f"SET client_connection_check_interval = '{ORPHAN_CHECK}'"))


def _build(engine: Engine, connection: Connection, plan: _Plan, rows: int) -> None:
    started = time.monotonic()
    _drop_leftovers(connection)
    create = text(f"CREATE INDEX CONCURRENTLY {NEW_INDEX} {plan.definition}")
    try:
        connection.execute(create)
    except DatabaseError as exc:
        if exc.sqlstate not in OUT_OF_SHARED_MEMORY:
            raise
        logger.warning("the server is short of shared memory (%s): building in a single process instead", exc)
        _drop_leftovers(connection)
        connection.execute(text("SET max_parallel_maintenance_workers = 0"))
        connection.execute(create)
    with engine.begin() as swap:
        setting = fit_setting(plan.method, plan.lists, last_tuning(swap, plan.method))
        # Renaming blocks no query; dropping the old index here would need an exclusive lock on the table.
        swap.execute(text(f"ALTER INDEX IF EXISTS {VECTOR_INDEX} RENAME TO {OLD_INDEX}"))
        swap.execute(text(f"ALTER INDEX {NEW_INDEX} RENAME TO {VECTOR_INDEX}"))
        store_setting(swap, plan.method, setting)
        swap.execute(
            sa.insert(index_builds).values(
                method=plan.method,
                lists=plan.lists,
                m=plan.m,
                ef_construction=plan.ef_construction,
                row_count=rows,
                seconds=time.monotonic() - started,
            )
        )
    _drop_leftovers(connection)
    connection.execute(text("ANALYZE images"))
    refresh_sample(connection)


def store_setting(connection: Connection, method: str, setting: int) -> None:
    """Set the search depth for every client: it is stored with the function match_images."""
    # Loads pgvector into this session: until then its settings are unknown, and only a superuser may set unknown ones.
    connection.execute(text("SELECT CAST('[1]' AS vector)"))
    connection.execute(text(f"ALTER FUNCTION {MATCH_IMAGES} SET {SETTINGS[method]} = {int(setting)}"))


def _drop_leftovers(connection: Connection) -> None:
    for name in leftovers(connection):
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))


def _clean_up(engine: Engine, connection: Connection, driver: Any) -> None:
    """Drop what a failed build left, on its connection or, if that is lost or was interrupted, on a new one."""
    # The caller needs the build's own error; the next build drops what cannot be dropped now.
    with suppress(DatabaseError):
        if not connection.invalidated:
            _drop_leftovers(connection)
            return
        driver.close()  # SQLAlchemy discards it without closing it, which would keep the lock
        with _session(engine) as fresh:
            fresh.execute(text(f"SET lock_timeout = '{CLEAN_UP_TIMEOUT}'"))
            fresh.execute(sa.select(sa.func.pg_advisory_lock(BUILD_LOCK_KEY)))
            _drop_leftovers(fresh)
