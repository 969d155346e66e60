"""The vector index on `images.embedding`: how it is fitted to the rows, when it is rebuilt, and in what state it is."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text

from searchdb.tables import VECTOR_INDEX, images, index_builds

EXACT_ROWS = 1000
"""Below this an exact scan (about a millisecond) is as fast as any index: one list, which holds every row."""
MIN_PROBES = 40
"""Lists searched at the least: a few thousand rows, a few milliseconds; up to 1,600 rows that is all of them."""
BUILD_LOCK_KEY = 0x1DE4B11D
"""Key of the advisory lock that keeps two builds apart."""
BUILD_MEMORY_MB = (64, 2048)
"""Bounds of maintenance_work_mem for a build: PostgreSQL's default, and what a small server can spare."""
SAMPLES_PER_LIST = 50
"""Rows per list that ivfflat's k-means samples and keeps in memory (pgvector, ivfbuild.c)."""


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """The vector index as PostgreSQL and our own record of builds describe it."""

    method: str
    lists: int | None
    probes: int | None
    valid: bool
    byte_size: int
    rows: int
    rows_at_build: int
    built_at: datetime | None
    scans: int

    @property
    def stale(self) -> bool:
        """Whether the rows have outgrown it."""
        return needs_rebuild(self.rows, self.rows_at_build)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, but for the date."""
        return {**asdict(self), "stale": self.stale}

    def in_words(self) -> str:
        """Return it as one line for people."""
        exact = self.lists == 1
        parameters = "one list: every search is exact" if exact else f"{self.lists} lists, {self.probes} probed"
        built = f"built at {self.rows_at_build:,} rows" if self.built_at else "never built since the schema was made"
        state = "stale: run `searchdb index build`" if self.stale else "fits"
        invalid = "" if self.valid else "; INVALID: run `searchdb index build`"
        return f"{self.method}, {parameters}; {self.rows:,} rows now, {built}: {state}{invalid}"


def fit_lists(rows: int) -> int:
    """Return the number of ivfflat lists for so many rows: about the square root, a thousandth for the very many."""
    return 1 if rows < EXACT_ROWS else max(math.isqrt(rows), rows // 1000)


def fit_probes(lists: int) -> int:
    """Return the number of lists to search until it is tuned on real queries: rather too many than too few.

    pgvector's manual suggests the square root of the lists, for queries like the rows. CLIP's texts lie off the
    pictures' manifold and their neighbours in more lists: two and a half times that, and never under MIN_PROBES.
    """
    return min(lists, max(MIN_PROBES, math.ceil(2.5 * math.sqrt(lists))))


def needs_rebuild(rows: int, rows_at_build: int) -> bool:
    """Whether the index has learnt from less than half of what it holds, and is large enough for that to matter."""
    return rows >= EXACT_ROWS and rows >= 2 * rows_at_build


def rebuild_if_stale(engine: Engine) -> bool:
    """Rebuild the index when the rows have outgrown it; return whether it was rebuilt here."""
    with engine.connect() as connection:
        if not needs_rebuild(_count_rows(connection), _last_build(connection).get("row_count", 0)):
            return False
    return build(engine) is not None


def build(engine: Engine, *, lists: int | None = None) -> IndexStatus | None:
    """Rebuild the index, fitted to the rows, while searches and ingest go on; None if another process is doing so.

    Afterwards `match_images` probes as many lists as `fit_probes` says, in every client.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(BUILD_LOCK_KEY))):
            return None
        try:
            _build(connection, lists)
            return status(connection)
        finally:
            connection.execute(text("RESET maintenance_work_mem"))
            connection.execute(sa.select(sa.func.pg_advisory_unlock(BUILD_LOCK_KEY)))


def _build(connection: Connection, lists: int | None) -> None:
    started = time.monotonic()
    _drop_leftovers(connection)
    rows = _count_rows(connection)
    lists = lists or fit_lists(rows)
    needed = lists * (SAMPLES_PER_LIST + 3) * 2056 * 1.2 / 2**20
    low, high = BUILD_MEMORY_MB
    connection.execute(text(f"SET maintenance_work_mem = '{int(min(max(needed, low), high))}MB'"))
    connection.execute(text(f"ALTER INDEX {VECTOR_INDEX} SET (lists = {int(lists)})"))
    connection.execute(text(f"REINDEX INDEX CONCURRENTLY {VECTOR_INDEX}"))
    connection.execute(
        text(
            "ALTER FUNCTION match_images(vector, double precision, integer) "
            f"SET ivfflat.probes = {fit_probes(int(lists))}"
        )
    )
    connection.execute(text("ANALYZE images"))
    connection.execute(
        sa.insert(index_builds).values(
            method="ivfflat", lists=lists, row_count=rows, seconds=time.monotonic() - started
        )
    )


def status(connection: Connection) -> IndexStatus:
    """Return the state of the index."""
    row = connection.execute(
        text(
            "SELECT am.amname, i.indisvalid, pg_relation_size(c.oid) AS byte_size, c.reloptions, "
            "coalesce(s.idx_scan, 0) AS scans, "
            "(SELECT p.proconfig FROM pg_proc p WHERE p.proname = 'match_images' LIMIT 1) AS proconfig "
            "FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am am ON am.oid = c.relam "
            "LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid WHERE c.oid = to_regclass(:name)"
        ),
        {"name": VECTOR_INDEX},
    ).one()
    last = _last_build(connection)
    return IndexStatus(
        method=row.amname,
        lists=_option(row.reloptions, "lists"),
        probes=_option(row.proconfig, "ivfflat.probes"),
        valid=row.indisvalid,
        byte_size=row.byte_size,
        rows=_count_rows(connection),
        rows_at_build=last.get("row_count", 0),
        built_at=last.get("built_at"),
        scans=row.scans,
    )


def _count_rows(connection: Connection) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0


def _last_build(connection: Connection) -> Mapping[Any, Any]:
    statement = sa.select(index_builds).order_by(index_builds.c.id.desc()).limit(1)
    return connection.execute(statement).mappings().one_or_none() or {}


def _drop_leftovers(connection: Connection) -> None:
    """Drop the invalid copies that a killed REINDEX CONCURRENTLY leaves behind."""
    names = connection.scalars(
        text("SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE NOT i.indisvalid")
    ).all()
    for name in names:
        if re.fullmatch(rf"{VECTOR_INDEX}_cc(new|old)\d*", name):
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {name}"))


def _option(options: list[str] | None, name: str) -> int | None:
    values = dict(option.split("=", 1) for option in options or [])
    return int(values[name]) if name in values else None
