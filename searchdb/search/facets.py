"""Counts the values that the collection can be filtered by: all of few images, or a sample of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.counts import count_rows
from searchdb.db.samples import block_sample
from searchdb.db.tables import images
from searchdb.search.conditions import ORIENTATION_SIGNS, shape_sign
from searchdb.search.filters import Filters

FACET_ROWS = 30_000
"""A collection of up to this number of images is counted completely: it takes a tenth of a second, and covers all of
the Unsplash Lite dataset."""
MATCHING_ROWS, MATCHING_SHARE = 5_000, 0.02
"""In a larger collection, up to this number of images that meet the filters are counted completely, or up to this share
of the collection (but FACET_ROWS at most)."""
SAMPLED_ROWS, SAMPLED_TO_FILTER = 10_000, 5_000
"""Otherwise a sample of the collection of about this many images is counted, with filters of fewer: the words of each
are compared, which takes 10 microseconds. Of these at least 100 meet the filters, up to 1.5 million images."""
FACET_VALUES = 20
"""Values of one filter that are listed by default."""
FOLDER_LEVELS = 12
"""Levels of folders that are counted: few people nest deeper, and each level multiplies what is counted."""

# Without this the planner may read the table from its start until enough rows meet the filters, and compare the words
# of each; the filters' indexes find them sooner. See ranking.py on jit.
_USE_INDEXES = text(
    "SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true), "
    "set_config('work_mem', '32MB', true)"
)


@dataclass(frozen=True, kw_only=True)
class Facet:
    """One value of a filter, and the number of images that have it."""

    value: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The most common values of each filter, the most common first.

    The names are those of `Filters`. Countries, cities and cameras that differ only in case are counted as one, because
    the filters ignore case, too. As their filters do, a folder counts what is below it, and a rating what has more
    stars. Unless `complete`, a random sample was counted, and all counts are estimates.

    Attributes:
        total: images that meet the filters.
        counted: images that were counted: all of these, or those of the sample.
    """

    source: Sequence[Facet]
    country: Sequence[Facet]
    city: Sequence[Facet]
    camera: Sequence[Facet]
    tag: Sequence[Facet]
    orientation: Sequence[Facet]
    folder: Sequence[Facet]
    rating: Sequence[Facet]
    total: int
    counted: int
    complete: bool


NO_FACETS = Facets(
    source=(), country=(), city=(), camera=(), tag=(), orientation=(), folder=(), rating=(),
    total=0, counted=0, complete=True,
)  # fmt: skip
"""The values of an empty collection."""


def facets(connection: Connection, filters: Filters | None = None, *, limit: int = FACET_VALUES) -> Facets:
    """Count the values among the images that meet all the filters.

    Takes about as long for a million images as for FACET_ROWS.
    """
    stored = count_rows(connection, images)
    condition = filters.condition() if filters else None
    if stored.rows <= FACET_ROWS:
        return _count(connection, condition, limit)
    if condition is not None:
        connection.execute(_USE_INDEXES)
        most = min(max(MATCHING_ROWS, int(MATCHING_SHARE * stored.rows)), FACET_ROWS)
        some = sa.select(images.c.id).where(condition).limit(most + 1).subquery()
        if (connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= most:
            return _count(connection, condition, limit)
    share = min((SAMPLED_ROWS if condition is None else SAMPLED_TO_FILTER) / stored.rows, 1.0)
    return _count(connection, condition, limit, share=share)


def _count(
    connection: Connection, condition: sa.ColumnElement[bool] | None, limit: int, *, share: float = 1.0
) -> Facets:
    """Count the values of the images that meet a condition, in a share of the collection."""
    names = sa.case(
        {sign: sa.literal(name) for name, sign in ORIENTATION_SIGNS.items()}, value=sa.cast(shape_sign, sa.Integer)
    )
    c = images.c
    rows = sa.select(c.source, c.country, c.city, c.camera, c.tags, c.folder, c.rating, names.label("orientation"))
    if condition is not None:
        rows = rows.where(condition)
    if share < 1:
        rows = rows.where(_sampled(share))
    found = rows.cte("found")
    tag = sa.select(sa.func.unnest(found.c.tags).label("value")).subquery("tag")
    columns = {
        **{name: found.c[name] for name in ("source", "orientation", "country", "city", "camera")},
        "tag": tag.c.value,
    }
    parts: list[Select[Any, Any, Any]] = [
        sa.select(sa.literal("images"), sa.cast(sa.null(), sa.Text), sa.func.count()).select_from(found)
    ]
    for name, column in columns.items():
        key = sa.func.lower(column) if name in ("country", "city", "camera") else column
        commonest = (
            sa.select(
                sa.literal(name).label("name"), sa.func.max(column).label("value"), sa.func.count().label("count")
            )
            .where(column.is_not(None))
            .group_by(key)
            .order_by(sa.func.count().desc(), sa.func.max(column))
            .limit(limit)
            .subquery()
        )
        parts.append(sa.select(commonest))
    parts += (_folders(found, limit), _ratings(found))
    values: dict[str, list[Facet]] = {name: [] for name in (*columns, "folder", "rating")}
    counted = 0
    for name, value, count in connection.execute(sa.union_all(*parts)):
        if value is None:
            counted = count
        else:
            values[name].append(Facet(value=value, count=round(count / share)))
    for found_values in values.values():
        found_values.sort(key=lambda facet: (-facet.count, facet.value))
    return Facets(**values, total=round(counted / share), counted=counted, complete=share == 1)


def _folders(found: sa.CTE, limit: int) -> Select[Any, Any, Any]:
    """Count the images in each folder and below; each distinct folder is split only once."""
    count = sa.func.count().label("count")
    distinct = sa.select(found.c.folder, count).where(found.c.folder.is_not(None)).group_by(found.c.folder).subquery()
    names = sa.func.string_to_array(distinct.c.folder, "/", type_=ARRAY(sa.Text))
    levels = sa.func.generate_series(1, sa.func.least(sa.func.cardinality(names), FOLDER_LEVELS))
    level = levels.table_valued("level").render_derived()
    value = sa.func.array_to_string(names[1 : level.c.level], "/", type_=sa.Text)
    total = sa.cast(sa.func.sum(distinct.c["count"]), sa.BigInteger)
    commonest = (
        sa.select(sa.literal("folder").label("name"), value.label("value"), total.label("count"))
        .select_from(distinct.join(level, sa.true()))
        .group_by(value)
        .order_by(total.desc(), value)
        .limit(limit)
        .subquery()
    )
    return sa.select(commonest)


def _ratings(found: sa.CTE) -> Select[Any, Any, Any]:
    """Count the images with at least as many stars as each rating that occurs."""
    stars = found.c.rating
    per_rating = sa.select(stars, sa.func.count().label("count")).where(stars >= 1).group_by(stars).subquery()
    from_here_on = sa.cast(sa.func.sum(per_rating.c["count"]).over(order_by=per_rating.c.rating.desc()), sa.BigInteger)
    return sa.select(sa.literal("rating"), sa.cast(per_rating.c.rating, sa.Text), from_here_on)


def _sampled(share: float) -> sa.ColumnElement[bool]:
    """Select the rows in a share of the blocks of `images`, whose columns the filters name: by their place."""
    sample = block_sample(images, share, seed=0)
    places = sa.select(sa.column("ctid", sa.Text, _selectable=sample)).scalar_subquery()
    return sa.literal_column("images.ctid") == sa.any_(sa.func.array(places))
