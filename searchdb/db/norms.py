"""The CHECK on the length of stored vectors: validates it, and names the rows from before it that break it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from searchdb.db.tables import norm_in_range
from searchdb.db.vectors import CURRENT_COLUMN
from searchdb.db.version_table import quoted
from searchdb.errors import DatabaseError

CONSTRAINT = CURRENT_COLUMN.norm_check
SHOWN_IDS = 5
"""Ids that a message names."""
CHECK_VIOLATION = "23514"

logger = logging.getLogger(__name__)


# The current model's comes last.
_OPEN = text(
    r"""
    SELECT conname, a.attname AS columns FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid
    AND k.conname = 'images_' || a.attname || '_norm_check' AND a.attname ~ '^embedding(_[0-9]+)?$'
    WHERE NOT convalidated AND conrelid = to_regclass(:table) ORDER BY a.attname DESC
    """
)


@dataclass(frozen=True, kw_only=True)
class InvalidVectors:
    """Images with a vector that breaks the CHECK: how many, and the first ids."""

    count: int
    ids: Sequence[int]

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.ids)) + (", ..." if self.count > len(self.ids) else "")
        are = "image has a vector" if self.count == 1 else "images have vectors"
        return (
            f"{self.count:,} {are} without a usable length (id {shown}), which no search finds: write the vectors "
            "again, or delete the rows and ingest the images again, then run `searchdb db repair`"
        )


def validate_norms(connection: Connection, schema: str) -> InvalidVectors | None:
    """Validate the CHECKs if that is still to do, each in a transaction of its own; return the rows that break one.

    Searches and writes continue meanwhile. Those of the current model's vectors are returned if these break it, too.
    """
    table = f"{quoted(connection, schema)}.images"
    with connection.begin():
        open_ = {row.conname: row.columns for row in connection.execute(_OPEN, {"table": table})}
    invalid: InvalidVectors | None = None
    for constraint, column in open_.items():
        invalid = _validate(connection, table, constraint, column) or invalid
    return invalid


def _validate(connection: Connection, table: str, constraint: str, column: str) -> InvalidVectors | None:
    try:
        with connection.begin():
            connection.execute(text(f"ALTER TABLE {table} VALIDATE CONSTRAINT {constraint}"))
            return None
    except DatabaseError as exc:
        if exc.sqlstate != CHECK_VIOLATION:
            raise
    with connection.begin():
        select = f"FROM {table} WHERE NOT ({norm_in_range(column)})"
        count = connection.scalar(text(f"SELECT count(*) {select}")) or 0
        ids = connection.scalars(text(f"SELECT id {select} ORDER BY id LIMIT {SHOWN_IDS}")).all()
    return InvalidVectors(count=count, ids=ids)


def warn_of_invalid_vectors(connection: Connection, schema: str) -> None:
    """Validate the CHECK, and log a warning that names the rows that break it."""
    invalid = validate_norms(connection, schema)
    if invalid is not None:
        logger.warning("%s", invalid)
