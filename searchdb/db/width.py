"""Changes how many numbers the vectors of an empty collection have."""

from __future__ import annotations

from sqlalchemy import Connection, text

from searchdb.db.functions import install_functions
from searchdb.db.tables import VECTOR_INDEX
from searchdb.db.vectors import CURRENT, current_column, other_columns

MAX_PLAIN_DIMENSION = 1024
"""Most numbers of a vector that is stored in its row. A page of 8 kB holds one such row, and a row must fit in a page;
longer vectors are stored out of line, uncompressed, because they do not compress."""


def storage(dimension: int) -> str:
    """Return PostgreSQL's storage for a column of vectors: in the row, or out of line."""
    return "PLAIN" if dimension <= MAX_PLAIN_DIMENSION else "EXTERNAL"


def set_dimension(connection: Connection, dimension: int) -> None:
    """Give `images.embedding` vectors of another dimension, and drop other models' columns; the table must be empty.

    The vector index begins anew with one list, as in a fresh collection.

    Raises:
        DatabaseError: we do not own the tables.
    """
    column = current_column(connection)
    if column.dimension == dimension:
        return
    for other in other_columns(connection):
        connection.execute(text(f"ALTER TABLE images DROP COLUMN {other.name}"))
        connection.execute(text(f"DROP FUNCTION IF EXISTS {other.function}(vector, double precision, integer)"))
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
