"""Records the collection's model and checks that all stored and compared vectors come from it."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from searchdb.db.switch_tables import model_switches
from searchdb.db.tables import embedding_models, images
from searchdb.db.width import set_dimension
from searchdb.errors import ModelMismatchError
from searchdb.records import DEMO_MODEL, ModelIdentity

CURRENT_MODEL_ID = sa.select(embedding_models.c.id).where(embedding_models.c.current).scalar_subquery()
"""The id of the current model, NULL in a collection without one."""

NEARLY_DONE = ("index", "texts", "change", "finish")
"""Phases of a switch in which all vectors are there: the other model will soon be the current one, so pages load it."""

_OPEN = model_switches.c.ended_at.is_(None)
_MAY_READ_SWITCHES = sa.text("SELECT coalesce(has_table_privilege(to_regclass('model_switches'), 'SELECT'), false)")
_UPCOMING = (
    sa.select(embedding_models)
    .join(model_switches, model_switches.c.embedding_model_id == embedding_models.c.id)
    .where(_OPEN, model_switches.c.phase.in_(NEARLY_DONE), sa.not_(embedding_models.c.current))
)

log = logging.getLogger(__name__)


def claim_model(connection: Connection, model: ModelIdentity) -> int:
    """Make `model` the collection's model and return its id in `embedding_models`.

    Call it in the transaction that writes vectors: until that ends, no other model can become current. In an empty
    collection the column `embedding` gets the model's number of numbers, and an open switch ends.

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
    if _adopt(connection, model) is not None:
        return claim_model(connection, model)
    verified = model.weights_sha256 != unverified_digest(model.name)
    connection.execute(
        insert(embedding_models)
        .values(verified=verified, name=model.name, weights_sha256=model.weights_sha256, dimension=model.dimension)
        .on_conflict_do_nothing(index_elements=["weights_sha256"])
    )
    rows = connection.execute(sa.select(embedding_models).order_by(embedding_models.c.id).with_for_update()).all()
    stored = next((row for row in rows if row.current), None)
    if stored is not None and stored.weights_sha256 == model.weights_sha256:
        return stored.id
    if stored is not None and has_images(connection):
        raise _mismatch(connection, _identity(stored), model)
    set_dimension(connection, model.dimension)
    if connection.scalar(sa.select(sa.exists().where(_OPEN))):  # a switch, whose images are gone
        connection.execute(sa.update(model_switches).where(_OPEN).values(ended_at=sa.func.now(), aborted=True))
    connection.execute(sa.update(embedding_models).where(current).values(current=False))
    claimed = sa.update(embedding_models).where(same).values(current=True, name=model.name, retired_at=None)
    return connection.execute(claimed.returning(embedding_models.c.id)).scalar_one()


def current_model(connection: Connection) -> ModelIdentity | None:
    """Return the model that the collection's vectors come from; None before the first vector."""
    row = connection.execute(sa.select(embedding_models).where(embedding_models.c.current)).one_or_none()
    return None if row is None else _identity(row)


def model_to_use(connection: Connection, wanted: str | None, default: str) -> str:
    """Return the name of the model to load: `wanted`, or else that of the stored images, or else the default.

    Where the collection was switched from `wanted`, or is being switched to it, it is that of the stored images, too:
    programs go on without a change of their settings.
    """
    stored = current_model(connection)
    if stored is None or not has_images(connection):
        return wanted or default
    if wanted is None or stored.name in _names(wanted):
        return stored.name
    if not _is_followed(connection, wanted):
        return wanted
    _log_once(wanted, stored.name)
    return stored.name


def upcoming_model(connection: Connection) -> ModelIdentity | None:
    """Return the model that will soon be the current one: that of an open switch from its phase `index` on.

    None for a role that may not read the switches, such as a reader's of an earlier version.
    """
    if not connection.scalar(_MAY_READ_SWITCHES):
        return None
    row = connection.execute(_UPCOMING).one_or_none()
    return None if row is None else _identity(row)


def check_model(connection: Connection, model: ModelIdentity) -> None:
    """Check that vectors of `model` can be compared with the stored ones.

    Raises:
        ModelMismatchError: stored images were embedded with other weights.
    """
    row = connection.execute(sa.select(embedding_models).where(embedding_models.c.current)).one_or_none()
    if row is None or row.weights_sha256 == model.weights_sha256 or may_be(row, model):
        return
    if has_images(connection):
        raise _mismatch(connection, _identity(row), model)


def unverified_digest(name: str) -> bytes:
    """Return the digest of a model of which only the name is known, as vectors from elsewhere have it."""
    return hashlib.sha256(f"unverified:{name}".encode()).digest()


def may_be(row: Any, model: ModelIdentity) -> bool:
    """Whether a row of `embedding_models` whose weights nobody has seen may be of this model, by name and dimension."""
    return not row.verified and row.name == model.name and row.dimension == model.dimension


def unverified_row(connection: Connection) -> Any:
    """Return the row of the current model if its vectors came from elsewhere and nobody has seen its weights."""
    current = sa.select(embedding_models).where(embedding_models.c.current, ~embedding_models.c.verified)
    return connection.execute(current).one_or_none()


def _adopt(connection: Connection, model: ModelIdentity) -> int | None:
    """Give the current model these weights if nobody has seen its weights before; return its id."""
    if model.weights_sha256 == unverified_digest(model.name):
        return None
    adopted = _take_weights(connection, model, embedding_models.c.name == model.name)
    if adopted is not None:
        log.info("the vectors that came from elsewhere as %s belong to its weights from now on: %s", model.name, model)
    return adopted


def rename_model(connection: Connection, model: ModelIdentity) -> bool:
    """Give the current model these weights and this name, if its name differs and its weights are unverified.

    Its vectors must have been compared with the model's. Returns whether it was renamed.
    """
    named = embedding_models.c.name
    before = connection.scalar(sa.select(named).where(embedding_models.c.current))
    renamed = _take_weights(connection, model, named != model.name) is not None
    if renamed:
        log.info("the vectors that came from elsewhere as %s are those of %s", before, model)
    return renamed


def _take_weights(connection: Connection, model: ModelIdentity, named: sa.ColumnElement[bool]) -> int | None:
    """Give the current model a model's name and weights, if its own weights are unverified; return its id."""
    of_other = sa.exists().where(embedding_models.c.weights_sha256 == model.weights_sha256)
    return connection.scalar(
        sa.update(embedding_models)
        .where(
            embedding_models.c.current,
            ~embedding_models.c.verified,
            named,
            embedding_models.c.dimension == model.dimension,
            ~sa.select(sa.literal(1)).where(of_other).exists(),
        )
        .values(name=model.name, weights_sha256=model.weights_sha256, verified=True)
        .returning(embedding_models.c.id)
    )


def check_weights(connection: Connection, weights_sha256: bytes) -> None:
    """Check, as `check_model`, vectors that were stored by a model with these weights.

    Raises:
        ModelMismatchError: stored images were embedded with other weights.
    """
    row = connection.execute(
        sa.select(embedding_models).where(embedding_models.c.weights_sha256 == weights_sha256)
    ).one_or_none()
    if row is not None:
        check_model(connection, _identity(row))


def has_images(connection: Connection) -> bool:
    """Whether any image is stored."""
    return bool(connection.scalar(sa.select(sa.exists().select_from(images))))


def _is_followed(connection: Connection, name: str) -> bool:
    """Whether the collection was switched from a model, or is being switched to it."""
    named = embedding_models.c.name.in_(_names(name))
    retired = sa.exists().where(named, embedding_models.c.retired_at.is_not(None))
    if connection.scalar(sa.select(retired)):
        return True
    coming = sa.exists().where(named, embedding_models.c.id == model_switches.c.embedding_model_id, _OPEN)
    return bool(connection.scalar(_MAY_READ_SWITCHES) and connection.scalar(sa.select(coming)))


def _names(name: str) -> set[str]:
    """Return what `embedding_models` may call a model: a folder's path may have been given in another way."""
    return {name, str(Path(os.path.realpath(os.path.expanduser(name))))}  # noqa: PTH111 - Path.expanduser raises


@cache
def _log_once(wanted: str, stored: str) -> None:
    log.warning(
        "SEARCHDB_MODEL is %s, but the collection has been switched to %s, which is used: unset SEARCHDB_MODEL",
        wanted,
        stored,
    )


def _mismatch(connection: Connection, stored: ModelIdentity, given: ModelIdentity) -> ModelMismatchError:
    of_given = embedding_models.c.weights_sha256 == given.weights_sha256
    switched = sa.exists().where(of_given, embedding_models.c.retired_at.is_not(None))
    return ModelMismatchError(
        stored=stored.name,
        stored_weights=stored.short_weights,
        stored_dimension=stored.dimension,
        given=given.name,
        given_weights=given.short_weights,
        given_dimension=given.dimension,
        stored_is_demo=stored.name == DEMO_MODEL,
        switched=bool(connection.scalar(sa.select(switched))),
    )


def _identity(row: Any) -> ModelIdentity:
    return ModelIdentity(name=row.name, weights_sha256=row.weights_sha256, dimension=row.dimension)
