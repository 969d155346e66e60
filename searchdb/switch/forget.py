"""Forgets a model that is not the current one: drops its vectors, their index, and its texts."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.database import Database
from searchdb.db.open_switch import open_switch
from searchdb.db.short_locks import with_short_locks
from searchdb.db.stored_models import StoredModel, stored_models
from searchdb.db.switch_tables import switch_failures
from searchdb.db.tables import (
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

LEAST_DIGITS = 6
"""Hexadecimal digits of the weights from which a model can be named by them."""
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
        name: of the model, or the first digits of its weights, as `searchdb model list` shows them.

    Raises:
        SwitchError: there is no such model, several have the name, it is the current one, its vectors are not kept, or
            a switch to it is open.
        DatabaseError: we do not own the tables, or they were in use all the time.
    """
    with database.connect() as connection:
        require_owner(connection, "forgetting a model")
        model = _kept_model(connection, name)
        column = column_of(connection, model.id)
        size = _sizes(connection, column)
    if column is not None:
        drop_leftovers(database.engine, column)

    def drop(connection: Connection) -> int:
        connection.execute(text("LOCK TABLE embedding_models IN EXCLUSIVE MODE"))
        _kept_model(connection, name)  # it may have become the current one
        if column is not None:
            connection.execute(text("LOCK TABLE images IN ACCESS EXCLUSIVE MODE"))
            require_unused(connection, column.name)
            drop_column(connection, column)
        texts = 0
        for table in OF_A_MODEL:
            deleted = connection.execute(sa.delete(table).where(table.c.embedding_model_id == model.id)).rowcount
            texts += deleted if table is query_embeddings else 0
        return texts

    texts = with_short_locks(database.engine, drop, what="forgetting a model")
    return ForgetReport(model=model.identity.name, texts=texts, index_bytes=size[0], vector_bytes=size[1])


def _kept_model(connection: Connection, name: str) -> StoredModel:
    """Return the model with kept vectors that has this name, or whose weights begin with these digits."""
    models = stored_models(connection)
    named = [each for each in models if each.identity.name == name]
    named = named or [each for each in models if len(name) >= LEAST_DIGITS and _weights(each).startswith(name.lower())]
    kept = [each for each in named if each.kept and not each.current]
    if len(kept) > 1:
        several = " or ".join(each.identity.short_weights for each in kept)
        raise SwitchError(f"vectors of {len(kept)} models with the name {name} are kept: name the weights, {several}")
    if kept:
        switch = open_switch(connection)
        if switch is not None and switch.model_id == kept[0].id:
            raise SwitchError(f"a switch to {name} is open: end it with `searchdb model switch --abort` first")
        return kept[0]
    if any(each.current for each in named):
        raise SwitchError(f"{name} is the current model: switch to another with `searchdb model switch` first")
    if named:
        raise SwitchError(f"the vectors of {name} are not kept any more: there is nothing to forget")
    known = [each.identity.name for each in models if each.kept and not each.current]
    others = f"vectors are kept of {', '.join(known)}" if known else "only those of the current one are kept"
    raise SwitchError(f"the collection has no model {name}: {others}")


def _weights(model: StoredModel) -> str:
    return model.identity.weights_sha256.hex()


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
