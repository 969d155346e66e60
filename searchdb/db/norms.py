"""The CHECK on the length of stored vectors: validates it, and names the rows from before it that break it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from searchdb.db.tables import NORM_IN_RANGE
from searchdb.db.version_table import quoted
from searchdb.errors import DatabaseError

CONSTRAINT = "images_embedding_norm_check"
SHOWN_IDS = 5
"""Ids that a message names."""
CHECK_VIOLATION = "23514"

logger = logging.getLogger(__name__)


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
    """Validate the CHECK if that is still to do, in a transaction of its own; return the rows that break it.

    Searches and writes continue meanwhile.
    """
    table = f"{quoted(connection, schema)}.images"
    open_ = text(
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = :name AND NOT convalidated "
        "AND conrelid = to_regclass(:table))"
    )
    try:
        with connection.begin():
            if not connection.scalar(open_, {"name": CONSTRAINT, "table": table}):
                return None
            connection.execute(text(f"ALTER TABLE {table} VALIDATE CONSTRAINT {CONSTRAINT}"))
            return None
    except DatabaseError as exc:
        if exc.sqlstate != CHECK_VIOLATION:
            raise
    with connection.begin():
        select = f"FROM {table} WHERE NOT ({NORM_IN_RANGE})"
        count = connection.scalar(text(f"SELECT count(*) {select}")) or 0
        ids = connection.scalars(text(f"SELECT id {select} ORDER BY id LIMIT {SHOWN_IDS}")).all()
    return InvalidVectors(count=count, ids=ids)


def warn_of_invalid_vectors(connection: Connection, schema: str) -> None:
    """Validate the CHECK, and log a warning that names the rows that break it."""
    invalid = validate_norms(connection, schema)
    if invalid is not None:
        logger.warning("%s", invalid)
