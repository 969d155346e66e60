"""Lists the models that a collection knows: the current one, and those that it was or is being switched from or to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.tables import embedding_models
from searchdb.db.vectors import current_column, other_columns
from searchdb.records import ModelIdentity


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A row of `embedding_models`.

    Attributes:
        id: the row's.
        identity: its name, weights and dimension.
        current: whether the collection is searched with it.
        retired_at: when the collection was switched to another one; None if it was not.
        verified: whether its weights were seen; not so if its vectors came from elsewhere under its name.
        kept: whether images have a column for its vectors; not so after `searchdb model forget`.
    """

    id: int
    identity: ModelIdentity
    current: bool
    retired_at: datetime | None
    verified: bool
    kept: bool


def stored_models(connection: Connection) -> list[StoredModel]:
    """Return the models of the collection, the current one first, then those used last."""
    table = embedding_models.c
    kept = {column.model_id for column in (current_column(connection), *other_columns(connection))}
    rows = connection.execute(
        sa.select(embedding_models).order_by(table.current.desc(), table.retired_at.desc().nulls_last(), table.id)
    )
    return [
        StoredModel(
            id=row.id,
            identity=ModelIdentity(name=row.name, weights_sha256=row.weights_sha256, dimension=row.dimension),
            current=row.current,
            retired_at=row.retired_at,
            verified=row.verified,
            kept=row.id in kept,
        )
        for row in rows
    ]
