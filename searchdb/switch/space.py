"""Estimates the disk space that a change of the model takes, and decides how the new vectors are stored."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.vectors import VectorColumn
from searchdb.db.width import storage

NUMBER_BYTES, VECTOR_HEADER = 4, 8
"""Bytes of a number of a vector, and of what precedes them."""
MAX_PLAIN_BYTES = 7_200
"""Most bytes of all vectors that are stored in one row. The row must fit in a page, which has 8,160 bytes for it; the
other columns take at most some 600, because PostgreSQL moves longer texts out of the row, each for 18 bytes."""
INDEX_NUMBER_BYTES = 2
"""Bytes of a number in the vector index, which is of halves."""

_SIZES = text(
    """
    SELECT (SELECT count(*) FROM images) AS rows, pg_table_size('images') AS table_bytes,
        pg_indexes_size('images') AS index_bytes,
        pg_size_bytes(current_setting('max_wal_size')) AS wal_bytes
    """
)


@dataclass(frozen=True, kw_only=True)
class SpaceNeeded:
    """Disk space in bytes: of the `column`, of its `index`, and at the `peak`, before VACUUM has reused old rows.

    `free` is the free space of the embedded server's disk; None for another server.
    """

    column: int
    index: int
    peak: int
    free: int | None

    @property
    def fits(self) -> bool:
        """Whether there is room, as far as is known."""
        return self.free is None or self.peak <= self.free


def space_needed(database: Database, settings: Settings, dimension: int, *, missing: int | None = None) -> SpaceNeeded:
    """Return what a column for a model takes; `missing` is the number of images that lack a vector, by default all.

    An UPDATE writes the whole row anew, and an entry in each index: until VACUUM, old and new exist side by side.
    """
    with database.connect() as connection:
        sizes = connection.execute(_SIZES).one()
    rows = sizes.rows if missing is None else missing
    share = rows / max(sizes.rows, 1)
    column = rows * (NUMBER_BYTES * dimension + VECTOR_HEADER)
    index = sizes.rows * (INDEX_NUMBER_BYTES * dimension + 32)
    peak = round(share * (sizes.table_bytes + sizes.index_bytes)) + column + index + min(sizes.wal_bytes, 2 * column)
    free = shutil.disk_usage(settings.home).free if database.embedded else None
    return SpaceNeeded(column=column, index=index, peak=peak, free=free)


def storage_beside(connection: Connection, columns: Sequence[VectorColumn], dimension: int) -> str:
    """Return PostgreSQL's storage for one more vector in rows with these: in the row if all fit there."""
    query = text("SELECT attstorage = 'p' FROM pg_attribute WHERE attrelid = 'images'::regclass AND attname = :name")
    plain = [each.dimension for each in columns if connection.scalar(query, {"name": each.name})]
    size = sum(VECTOR_HEADER + NUMBER_BYTES * each for each in (*plain, dimension))
    return "EXTERNAL" if size > MAX_PLAIN_BYTES else storage(dimension)
