"""Names what can be exported of an image, and chooses columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from searchdb.db.tables import Embedding, as_vector, embedding_models, images
from searchdb.errors import ExportError

ALL_DEFAULTS = "*"
"""Means the default columns, as in `*,embedding`."""
ON_REQUEST = frozenset({"embedding", "embedding_model_id", "companion_state", "model", "rank", "parts"})
"""Columns that are exported only if they are named: vectors are longer than all else, and the others are details."""


@dataclass(frozen=True, kw_only=True)
class ExportColumn:
    """A column of an export: its name, its type in PostgreSQL, and its SQL; None if it comes from the search."""

    name: str
    type: sa.types.TypeEngine[Any]
    sql: sa.ColumnElement[Any] | None = None


_FROM_SEARCH = (
    ExportColumn(name="rank", type=sa.Integer()),
    ExportColumn(name="similarity", type=sa.Double()),
    ExportColumn(name="relevance", type=sa.Double()),
    ExportColumn(name="parts", type=JSONB()),
)
_STORED = tuple(
    ExportColumn(
        name=column.name,
        type=column.type,
        sql=as_vector(column).label(column.name) if isinstance(column.type, Embedding) else column,
    )
    for column in images.columns
)
_MODEL = ExportColumn(name="model", type=sa.Text(), sql=embedding_models.c.name.label("model"))

SEARCH_COLUMNS = tuple(column.name for column in _FROM_SEARCH)
"""Columns that only the results of a search have."""
COLUMNS = {column.name: column for column in (*_STORED[:2], *_FROM_SEARCH, *_STORED[2:], _MODEL)}
"""All columns by name, in the order of an export."""


VECTOR = "embedding"
"""The column of vectors."""


def with_vectors(names: Sequence[str] | None) -> list[str]:
    """Return the names with that of the column of vectors."""
    named = [ALL_DEFAULTS] if names is None else [name.strip() for name in names]
    return named if VECTOR in named else [*named, VECTOR]


def default_columns(*, searched: bool) -> list[str]:
    """Return the names of the columns that are exported if none are named."""
    return [name for name in COLUMNS if name not in ON_REQUEST and (searched or name not in SEARCH_COLUMNS)]


def chosen_columns(names: Sequence[str] | None, *, searched: bool) -> tuple[ExportColumn, ...]:
    """Return the named columns, in this order; `*` means the default ones, as None does.

    Raises:
        ExportError: a name is unknown or given twice, or is of searches only and there is none; or there is no name.
    """
    wanted = list[str]()
    for given in [ALL_DEFAULTS] if names is None else names:
        name = given.strip()
        wanted += default_columns(searched=searched) if name == ALL_DEFAULTS else [name]
    for position, name in enumerate(wanted):
        if name not in COLUMNS:
            raise ExportError(f"there is no column {name[:60]!r}: choose from {', '.join(COLUMNS)}", field="columns")
        if name in wanted[:position]:
            raise ExportError(f"the column {name} is named twice", field="columns")
        if name in SEARCH_COLUMNS and not searched:
            raise ExportError(
                f"only searches have the column {name}: add a text, an image or the id of a stored image",
                field="columns",
            )
    if not wanted:
        raise ExportError(f"no column is named: choose from {', '.join(COLUMNS)}", field="columns")
    return tuple(COLUMNS[name] for name in wanted)
