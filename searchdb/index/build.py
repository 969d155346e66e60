"""The vector index on `images.embedding`: builds it beside the one in use, puts it in that one's place, and in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.db.tables import VECTOR_INDEX, images, index_builds
from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.status import (
    BUILD_LOCK_KEY,
    MATCH_IMAGES,
    NEW_INDEX,
    OLD_INDEX,
    SETTINGS,
    IndexStatus,
    fit_lists,
    fit_setting,
    index_status,
    last_tuning,
    leftovers,
)
from searchdb.records import EMBEDDING_DIMENSION
from searchdb.search.relevance import refresh_sample

__all__ = ["IndexStatus", "build_index", "index_status", "owner", "rebuild_if_stale"]

BUILD_MEMORY_MB = (160, 2048)
"""Bounds of maintenance_work_mem for a build: 32 MB each for its processes, and what a small server can spare."""
BUILD_WORKERS = 4
"""Processes that help with a build, if the server has them."""
HNSW_M = 16
"""Neighbours of each element, pgvector's default."""
HNSW_EF_CONSTRUCTION = 128
"""Candidates when an element is put in, twice pgvector's: texts then need half the ef_search for the same recall."""
VECTOR_BYTES = 8 + 4 * EMBEDDING_DIMENSION
"""Of one stored vector."""
MIN_SAMPLES, SAMPLES_PER_LIST = 10_000, 50
"""Rows that ivfflat's k-means samples and keeps in memory (pgvector, ivfbuild.c)."""
ORPHAN_CHECK = "2s"
"""Between two looks of a building server process whether its client still lives."""
CLEAN_UP_TIMEOUT = "15s"
"""Longest wait for the build that broke off to let go, before what it left is left to the next build."""
OUT_OF_SHARED_MEMORY = ("53100", "53200")
"""What PostgreSQL says when /dev/shm is full, as in containers, where it has 64 MB: disk full, or out of memory."""
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
        """Return what the build keeps in memory, with a tenth to spare (pgvector, ivfkmeans.c and hnswbuild.c)."""
        if self.method == "hnsw":
            # an element's head, its vector, and 16 bytes for each of 2 m neighbours, and of those in higher layers
            return 1.1 * rows * (240 + VECTOR_BYTES + 32 * (self.m or HNSW_M)) / 2**20
        lists = self.lists or 1
        samples = max(SAMPLES_PER_LIST * lists, MIN_SAMPLES)
        # the sampled vectors, old and new centres, distances between samples and centres, and among centres
        return 1.1 * ((samples + 2 * lists) * VECTOR_BYTES + 4 * (samples + lists) * (lists + 3)) / 2**20


def rebuild_if_stale(engine: Engine) -> bool:
    """Rebuild the index when the rows have outgrown it; return whether it was rebuilt here."""
    with engine.connect() as connection:
        state = index_status(connection)
        if not state.stale:
            return False
        other = owner(connection)
    if other is not None:
        logger.warning("the vector index is stale: run `searchdb index build` as %s, who owns it", other)
        return False
    return build_index(engine, method=state.method or "ivfflat") is not None


def build_index(
    engine: Engine,
    *,
    method: str = "ivfflat",
    lists: int | None = None,
    m: int | None = None,
    ef_construction: int | None = None,
) -> IndexStatus | None:
    """Build the index anew, while searches and ingest go on; None if another process is doing so.

    The new index is built beside the old one and then takes its name, so that whatever happens one of the two is in
    use. A build that fails, or is killed, leaves at most an index that the next build drops. Afterwards `match_images`
    searches as deep as `fit_setting` says, in every client.

    Args:
        method: `ivfflat` or `hnsw`.
        lists: of ivfflat; fitted to the rows unless given.
        m: neighbours of each element of hnsw.
        ef_construction: candidates when an element is put in, at least 2 m.

    Raises:
        ConfigError: a parameter does not go with the method or with another, or takes more memory than there is.
        DatabaseError: we may not, because we do not own the tables; or PostgreSQL failed.
    """
    if method not in SETTINGS:
        raise ConfigError(f"there is no index method {method!r}, only {' and '.join(SETTINGS)}")
    if method == "ivfflat" and (m or ef_construction):
        raise ConfigError("m and ef_construction are parameters of hnsw: build with method hnsw, or leave them out")
    if method == "hnsw" and lists:
        raise ConfigError("lists are a parameter of ivfflat: build with method ivfflat, or leave them out")
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
        # The server notices a closed connection a moment later, and a build that follows at once would find the lock.
        connection.execute(sa.select(sa.func.pg_advisory_unlock(BUILD_LOCK_KEY)))
        return index_status(connection)


def owner(connection: Connection) -> str | None:
    """Return the role that may build and tune the index, None if we may do so ourselves."""
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
def _session(engine: Engine) -> Iterator[Connection]:
    """Yield a connection of its own, outside transactions; its settings and its lock end with it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()
        yield connection


def _set_up(connection: Connection, plan: _Plan, rows: int) -> None:
    low, high = BUILD_MEMORY_MB
    # What its administrator gives every build anyway, the server can spare.
    own = connection.scalar(text("SELECT setting::bigint / 1024 FROM pg_settings WHERE name = 'maintenance_work_mem'"))
    high = max(high, own or 0)
    needed = plan.memory_mb(rows)
    if needed > high and plan.method == "ivfflat":
        raise ConfigError(
            f"an index with {plan.lists:,} lists takes {needed:,.0f} MB of memory to build, more than {high:,} MB: "
            "give fewer lists, or the server a larger maintenance_work_mem"
        )
    if needed > high:
        logger.warning(
            "the graph takes about %s MB, more than %s MB: the build will be slow; raise the server's "
            "maintenance_work_mem to speed it up",
            f"{needed:,.0f}",
            f"{high:,}",
        )
    connection.execute(text(f"SET maintenance_work_mem = '{int(min(max(needed, low), high))}MB'"))
    connection.execute(text(f"SET max_parallel_maintenance_workers = {BUILD_WORKERS}"))
    connection.execute(text("SET statement_timeout = 0"))
    with suppress(DatabaseError):  # some platforms cannot look; there a build outlives its killed client
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
        logger.warning("the server is short of shared memory (%s): building again in a single process", exc)
        _drop_leftovers(connection)
        connection.execute(text("SET max_parallel_maintenance_workers = 0"))
        connection.execute(create)
    with engine.begin() as swap:
        setting = fit_setting(plan.method, plan.lists, last_tuning(swap, plan.method))
        # Renaming keeps nobody waiting; dropping the old one here would need the table to itself.
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
    """Make every search go so deep, in every client: the setting travels with match_images."""
    # Loads pgvector into this session, without which its settings are unknown, and those are the superuser's to set.
    connection.execute(text("SELECT CAST('[1]' AS vector)"))
    connection.execute(text(f"ALTER FUNCTION {MATCH_IMAGES} SET {SETTINGS[method]} = {int(setting)}"))


def _drop_leftovers(connection: Connection) -> None:
    for name in leftovers(connection):
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))


def _clean_up(engine: Engine, connection: Connection, driver: Any) -> None:
    """Drop what a failed build left, on its own connection or, if that is lost or was interrupted, on a new one."""
    # What matters is how the build failed; what cannot be dropped now, the next build drops.
    with suppress(DatabaseError):
        if not connection.invalidated:
            _drop_leftovers(connection)
            return
        driver.close()  # SQLAlchemy gives it up without closing it, and the lock would stay
        with _session(engine) as fresh:
            fresh.execute(text(f"SET lock_timeout = '{CLEAN_UP_TIMEOUT}'"))
            fresh.execute(sa.select(sa.func.pg_advisory_lock(BUILD_LOCK_KEY)))
            _drop_leftovers(fresh)
