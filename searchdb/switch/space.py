"""Estimates the disk space that a change of the model takes, and decides how the new vectors are stored."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.vectors import VectorColumn, current_column, other_columns

NUMBER_BYTES, VECTOR_HEADER = 4, 8
"""Bytes of a number of a vector, and of what precedes them."""
MAX_PLAIN_BYTES = 7_200
"""Most bytes of all vectors that are stored in one row. The row must fit in a page, which has 8,160 bytes for it; the
other columns take at most some 600, because PostgreSQL moves longer texts out of the row, each for 18 bytes."""
PAGE, USABLE_OF_PAGE = 8192, 8160
TOAST_CHUNK, TOAST_CHUNKS_A_PAGE, TOAST_POINTER = 1996, 4, 18
"""PostgreSQL's: bytes of a page, and those for rows; of values out of line, the bytes of a piece, the pieces in a page,
and the bytes that stay in the row."""
INDEX_NUMBER_BYTES = 2
"""Bytes of a number in the vector index, which is of halves."""

_SIZES = text(
    """
    SELECT (SELECT count(*) FROM images) AS rows, pg_relation_size('images') AS heap_bytes,
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

    An UPDATE writes the whole row again, and an entry in each index: until VACUUM, old and new exist side by side.
    """
    with database.connect() as connection:
        sizes = connection.execute(_SIZES).one()
        kept = [current_column(connection), *other_columns(connection)]
        plain = storage_beside(connection, kept, dimension) == "PLAIN"
    rows = sizes.rows if missing is None else missing
    share = rows / max(sizes.rows, 1)
    column = rows * vector_bytes(dimension)
    index = sizes.rows * (INDEX_NUMBER_BYTES * dimension + 32)
    table = rows * _bytes_written(sizes.heap_bytes / max(sizes.rows, 1), vector_bytes(dimension), plain=plain)
    peak = table + round(share * sizes.index_bytes) + index + min(sizes.wal_bytes, 2 * column)
    free = shutil.disk_usage(settings.home).free if database.embedded else None
    return SpaceNeeded(column=column, index=index, peak=peak, free=free)


def vector_bytes(dimension: int) -> int:
    """Return the bytes of a vector."""
    return NUMBER_BYTES * dimension + VECTOR_HEADER


def _bytes_written(row: float, vector: int, *, plain: bool) -> int:
    """Return the bytes that a row of `row` bytes takes, written again with one more vector: whole rows fill a page."""
    in_row = row + (vector if plain else TOAST_POINTER)
    out_of_line = 0 if plain else -(-vector // TOAST_CHUNK) * PAGE // TOAST_CHUNKS_A_PAGE
    return PAGE // max(int(USABLE_OF_PAGE // in_row), 1) + out_of_line


def storage_beside(connection: Connection, columns: Sequence[VectorColumn], dimension: int) -> str:
    """Return PostgreSQL's storage for one more vector in rows with these: in the row if all fit there."""
    query = text("SELECT attstorage = 'p' FROM pg_attribute WHERE attrelid = 'images'::regclass AND attname = :name")
    plain = [each.dimension for each in columns if connection.scalar(query, {"name": each.name})]
    size = sum(vector_bytes(each) for each in (*plain, dimension))
    return "PLAIN" if size <= MAX_PLAIN_BYTES else "EXTERNAL"
