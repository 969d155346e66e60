"""Counts the values that the collection can be filtered by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Select

from searchdb.db.tables import images
from searchdb.search.conditions import ORIENTATION_SIGNS, shape_sign
from searchdb.search.filters import Filters

FACET_ROWS = 30_000
"""Number of images counted, the newest ones: takes a tenth of a second, and covers all of the Unsplash Lite dataset."""
FACET_VALUES = 20
"""Values of one filter that are listed by default."""


@dataclass(frozen=True, kw_only=True)
class Facet:
    """One value of a filter, and the number of images that have it."""

    value: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The most common values of each filter, the most common first.

    The names are those of `Filters`. Countries, cities and cameras that differ only in case are counted as one, because
    the filters ignore case, too. `counted` is the number of images counted: the newest FACET_ROWS unless `complete`.
    """

    source: Sequence[Facet]
    country: Sequence[Facet]
    city: Sequence[Facet]
    camera: Sequence[Facet]
    tag: Sequence[Facet]
    orientation: Sequence[Facet]
    counted: int
    complete: bool


def facets(connection: Connection, filters: Filters | None = None, *, limit: int = FACET_VALUES) -> Facets:
    """Count the values among the images that meet all the filters."""
    names = sa.case(
        {sign: sa.literal(name) for name, sign in ORIENTATION_SIGNS.items()}, value=sa.cast(shape_sign, sa.Integer)
    )
    c = images.c
    found = (
        sa.select(c.source, c.country, c.city, c.camera, c.tags, names.label("orientation"))
        .where(sa.true() if filters is None else filters.condition())
        .order_by(c.id.desc())
        .limit(FACET_ROWS + 1)
        .cte("found")
    )
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
        counted = (
            sa.select(
                sa.literal(name).label("name"), sa.func.max(column).label("value"), sa.func.count().label("count")
            )
            .where(column.is_not(None))
            .group_by(key)
            .order_by(sa.func.count().desc(), sa.func.max(column))
            .limit(limit)
            .subquery()
        )
        parts.append(sa.select(counted))
    values: dict[str, list[Facet]] = {name: [] for name in columns}
    total = 0
    for name, value, count in connection.execute(sa.union_all(*parts)):
        if value is None:
            total = count
        else:
            values[name].append(Facet(value=value, count=count))
    for found_values in values.values():
        found_values.sort(key=lambda facet: (-facet.count, facet.value))
    return Facets(**values, counted=min(total, FACET_ROWS), complete=total <= FACET_ROWS)
