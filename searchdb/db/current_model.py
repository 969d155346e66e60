"""Records the collection's model and checks that all stored and compared vectors come from it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from searchdb.db.tables import embedding_models, images
from searchdb.db.width import set_dimension
from searchdb.errors import ModelMismatchError
from searchdb.records import DEMO_MODEL, ModelIdentity

CURRENT_MODEL_ID = sa.select(embedding_models.c.id).where(embedding_models.c.current).scalar_subquery()
"""The id of the current model, NULL in a collection without one."""


def claim_model(connection: Connection, model: ModelIdentity) -> int:
    """Make `model` the collection's model and return its id in `embedding_models`.

    Call it in the transaction that writes vectors: until that ends, no other model can become current. In an empty
    collection the column `embedding` gets the model's number of numbers.

    Raises:
        ModelMismatchError: stored images were embedded with other weights.
        DatabaseError: the column must change, and only the owner of the tables may do that.
    """
    current = embedding_models.c.current
    same = embedding_models.c.weights_sha256 == model.weights_sha256
    # FOR SHARE lets writers of the same model run in parallel; the FOR UPDATE below waits for all of them.
    ours = connection.scalar(sa.select(embedding_models.c.id).where(same, current).with_for_update(read=True))
    if ours is not None:
        return ours
    connection.execute(
        insert(embedding_models)
        .values(name=model.name, weights_sha256=model.weights_sha256, dimension=model.dimension)
        .on_conflict_do_nothing(index_elements=["weights_sha256"])
    )
    rows = connection.execute(sa.select(embedding_models).order_by(embedding_models.c.id).with_for_update()).all()
    stored = next((row for row in rows if row.current), None)
    if stored is not None and stored.weights_sha256 == model.weights_sha256:
        return stored.id
    if stored is not None and _has_images(connection):
        raise _mismatch(_identity(stored), model)
    set_dimension(connection, model.dimension)
    connection.execute(sa.update(embedding_models).where(current).values(current=False))
    claimed = sa.update(embedding_models).where(same).values(current=True, name=model.name, retired_at=None)
    return connection.execute(claimed.returning(embedding_models.c.id)).scalar_one()


def current_model(connection: Connection) -> ModelIdentity | None:
    """Return the model that the collection's vectors come from; None before the first vector."""
    row = connection.execute(sa.select(embedding_models).where(embedding_models.c.current)).one_or_none()
    return None if row is None else _identity(row)


def model_to_use(connection: Connection, wanted: str | None, default: str) -> str:
    """Return the name of the model to load: `wanted`, or else that of the stored images, or else the default."""
    if wanted is not None:
        return wanted
    stored = current_model(connection)
    return stored.name if stored is not None and _has_images(connection) else default


def check_model(connection: Connection, model: ModelIdentity) -> None:
    """Check that vectors of `model` can be compared with the stored ones.

    Raises:
        ModelMismatchError: stored images were embedded with other weights.
    """
    stored = current_model(connection)
    if stored is not None and stored.weights_sha256 != model.weights_sha256 and _has_images(connection):
        raise _mismatch(stored, model)


def _mismatch(stored: ModelIdentity, given: ModelIdentity) -> ModelMismatchError:
    return ModelMismatchError(
        stored=stored.name,
        stored_weights=stored.short_weights,
        given=given.name,
        given_weights=given.short_weights,
        stored_is_demo=stored.name == DEMO_MODEL,
    )


def _has_images(connection: Connection) -> bool:
    return bool(connection.scalar(sa.select(sa.exists().select_from(images))))


def _identity(row: Any) -> ModelIdentity:
    return ModelIdentity(name=row.name, weights_sha256=row.weights_sha256, dimension=row.dimension)
