"""Forgets a model that is not the current one: drops its vectors, their index, and its texts."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.database import Database
from searchdb.db.open_switch import open_switch
from searchdb.db.short_locks import with_short_locks
from searchdb.db.switch_tables import switch_failures
from searchdb.db.tables import (
    embedding_models,
    image_sample,
    index_builds,
    index_recalls,
    query_embeddings,
    relevance_scale,
)
from searchdb.db.vectors import VectorColumn, column_of
from searchdb.db.width import drop_column
from searchdb.errors import SwitchError
from searchdb.index.status import drop_leftovers
from searchdb.switch.obstacles import require_owner, require_unused

OF_A_MODEL = (query_embeddings, relevance_scale, image_sample, index_builds, index_recalls, switch_failures)
"""Tables with what was made with a model; the row in `embedding_models` stays, because others may refer to it."""


@dataclass(frozen=True, kw_only=True)
class ForgetReport:
    """What was forgotten.

    Attributes:
        model: its name.
        texts: query texts that were embedded with it.
        index_bytes: of its index, which are free at once.
        vector_bytes: of its vectors, which stay in the rows until these are written again.
    """

    model: str
    texts: int
    index_bytes: int
    vector_bytes: int


def forget_model(database: Database, name: str) -> ForgetReport:
    """Drop the vectors of a model that is not the current one, and all that was made with it.

    The index's space is free at once. A row keeps the bytes of a dropped column until it is written again, as by VACUUM
    FULL, or by a change to another model, which writes all rows.

    Args:
        database: the collection.
        name: of the model, as in `embedding_models`.

    Raises:
        SwitchError: there is no such model, it is the current one, or a switch to it is open.
        DatabaseError: we do not own the tables, or they were in use all the time.
    """
    with database.connect() as connection:
        require_owner(connection, "forgetting a model")
        model_id = _id_of(connection, name)
        column = column_of(connection, model_id)
        size = _sizes(connection, column)
    if column is not None:
        drop_leftovers(database.engine, column)

    def drop(connection: Connection) -> int:
        connection.execute(text("LOCK TABLE embedding_models IN EXCLUSIVE MODE"))
        _id_of(connection, name)  # it may have become the current one
        if column is not None:
            connection.execute(text("LOCK TABLE images IN ACCESS EXCLUSIVE MODE"))
            require_unused(connection, column.name)
            drop_column(connection, column)
        texts = 0
        for table in OF_A_MODEL:
            deleted = connection.execute(sa.delete(table).where(table.c.embedding_model_id == model_id)).rowcount
            texts += deleted if table is query_embeddings else 0
        return texts

    texts = with_short_locks(database.engine, drop, what="forgetting a model")
    return ForgetReport(model=name, texts=texts, index_bytes=size[0], vector_bytes=size[1])


def _id_of(connection: Connection, name: str) -> int:
    """Return the id of a model that may be forgotten: the latest of this name."""
    model = embedding_models.c
    found = connection.execute(
        sa.select(model.id, model.current).where(model.name == name).order_by(model.current, model.id.desc())
    ).all()
    if not found:
        known = connection.scalars(sa.select(model.name).where(~model.current).order_by(model.id)).all()
        others = f"the others are {', '.join(known)}" if known else "it has no other than the current one"
        raise SwitchError(f"the collection has no model {name}: {others}")
    if found[0].current:
        raise SwitchError(f"{name} is the current model: switch to another with `searchdb model switch` first")
    switch = open_switch(connection)
    if switch is not None and switch.model_id == found[0].id:
        raise SwitchError(f"a switch to {name} is open: end it with `searchdb model switch --abort` first")
    return found[0].id


def _sizes(connection: Connection, column: VectorColumn | None) -> tuple[int, int]:
    """Return the bytes of a column's index, and of its vectors, the latter from the planner's statistics."""
    if column is None:
        return 0, 0
    row = connection.execute(
        text(
            "SELECT coalesce(pg_relation_size(to_regclass(:index)), 0) AS index_bytes, "
            "greatest(c.reltuples, 0) * coalesce((SELECT (1 - null_frac) * avg_width FROM pg_stats "
            "WHERE schemaname = n.nspname AND tablename = 'images' AND attname = :name), :width) AS vector_bytes "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('images')"
        ),
        {"index": column.index, "name": column.name, "width": 8 + 4 * column.dimension},
    ).one()
    return row.index_bytes, round(row.vector_bytes)
