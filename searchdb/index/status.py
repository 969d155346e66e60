"""The state of the vector index on `images.embedding`, and what can be decided from it without touching it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.tables import VECTOR_INDEX, images, index_builds, index_recalls

MATCH_IMAGES = "match_images(vector, double precision, integer)"
"""The function that carries what searches are tuned with."""
SETTINGS = {"ivfflat": "ivfflat.probes", "hnsw": "hnsw.ef_search"}
"""How far a search goes, by method: how many lists it reads, or how many candidates it keeps."""
PGVECTOR_DEFAULTS = {"ivfflat": 1, "hnsw": 40}
"""What pgvector takes for these where nobody has set them."""
MAX_EF_SEARCH = 1000
"""pgvector's bound."""

EXACT_ROWS = 1000
"""Below this an exact scan (about a millisecond) is as fast as any index: one list, which holds every row."""
MAX_FITTED_LISTS = 3000
"""k-means takes 200 bytes times the square of the lists, or it fails: with these the 2 GB that a build may have."""
MIN_PROBES = 40
"""Lists searched at the least: a few thousand rows, a few milliseconds; up to 1,600 rows that is all of them."""
EF_SEARCH = 100
"""hnsw's candidates until it is tuned; with pgvector's 40, text vectors missed 2 to 10 % of their neighbours."""
BUILD_LOCK_KEY = 0x1DE4B11D
"""Key of the advisory lock that keeps two builds apart, and a build and a tuning."""

NEW_INDEX = f"{VECTOR_INDEX}_new"
"""Name of the index while it is built."""
OLD_INDEX = f"{VECTOR_INDEX}_old"
"""Name of the index that was replaced, until it is dropped."""
LEFTOVERS = rf"^{VECTOR_INDEX}_(new|old|cc(new|old)[0-9]*)$"
"""Names of what a killed build leaves behind: ours, and those of a REINDEX CONCURRENTLY."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """match_images compared with an exact scan, on one kind of queries: `text` or (stored) `pictures`.

    `setting` is ivfflat's probes or hnsw's ef_search; `target` the recall that it was tuned to, None if it was only
    measured. A hit is right if it is at least as similar as the last of the exact scan's `match_count`.
    """

    kind: str
    method: str
    lists: int | None
    setting: int
    row_count: int
    queries: int
    match_count: int
    recall: float
    p50_ms: float
    p95_ms: float
    exact_p50_ms: float
    exact_p95_ms: float
    target: float | None = None
    measured_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """Make one of a row of `index_recalls`."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def speedup(self) -> float:
        """How many times as fast as the exact scan, by the medians."""
        return self.exact_p50_ms / self.p50_ms

    def in_words(self) -> str:
        """Return it as one line for people."""
        depth = depth_in_words(self.method, self.setting, self.lists)
        return (
            f"recall@{self.match_count} {self.recall:.3f} with {depth}, "
            f"p50 {self.p50_ms:.2f} ms, p95 {self.p95_ms:.2f} ms; exact scan p50 {self.exact_p50_ms:.2f} ms, "
            f"p95 {self.exact_p95_ms:.2f} ms: {self.speedup:.1f} times as fast ({self.queries:,} queries)"
        )


@dataclass(frozen=True, kw_only=True)
class BuildProgress:
    """How far a build is, as PostgreSQL tells it. `done` and `total` are of the phase, in tuples, blocks or lockers."""

    phase: str
    done: int
    total: int

    def in_words(self) -> str:
        """Return it as a few words."""
        return f"{self.phase}, {self.done / self.total:.0%}" if self.total else self.phase


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """The vector index as PostgreSQL and our own record of builds and measurements describe it.

    `method` is None when there is no index. `scans` counts the searches that used it since it was built. `leftovers`
    are names of indexes that a killed build left; they slow writing, and the next build drops them.
    """

    method: str | None
    lists: int | None
    m: int | None
    ef_construction: int | None
    probes: int | None
    ef_search: int | None
    valid: bool
    byte_size: int
    rows: int
    rows_at_build: int
    built_at: datetime | None
    scans: int
    building: BuildProgress | None
    leftovers: Sequence[str]
    tuned: Recall | None
    recalls: Sequence[Recall]

    @property
    def stale(self) -> bool:
        """Whether it needs a rebuild: the rows have outgrown it, or it cannot be used."""
        return needs_rebuild(self.rows, self.rows_at_build, method=self.method, valid=self.valid)

    @property
    def setting(self) -> int:
        """How far a search goes: ivfflat's probes, or hnsw's ef_search."""
        stored = self.ef_search if self.method == "hnsw" else self.probes
        return stored or PGVECTOR_DEFAULTS[self.method or "ivfflat"]

    @property
    def tuned_since_build(self) -> bool:
        """Whether the setting is the one that was tuned, on the index as it is."""
        tuned = self.tuned
        if tuned is None or tuned.measured_at is None or tuned.setting != self.setting:
            return False
        return self.built_at is None or tuned.measured_at >= self.built_at

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, but for dates."""
        return {**asdict(self), "stale": self.stale, "tuned_since_build": self.tuned_since_build}

    def in_words(self) -> str:
        """Return it as one line for people."""
        method = "" if self.method in (None, "ivfflat") else f" --method {self.method}"
        advice = f"run `searchdb index build{method}`"
        if self.method is None:
            return f"none, every search reads all {self.rows:,} rows: {advice}"
        built = f"built at {self.rows_at_build:,} rows" if self.built_at else "never built since the schema was made"
        state = f"INVALID: {advice}" if not self.valid else f"stale: {advice}" if self.stale else "fits"
        return f"{self.method}, {self._parameters()}; {self.rows:,} rows now, {built}: {state}"

    def in_detail(self) -> list[tuple[str, str]]:
        """Return names and values for people, beyond `in_words`."""
        details = [
            ("built", f"{self.built_at:%Y-%m-%d %H:%M}" if self.built_at else "with the schema"),
            ("size", f"{self.byte_size / 2**20:,.1f} MB"),
            ("used", f"{self.scans:,} times since then"),
            ("tuned", self._tuning()),
        ]
        for recall in self.recalls:
            old = self.built_at and recall.measured_at and recall.measured_at < self.built_at
            when = f" on {recall.measured_at:%Y-%m-%d}, at {recall.row_count:,} rows" if recall.measured_at else ""
            details.append((recall.kind, f"{recall.in_words()}{when}{', before the last build' if old else ''}"))
        if not self.recalls:
            details.append(("recall", "never measured: run `searchdb index recall`"))
        if self.building is not None:
            details.append(("building", self.building.in_words()))
        details += [
            ("leftover", f"{name}, of a build that was killed: it slows writing, and the next build drops it")
            for name in self.leftovers
        ]
        return details

    def _parameters(self) -> str:
        if self.method == "hnsw":
            return f"m {self.m}, ef_construction {self.ef_construction}, ef_search {self.setting}"
        exact = self.lists == 1
        return "one list: every search is exact" if exact else f"{self.lists} lists, {self.setting} probed"

    def _tuning(self) -> str:
        if self.lists == 1:
            return "not needed: every search is exact"
        if self.tuned is None or self.tuned.measured_at is None:
            return "not tuned: run `searchdb index tune`"
        told = f"to recall {self.tuned.target} on {self.tuned.measured_at:%Y-%m-%d}, at {self.tuned.row_count:,} rows"
        if self.tuned_since_build:
            return told
        if self.built_at is not None and self.tuned.measured_at < self.built_at:
            return f"{told}; not since the last build, which kept the share: run `searchdb index tune`"
        return f"{told}; changed by hand since, from {self.tuned.setting} to {self.setting}"


def depth_in_words(method: str | None, setting: int, lists: int | None) -> str:
    """Return how far a search goes, such as `4 of 158 lists` or `ef_search 80`."""
    if method not in SETTINGS:
        return "no index"
    return f"ef_search {setting}" if method == "hnsw" else f"{min(setting, lists or 1)} of {lists} lists"


def fit_lists(rows: int) -> int:
    """Return the number of ivfflat lists for so many rows: about the square root, a thousandth for the very many."""
    return 1 if rows < EXACT_ROWS else min(max(math.isqrt(rows), rows // 1000), MAX_FITTED_LISTS)


def fit_probes(lists: int) -> int:
    """Return the number of lists to search until it is tuned on real queries: rather too many than too few.

    pgvector's manual suggests the square root of the lists, for queries like the rows. CLIP's texts lie off the
    pictures' manifold and their neighbours in more lists: two and a half times that, and never under MIN_PROBES.
    """
    return min(lists, max(MIN_PROBES, math.ceil(2.5 * math.sqrt(lists))))


def fit_setting(method: str, lists: int | None, tuned: Recall | None) -> int:
    """Return the probes or ef_search of an index just built: the share of lists that was tuned, else the default.

    The same share of the lists reads the same share of the pictures, so that recall stays at least about what it was
    tuned to while lists and rows grow. What was tuned on one list says nothing about many.
    """
    if method == "hnsw":
        return EF_SEARCH if tuned is None else tuned.setting
    lists = lists or 1
    if tuned is None or tuned.lists in (None, 1):
        return fit_probes(lists)
    return min(lists, math.ceil(lists * tuned.setting / tuned.lists))


def needs_rebuild(rows: int, rows_at_build: int, *, method: str | None = "ivfflat", valid: bool = True) -> bool:
    """Whether to rebuild: the index has learnt from less than half of its rows, or cannot be used, and that matters.

    It matters from EXACT_ROWS on. hnsw learns with each row, and is never outgrown.
    """
    if rows < EXACT_ROWS:
        return False
    return method is None or not valid or (method == "ivfflat" and rows >= 2 * rows_at_build)


def index_status(connection: Connection) -> IndexStatus:
    """Return the state of the index."""
    row = connection.execute(
        text(
            "SELECT am.amname, i.indisvalid, pg_relation_size(c.oid) AS byte_size, c.reloptions, s.idx_scan AS scans, "
            "p.proconfig FROM pg_proc p "
            "LEFT JOIN pg_class c ON c.oid = to_regclass(:name) "
            "LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_am am ON am.oid = c.relam "
            "LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = c.oid WHERE p.oid = to_regprocedure(:function)"
        ),
        {"name": VECTOR_INDEX, "function": MATCH_IMAGES},
    ).one()
    hnsw = row.amname == "hnsw"
    latest = sa.select(index_builds).order_by(index_builds.c.id.desc()).limit(1)
    last = connection.execute(latest).mappings().one_or_none() or {}
    building = build_progress(connection)
    return IndexStatus(
        method=row.amname,
        lists=_option(row.reloptions, "lists"),
        # pgvector's defaults, for an index that somebody made by hand
        m=_option(row.reloptions, "m") or (16 if hnsw else None),
        ef_construction=_option(row.reloptions, "ef_construction") or (64 if hnsw else None),
        probes=_option(row.proconfig, "ivfflat.probes"),
        ef_search=_option(row.proconfig, "hnsw.ef_search"),
        valid=bool(row.indisvalid),
        byte_size=row.byte_size or 0,
        rows=connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0,
        rows_at_build=last.get("row_count", 0),
        built_at=last.get("built_at"),
        scans=row.scans or 0,
        building=building,
        leftovers=() if building else tuple(leftovers(connection)),
        tuned=last_tuning(connection, row.amname),
        recalls=tuple(_last_recalls(connection)),
    )


def build_progress(connection: Connection) -> BuildProgress | None:
    """Return how far the build is that another connection runs; None when there is none."""
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
    between = connection.scalar(held, {"key": BUILD_LOCK_KEY})
    return BuildProgress(phase="at work", done=0, total=0) if between else None


def leftovers(connection: Connection) -> Sequence[str]:
    """Return the names of indexes that a killed build left behind, or one that goes on is about to replace."""
    return connection.scalars(
        text(
            "SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid "
            "WHERE i.indrelid = to_regclass('images') AND c.relname ~ :leftovers ORDER BY c.relname"
        ),
        {"leftovers": LEFTOVERS},
    ).all()


def last_tuning(connection: Connection, method: str | None) -> Recall | None:
    """Return the last tuning of a method, as measured on text if there was any; None if it was never tuned."""
    tuned = (
        sa.select(index_recalls)
        .where(index_recalls.c.target.is_not(None), index_recalls.c.method == method)
        .order_by(index_recalls.c.measured_at.desc(), index_recalls.c.kind == "pictures")
    )
    row = connection.execute(tuned.limit(1)).mappings().one_or_none()
    return None if row is None else Recall.from_row(row)


def _last_recalls(connection: Connection) -> list[Recall]:
    """Return what was measured last, for each kind of queries."""
    last = sa.select(sa.func.max(index_recalls.c.id)).group_by(index_recalls.c.kind)
    rows = sa.select(index_recalls).where(index_recalls.c.id.in_(last)).order_by(index_recalls.c.kind.desc())
    return [Recall.from_row(row) for row in connection.execute(rows).mappings()]


def _option(options: list[str] | None, name: str) -> int | None:
    values = dict(option.split("=", 1) for option in options or [])
    return int(values[name]) if name in values else None
