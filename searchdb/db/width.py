"""Changes how many numbers the vectors of an empty collection have."""

from __future__ import annotations

from sqlalchemy import Connection, text

from searchdb.db.driver_errors import INSUFFICIENT_PRIVILEGE
from searchdb.db.functions import install_functions, is_pinned, pin_model
from searchdb.db.tables import VECTOR_INDEX
from searchdb.db.vectors import CURRENT, SIGNATURE, VectorColumn, current_column, other_columns
from searchdb.errors import DatabaseError

MAX_PLAIN_DIMENSION = 1024
"""Most numbers of a vector that is stored in its row. A page of 8 kB holds one such row, and a row must fit in a page;
longer vectors are stored out of line, uncompressed, because they do not compress."""


def storage(dimension: int) -> str:
    """Return PostgreSQL's storage for a column of vectors: in the row, or out of line."""
    return "PLAIN" if dimension <= MAX_PLAIN_DIMENSION else "EXTERNAL"


def set_dimension(connection: Connection, dimension: int) -> None:
    """Give `images.embedding` vectors of this dimension, and drop other models' columns; the table must be empty.

    The vector index is created again with one list, as in a fresh collection.

    Raises:
        DatabaseError: we do not own the tables.
    """
    column, others, pinned = current_column(connection), other_columns(connection), is_pinned(connection)
    if column.dimension == dimension and not (pinned or others):
        return
    _require_owner(connection, column.dimension, dimension)
    if pinned:
        pin_model(connection, None)
    for other in others:  # the model may be that of one of them, whose vectors are in `embedding` from now on
        drop_column(connection, other)
    if column.dimension == dimension:
        return
    schema = connection.scalar(
        text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('images')")
    )
    connection.execute(text(f"DROP INDEX IF EXISTS {schema}.{VECTOR_INDEX}"))
    connection.execute(text(f"ALTER TABLE images ALTER COLUMN {CURRENT} TYPE vector({int(dimension)})"))
    connection.execute(text(f"ALTER TABLE images ALTER COLUMN {CURRENT} SET STORAGE {storage(dimension)}"))
    connection.execute(
        text(f"CREATE INDEX {VECTOR_INDEX} ON images USING ivfflat ({CURRENT} vector_cosine_ops) WITH (lists = 1)")
    )
    install_functions(connection, ["match_images"])


def _require_owner(connection: Connection, stored: int, wanted: int) -> None:
    owner = connection.scalar(
        text(
            "SELECT pg_get_userbyid(relowner) FROM pg_class "
            "WHERE oid = to_regclass('images') AND NOT pg_has_role(relowner, 'USAGE')"
        )
    )
    if owner is not None:
        error = DatabaseError(
            f"the empty collection is made for vectors of {stored:,} numbers and another model, and only the owner of "
            f"the tables may prepare it for one of {wanted:,}: run `searchdb model switch NAME` once as {owner}"
        )
        error.sqlstate = INSUFFICIENT_PRIVILEGE
        raise error


def drop_column(connection: Connection, column: VectorColumn) -> None:
    """Drop a column of vectors that are not the current model's, with its indexes, its CHECK and its function."""
    connection.execute(text(f"DROP FUNCTION IF EXISTS {column.function}{SIGNATURE}"))
    connection.execute(text(f"ALTER TABLE images DROP COLUMN IF EXISTS {column.name}"))
