"""Finds where the vectors of each model are: the current one's in `images.embedding`, others' in columns beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa
from sqlalchemy import Connection, Table, text

from searchdb.db.tables import Embedding, embedding_models, images
from searchdb.errors import SchemaError
from searchdb.records import DEFAULT_DIMENSION

CURRENT = "embedding"
"""The column with the vectors of the current model."""
SIGNATURE = "(vector, double precision, integer)"
"""The arguments of match_images, by which PostgreSQL tells functions apart."""

NO_CHANGE_OVER = text("LOCK TABLE images IN ACCESS SHARE MODE")
"""Waits for a change-over that has begun, then keeps the names of the vector columns until the transaction ends."""

_COLUMNS = text(
    r"""
    SELECT attname AS name, atttypmod AS dimension FROM pg_attribute
    WHERE attrelid = to_regclass('images') AND NOT attisdropped AND attname ~ '^embedding(_[0-9]+)?$'
    ORDER BY attnum
    """
)


@dataclass(frozen=True, kw_only=True)
class VectorColumn:
    """A column of `images` with the vectors of one model.

    Attributes:
        model_id: the model's id in `embedding_models`; None in a collection without a model yet.
        dimension: the numbers of a vector.
        name: the column's name.
    """

    model_id: int | None
    dimension: int
    name: str = CURRENT

    @classmethod
    def beside(cls, model_id: int, dimension: int) -> VectorColumn:
        """Return the column for the vectors of a model that is not the current one; it need not exist yet."""
        return cls(model_id=model_id, dimension=dimension, name=f"{CURRENT}_{model_id}")

    @property
    def index(self) -> str:
        """The name of its vector index."""
        return f"images_{self.name}_idx"

    @property
    def norm_check(self) -> str:
        """The name of the CHECK on the length of its vectors."""
        return f"images_{self.name}_norm_check"

    @property
    def missing_index(self) -> str:
        """The name of the index of the images without a vector, while the column is being filled."""
        return f"images_{self.name}_missing_idx"

    @property
    def function(self) -> str:
        """The name of the function that searches it."""
        return "match_images" + self.name.removeprefix(CURRENT)


CURRENT_COLUMN = VectorColumn(model_id=None, dimension=DEFAULT_DIMENSION)
"""Has the names that belong to the current model's column, but not its dimension and model."""


def current_column(connection: Connection) -> VectorColumn:
    """Return the column with the vectors of the current model.

    Raises:
        SchemaError: `images` has no column `embedding`.
    """
    return _columns(connection)[0]


def column_of(connection: Connection, model_id: int) -> VectorColumn | None:
    """Return the column with the vectors of a model; None if the collection has none of it."""
    return next((column for column in _columns(connection) if column.model_id == model_id), None)


def other_columns(connection: Connection) -> Sequence[VectorColumn]:
    """Return the columns with the vectors of models that are not the current one."""
    return _columns(connection)[1:]


def _columns(connection: Connection) -> Sequence[VectorColumn]:
    """Return the columns with vectors, the current model's first."""
    found = {row.name: row.dimension for row in connection.execute(_COLUMNS)}
    if CURRENT not in found:
        raise SchemaError("the database lacks the column images.embedding, and only a backup has it: restore it")
    model_id = connection.scalar(sa.select(embedding_models.c.id).where(embedding_models.c.current))
    current = VectorColumn(model_id=model_id, dimension=found.pop(CURRENT))
    return [current, *(VectorColumn.beside(int(name.split("_")[1]), each) for name, each in found.items())]


@cache
def images_with(*columns: str) -> Table:
    """Return the table `images` with further columns of vectors, for statements that write them."""
    further = [sa.Column(name, Embedding()) for name in columns]
    return Table("images", sa.MetaData(), *(sa.Column(c.name, c.type) for c in images.columns), *further)
