"""Counts the rows of a table: exactly if there are few, otherwise an estimate that does not read the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.samples import block_sample

EXACT_UP_TO = 10_000
"""More rows are estimated: counting 200,000 images takes 20 to 70 ms, on every page and at every scrape of /metrics."""
CHANGED_SHARE = 0.1
"""Share of the rows that may have changed since PostgreSQL's statistics were made. Its autovacuum renews them then."""
SAMPLED_BLOCKS = 1000
"""Blocks of a table, of 8 kB, whose rows are counted where the statistics are missing or outdated: 8 MB, which takes
a few milliseconds. The estimate is then about 3 percent off."""

_STATISTICS = text(
    """
    SELECT reltuples AS rows, relpages AS blocks_then, pg_stat_get_mod_since_analyze(oid) AS changed,
        pg_relation_size(oid) / current_setting('block_size')::bigint AS blocks
    FROM pg_class WHERE oid = to_regclass(:name)
    """
)


@dataclass(frozen=True, kw_only=True)
class RowCount:
    """A number of rows, and whether it is `exact` or an estimate."""

    rows: int
    exact: bool = True

    def __str__(self) -> str:
        """Return it for people; an estimate has two significant digits, which is what it is good for."""
        if self.exact:
            return f"{self.rows:,}"
        unit = 10 ** max(len(str(self.rows)) - 2, 0)
        return f"about {round(self.rows / unit) * unit:,}"


def count_rows(connection: Connection, table: sa.Table) -> RowCount:
    """Return the number of rows: exact up to EXACT_UP_TO, otherwise an estimate.

    The estimate is PostgreSQL's statistics, unless many rows have changed since these were made, as after a COPY
    without ANALYZE; then it is the rows in a sample of the table's blocks. Neither takes longer for more rows.

    Raises:
        SchemaError: the table does not exist.
    """
    found = connection.execute(_STATISTICS, {"name": table.name}).one_or_none()
    if found is not None and found.rows > EXACT_UP_TO and not _is_outdated(found):
        return RowCount(rows=round(found.rows), exact=False)
    few = sa.select(sa.literal(1)).select_from(table).limit(EXACT_UP_TO + 1).subquery()
    counted = connection.scalar(sa.select(sa.func.count()).select_from(few)) or 0
    if found is None or counted <= EXACT_UP_TO:
        return RowCount(rows=counted)
    share = min(SAMPLED_BLOCKS / found.blocks, 1.0)
    sampled = connection.scalar(sa.select(sa.func.count()).select_from(block_sample(table, share, seed=0))) or 0
    return RowCount(rows=max(round(sampled / share), counted), exact=False)


def count_matching(connection: Connection, table: sa.Table, condition: str, rows: RowCount) -> int:
    """Return how many of a table's rows meet a condition, which an index answers where they are few.

    Up to EXACT_UP_TO it is exact, otherwise an estimate: the share of them in a sample of the table's blocks.

    Args:
        connection: to the database.
        table: the table.
        condition: SQL on its rows, with unqualified names.
        rows: of the table, from `count_rows`.
    """
    meets = sa.literal_column(condition, sa.Boolean)
    few = sa.select(sa.literal(1)).select_from(table).where(meets).limit(EXACT_UP_TO + 1).subquery()
    counted = connection.scalar(sa.select(sa.func.count()).select_from(few)) or 0
    found = connection.execute(_STATISTICS, {"name": table.name}).one_or_none()
    if counted <= EXACT_UP_TO or found is None:
        return counted
    share = min(SAMPLED_BLOCKS / max(found.blocks, 1), 1.0)
    sample = block_sample(table, share, seed=0)
    of_sample = sa.select(sa.func.count(), sa.func.count().filter(meets)).select_from(sample)
    drawn, matching = connection.execute(of_sample).one()
    if not drawn:
        return counted
    return max(counted, round(rows.rows * matching / drawn))


def _is_outdated(statistics: sa.Row[Any]) -> bool:
    """Whether many rows have changed since; a crash of the server loses their number, but the table's growth shows."""
    return (
        statistics.changed > CHANGED_SHARE * statistics.rows
        or statistics.blocks > (1 + CHANGED_SHARE) * statistics.blocks_then
    )
