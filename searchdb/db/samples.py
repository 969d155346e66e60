"""Draws random rows of a table without reading all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, text

BLOCKS_PER_ROW = 3
"""Blocks read for each row that is drawn, so that few are drawn of the rows that were stored one after another: these
are alike."""

_BLOCKS = text("SELECT pg_relation_size(to_regclass(:name)) / current_setting('block_size')::bigint")


def block_sample(table: sa.Table, share: float, *, seed: int | None = None) -> sa.TableSample:
    """Return a table's rows in a random share of its blocks, 0 to 1; with a seed, in the same blocks every time.

    Only these blocks are read. Rows that were stored one after another are in the sample together.
    """
    return sa.tablesample(table, sa.func.system(100 * share), seed=None if seed is None else sa.literal(seed))


def random_keys(connection: Connection, key: sa.Column[Any], count: int) -> Sequence[Any]:
    """Return the keys of `count` random rows of the key's table; those of all rows if there are fewer."""
    table = key.table
    assert isinstance(table, sa.Table)  # noqa: S101 - a column of a table
    blocks = connection.scalar(_BLOCKS, {"name": table.name}) or 1
    share = min(BLOCKS_PER_ROW * count / blocks, 1.0)
    if share < 1:
        keys = connection.scalars(_any_order(block_sample(table, share).c[key.name], count)).all()
        if len(keys) == count:
            return keys
        # Most rows of the table have been deleted.
    return connection.scalars(_any_order(key, count)).all()


def _any_order(key: sa.ColumnElement[Any], count: int) -> sa.Select[Any]:
    return sa.select(key).order_by(sa.func.random()).limit(count)
