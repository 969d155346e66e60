"""Reads the images to export: all that filters select, in one snapshot and constant memory, or the hits of a search."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import embedding_models, images
from searchdb.export.columns import ExportColumn
from searchdb.records import Hit
from searchdb.search.filters import Filters
from searchdb.search.guarded import guarded

FETCH_ROWS = 500
"""Rows that are in memory at a time: a megabyte with vectors, and a round trip to the server costs less than their
conversion."""
WHERE_TIMEOUT_S = 1800
"""Longest run of an export with a raw condition, whose rows may be written slowly."""

Row = Mapping[str, Any]
"""The exported columns of one image, by name."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images to export: the hits of a search, best first, or else all that the filters select, by ascending id.

    The order by id keeps the place of each image when others are added. `count` limits the number without a search.
    """

    filters: Filters = field(default_factory=Filters)
    hits: Sequence[Hit] | None = None
    count: int | None = None

    @property
    def total(self) -> int | None:
        """The number of images if it is known before they are read."""
        return None if self.hits is None else len(self.hits)


@contextmanager
def selected_rows(engine: Engine, selection: Selection, columns: Sequence[ExportColumn]) -> Generator[Iterator[Row]]:
    """Yield an iterator over the rows, which are those of one snapshot, FETCH_ROWS at a time.

    Hits whose image has been removed since the search are left out.

    Raises:
        QueryError: PostgreSQL refuses `filters.where`.
    """
    filters = None if selection.hits is not None else selection.filters
    with engine.connect() as connection, guarded(connection, filters, WHERE_TIMEOUT_S):
        if selection.hits is not None:
            yield _hit_rows(connection, selection.hits, columns)
        else:
            with _stored_rows(connection, selection, columns) as rows:
                yield rows


@contextmanager
def _stored_rows(
    connection: Connection, selection: Selection, columns: Sequence[ExportColumn]
) -> Generator[Iterator[Row]]:
    statement = _statement(columns).where(selection.filters.condition()).order_by(images.c.id)
    if selection.count is not None:
        statement = statement.limit(selection.count)
    # A cursor on the server: its one statement sees one snapshot. A generator of the rows must not close it: the error
    # of an export that fails midway may keep that alive until the connection serves another export, and closing a
    # cursor while its connection fetches is a deadlock.
    with connection.execute(statement, execution_options={"yield_per": FETCH_ROWS}) as result:
        yield iter(result.mappings())  # pyright: ignore[reportReturnType] - its keys are the names


def _hit_rows(connection: Connection, hits: Sequence[Hit], columns: Sequence[ExportColumn]) -> Iterator[Row]:
    statement = _statement(columns, images.c.id.label("hit_id")).where(
        images.c.id == sa.func.any(sa.bindparam("ids", type_=ARRAY(sa.BigInteger)))
    )
    found = {row["hit_id"]: row for row in connection.execute(statement, {"ids": [hit.id for hit in hits]}).mappings()}
    for rank, hit in enumerate(hits, 1):
        if hit.id in found:
            searched = {"rank": rank, "similarity": hit.similarity, "relevance": hit.relevance, "parts": hit.parts}
            row = dict[str, Any](found[hit.id]) | searched
            yield {column.name: row[column.name] for column in columns}


def _statement(columns: Sequence[ExportColumn], *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    stored = [column.sql for column in columns if column.sql is not None]
    # Where all columns come from the search, the rows still need to exist.
    return sa.select(*stored, *more).select_from(
        images.join(embedding_models, embedding_models.c.id == images.c.embedding_model_id)
    )
