"""The statement that stores images: it replaces rows with the same reference, and leaves no vector of other content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import Insert, insert

from searchdb.db.vectors import VectorColumn, images_with, other_columns
from searchdb.ingest.folders import kept_folder


def columns_to_write(connection: Connection) -> Sequence[VectorColumn]:
    """Return the columns with vectors of models that are not the current one, which stay until the transaction ends."""
    # Without the lock, a column could be added between this look and the write, which would then leave it as it is.
    connection.execute(text("LOCK TABLE images IN ROW EXCLUSIVE MODE"))
    return other_columns(connection)


def other_vectors(others: Mapping[int, np.ndarray], columns: Sequence[VectorColumn]) -> dict[str, np.ndarray | None]:
    """Return the values of these columns, from vectors by the id of their model; None where there is none."""
    return {each.name: None if each.model_id is None else others.get(each.model_id) for each in columns}


def upsert_rows(rows: Sequence[dict[str, Any]], columns: Sequence[VectorColumn]) -> Insert:
    """Return the statement that stores rows, replacing those with the same reference.

    A row that is replaced keeps its folder, and another model's vector only if the bytes are the same.

    Args:
        rows: of `images`, with a value for each of the `columns`, sorted by their reference.
        columns: with the vectors of models that are not the current one.
    """
    table = images_with(*(each.name for each in columns))
    statement = insert(table).values(list(rows))
    new, old = statement.excluded, table.c
    replaced: dict[str, Any] = {name: new[name] for name in rows[0] if name != "image"}
    for each in columns:
        kept = sa.func.coalesce(new[each.name], old[each.name])
        replaced[each.name] = sa.case((new.sha256 == old.sha256, kept), else_=new[each.name])
    replaced |= {"folder": kept_folder(new.folder), "ingested_at": sa.func.now()}
    return statement.on_conflict_do_update(index_elements=["image"], set_=replaced)
