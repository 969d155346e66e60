"""Reports the state of the vector index on `images.embedding`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.counts import RowCount, count_rows
from searchdb.db.current_model import CURRENT_MODEL_ID
from searchdb.db.tables import VECTOR_INDEX, images, index_builds, index_recalls
from searchdb.errors import SchemaError
from searchdb.index.policy import needs_rebuild, needs_tuning
from searchdb.index.records import Recall

MATCH_IMAGES = "match_images(vector, double precision, integer)"
"""The function that carries the tuned setting, for every client."""
SETTINGS = {"ivfflat": "ivfflat.probes", "hnsw": "hnsw.ef_search"}
"""PostgreSQL's name of the search depth, by method: the lists read, or the candidates kept."""
PGVECTOR_DEFAULTS = {"ivfflat": 1, "hnsw": 40}
"""pgvector's values where these settings are not set."""
MAX_EF_SEARCH = 1000
"""pgvector's upper limit."""

BUILD_LOCK_KEY = 0x1DE4B11D
"""Key of the advisory lock: one build or tuning at a time."""

NEW_INDEX = f"{VECTOR_INDEX}_new"
"""Name of the new index during a build."""
OLD_INDEX = f"{VECTOR_INDEX}_old"
"""Name of the replaced index until it is dropped."""
LEFTOVERS = rf"^{VECTOR_INDEX}_(new|old|cc(new|old)[0-9]*)$"
"""Names of indexes that a killed build leaves behind: ours, and those of a REINDEX CONCURRENTLY."""


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """A build's progress, from PostgreSQL: `done` and `total` count the phase's tuples, blocks or lockers."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """The state of the vector index, from PostgreSQL's catalog and our own records of builds and measurements.

    `method` is None when there is no index. `value_type` is `vector` or `halfvec`, of the indexed values. `chosen` says
    whether a person chose method or type, which a rebuild then keeps. `scans` counts the searches that used it since it
    was built. `rows` is an estimate unless `rows_exact`. `leftovers` names the
    indexes that a killed build left behind; they slow down writes, and the next build drops them.
    """

    method: str | None
    value_type: str | None
    chosen: bool
    lists: int | None
    m: int | None
    ef_construction: int | None
    probes: int | None
    ef_search: int | None
    valid: bool
    byte_size: int
    rows: int
    rows_exact: bool
    rows_at_build: int
    built_at: datetime | None
    scans: int
    building: BuildProgress | None
    leftovers: Sequence[str]
    tuned: Recall | None
    recalls: Sequence[Recall]

    @property
    def row_count(self) -> RowCount:
        """The number of rows with whether it is exact."""
        return RowCount(rows=self.rows, exact=self.rows_exact)

    @property
    def stale(self) -> bool:
        """Whether it needs a rebuild: the rows have outgrown it, it is missing, or it is invalid."""
        return needs_rebuild(self.rows, self.rows_at_build, method=self.method, valid=self.valid)

    @property
    def outgrown_tuning(self) -> bool:
        """Whether the rows have doubled since the index was built and tuned, although it needs no rebuild."""
        at_tuning = max(self.rows_at_build, 0 if self.tuned is None else self.tuned.row_count)
        return not self.stale and needs_tuning(self.rows, at_tuning, method=self.method)

    @property
    def setting(self) -> int:
        """The search depth: ivfflat's probes, or hnsw's ef_search."""
        stored = self.ef_search if self.method == "hnsw" else self.probes
        return stored or PGVECTOR_DEFAULTS[self.method or "ivfflat"]

    @property
    def tuned_since_build(self) -> bool:
        """Whether the setting comes from a tuning of this build."""
        tuned = self.tuned
        if tuned is None or tuned.measured_at is None or tuned.setting != self.setting:
            return False
        return self.built_at is None or tuned.measured_at >= self.built_at

    def recall_of(self, kind: str) -> float | None:
        """Return the recall last measured with a kind of query, `text` or `pictures`; None if it never was."""
        return next((recall.recall for recall in self.recalls if recall.kind == kind), None)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except that dates stay `datetime`."""
        return {
            **asdict(self),
            "stale": self.stale,
            "tuned_since_build": self.tuned_since_build,
            "recall": {kind: self.recall_of(kind) for kind in ("text", "pictures")},
        }


def missing(name: str) -> SchemaError:
    """Return the error for an object that the schema lacks."""
    return SchemaError(f"the database lacks {name}: run `searchdb db repair` as the owner of the database")


def index_status(connection: Connection) -> IndexStatus:
    """Return the state of the index.

    Raises:
        SchemaError: there is no match_images, with which the tuned setting is stored.
    """
    row = connection.execute(
        text(
            "SELECT am.amname, i.indisvalid, pg_relation_size(c.oid) AS byte_size, c.reloptions, s.idx_scan AS scans, "
            "i.indexprs IS NOT NULL AS half, p.proconfig FROM pg_proc p "
            # of our table: the extension's schema may have another collection's index of this name
            "LEFT JOIN pg_index i ON i.indexrelid = to_regclass(:name) AND i.indrelid = to_regclass('images') "
            "LEFT JOIN pg_class c ON c.oid = i.indexrelid LEFT JOIN pg_am am ON am.oid = c.relam "
            "LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid WHERE p.oid = to_regprocedure(:function)"
        ),
        {"name": VECTOR_INDEX, "function": MATCH_IMAGES},
    ).one_or_none()
    if row is None:
        raise missing(MATCH_IMAGES)
    hnsw = row.amname == "hnsw"
    latest = sa.select(index_builds).where(_of_current_model(index_builds)).order_by(index_builds.c.id.desc()).limit(1)
    last: Mapping[str, Any] = dict(connection.execute(latest).mappings().one_or_none() or {})
    building = build_progress(connection)
    rows = count_rows(connection, images)
    return IndexStatus(
        method=row.amname,
        value_type=None if row.amname is None else "halfvec" if row.half else "vector",
        chosen=last.get("chosen", False),
        lists=_option(row.reloptions, "lists"),
        # pgvector's defaults, for an index that was created by hand
        m=_option(row.reloptions, "m") or (16 if hnsw else None),
        ef_construction=_option(row.reloptions, "ef_construction") or (64 if hnsw else None),
        probes=_option(row.proconfig, "ivfflat.probes"),
        ef_search=_option(row.proconfig, "hnsw.ef_search"),
        valid=bool(row.indisvalid),
        byte_size=row.byte_size or 0,
        rows=rows.rows,
        rows_exact=rows.exact,
        rows_at_build=last.get("row_count", 0),
        built_at=last.get("built_at"),
        scans=row.scans or 0,
        building=building,
        leftovers=() if building else tuple(leftovers(connection)),
        tuned=last_tuning(connection, row.amname),
        recalls=tuple(_last_recalls(connection)),
    )


def build_progress(connection: Connection) -> BuildProgress | None:
    """Return the progress of a build that another connection runs; None if there is none."""
    row = connection.execute(
        text(
            "SELECT p.phase, p.tuples_done, p.tuples_total, p.blocks_done, p.blocks_total, p.lockers_done, "
            "p.lockers_total FROM pg_stat_progress_create_index p JOIN pg_class c ON c.oid = p.index_relid "
            "WHERE p.relid = to_regclass('images') AND (c.relname = :name OR c.relname ~ :leftovers) LIMIT 1"
        ),
        {"name": VECTOR_INDEX, "leftovers": LEFTOVERS},
    ).one_or_none()
    if row is not None:
        phase = (row.phase or "building").removeprefix("building index: ")
        for unit in ("tuples", "blocks", "lockers"):
            done, total = getattr(row, f"{unit}_done") or 0, getattr(row, f"{unit}_total") or 0
            if total:
                return BuildProgress(phase=phase, done=min(done, total), total=total)
        return BuildProgress(phase=phase, done=0, total=0)
    held = text(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = :key "
        "AND objsubid = 1 AND granted AND pid <> pg_backend_pid() "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    locked = connection.scalar(held, {"key": BUILD_LOCK_KEY})
    return BuildProgress(phase="at work", done=0, total=0) if locked else None


def leftovers(connection: Connection) -> Sequence[str]:
    """Return the names of indexes that a killed build left behind, or that a running build uses."""
    return connection.scalars(
        text(
            "SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid "
            "WHERE i.indrelid = to_regclass('images') AND c.relname ~ :leftovers ORDER BY c.relname"
        ),
        {"leftovers": LEFTOVERS},
    ).all()


def last_tuning(connection: Connection, method: str | None) -> Recall | None:
    """Return the last tuning of a method, on texts if there were any; None if it was never tuned."""
    tuned = (
        sa.select(index_recalls)
        .where(index_recalls.c.target.is_not(None), index_recalls.c.method == method, _of_current_model(index_recalls))
        .order_by(index_recalls.c.measured_at.desc(), index_recalls.c.kind == "pictures")
    )
    row = connection.execute(tuned.limit(1)).mappings().one_or_none()
    return None if row is None else Recall.from_row(row)


def _last_recalls(connection: Connection) -> list[Recall]:
    """Return the last measurement of each kind of query."""
    last = (
        sa.select(sa.func.max(index_recalls.c.id))
        .where(_of_current_model(index_recalls))
        .group_by(index_recalls.c.kind)
    )
    rows = sa.select(index_recalls).where(index_recalls.c.id.in_(last)).order_by(index_recalls.c.kind.desc())
    return [Recall.from_row(row) for row in connection.execute(rows).mappings()]


def _of_current_model(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return the condition on a history that leaves out other models; an index may be older than the first model."""
    return sa.func.coalesce(table.c.embedding_model_id, CURRENT_MODEL_ID).is_not_distinct_from(CURRENT_MODEL_ID)


def _option(options: list[str] | None, name: str) -> int | None:
    values = dict(option.split("=", 1) for option in options or [])
    return int(values[name]) if name in values else None
