"""Begins the change to another model: checks that it can be done, and makes the column for the new vectors."""

from __future__ import annotations

import os
import shlex
import socket

import sqlalchemy as sa
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import insert

from searchdb.config import Settings
from searchdb.db.current_model import current_model
from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.short_locks import with_short_locks
from searchdb.db.switch_tables import model_switches
from searchdb.db.tables import embedding_models, images, norm_in_range
from searchdb.db.vectors import VectorColumn, column_of, current_column, other_columns
from searchdb.errors import SwitchError
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION, ModelIdentity
from searchdb.switch.lease import this_process
from searchdb.switch.obstacles import require_no_obstacles, require_owner
from searchdb.switch.space import space_needed, storage_beside


def start_switch(database: Database, settings: Settings, model: ModelIdentity) -> OpenSwitch:
    """Begin the change to a model, or join the one that is open, and return it.

    A column that is there already, of a model that was switched from or of an aborted change, is used again: only what
    it lacks is made. It is safe to repeat, at whichever point it was interrupted.

    Raises:
        SwitchError: the model is the current one, a change to another is open, something depends on the columns, or the
            disk is too small.
        DatabaseError: we do not own the tables, or they were in use all the time.
    """
    with database.connect() as connection:
        found = open_switch(connection)
    if found is None:
        _check(database, settings, model)
        with_short_locks(database.engine, lambda connection: _insert(connection, model), what="the switch")
        with database.connect() as connection:
            found = open_switch(connection)
    if found is None:
        raise SwitchError("the switch was aborted while it began: begin it again")
    if found.model.weights_sha256 != model.weights_sha256:
        raise SwitchError(
            f"a switch to {found.model} is open since {found.started_at:%Y-%m-%d %H:%M}: continue it with "
            f"`searchdb model switch {shlex.quote(found.model.name)}`, or end it with `searchdb model switch --abort`"
        )
    if found.phase == "abort":
        raise SwitchError(
            f"the switch to {found.model} is being ended: run `searchdb model switch --abort` once more if that was "
            "interrupted, then begin again"
        )
    if found.changed_at is None:
        _make_column(database, found.column)
    return found


def _check(database: Database, settings: Settings, model: ModelIdentity) -> None:
    if not MIN_DIMENSION <= model.dimension <= MAX_DIMENSION:
        raise SwitchError(
            f"{model.name} gives {model.dimension:,} numbers, and pgvector indexes {MIN_DIMENSION} to "
            f"{MAX_DIMENSION:,}: choose another model"
        )
    with database.connect() as connection:
        current = current_model(connection)
        if current is not None and current.weights_sha256 == model.weights_sha256:
            raise SwitchError(f"the collection has the vectors of {model} already: there is nothing to switch")
        require_owner(connection, "switching the model")
        require_no_obstacles(connection)
        known = connection.scalar(
            sa.select(embedding_models.c.id).where(embedding_models.c.weights_sha256 == model.weights_sha256)
        )
        column = None if known is None else column_of(connection, known)
        missing = None if column is None else count_missing(connection, column)
    space = space_needed(database, settings, model.dimension, missing=missing)
    if not space.fits:
        raise SwitchError(
            f"the switch needs about {space.peak / 1e6:,.0f} MB on the disk of the embedded server, which has "
            f"{(space.free or 0) / 1e6:,.0f} MB free: free some space, or set SEARCHDB_HOME to another disk"
        )


def count_missing(connection: Connection, column: VectorColumn) -> int:
    """Return how many images have no vector in a column."""
    return connection.scalar(text(f"SELECT count(*) FROM images WHERE {column.name} IS NULL")) or 0  # noqa: S608


def _insert(connection: Connection, model: ModelIdentity) -> None:
    same = embedding_models.c.weights_sha256 == model.weights_sha256
    connection.execute(
        insert(embedding_models)
        .values(name=model.name, weights_sha256=model.weights_sha256, dimension=model.dimension)
        .on_conflict_do_update(index_elements=["weights_sha256"], set_={"name": model.name})
    )
    current = sa.select(embedding_models.c.id).where(embedding_models.c.current).scalar_subquery()
    connection.execute(
        insert(model_switches)
        .values(
            embedding_model_id=sa.select(embedding_models.c.id).where(same).scalar_subquery(),
            from_model_id=current,
            phase="fill",
            host=socket.gethostname(),
            pid=os.getpid(),
            process=this_process(),
            row_count=sa.select(sa.func.count()).select_from(images).scalar_subquery(),
        )
        .on_conflict_do_nothing()  # another command has begun one meanwhile
    )


def _make_column(database: Database, column: VectorColumn) -> None:
    """Make what is missing of the column, its CHECK, and the index of the images that lack a vector."""
    assert column.model_id is not None  # noqa: S101 - a model that is being switched to has an id
    model_id = column.model_id

    def add(connection: Connection) -> None:
        connection.execute(text("LOCK TABLE images IN ACCESS EXCLUSIVE MODE"))
        if column_of(connection, model_id) is not None:
            return
        kept = [current_column(connection), *other_columns(connection)]
        storage = storage_beside(connection, kept, column.dimension)
        connection.execute(
            text(
                f"ALTER TABLE images ADD COLUMN {column.name} vector({column.dimension}), "
                f"ALTER COLUMN {column.name} SET STORAGE {storage}, "
                f"ADD CONSTRAINT {column.norm_check} CHECK ({norm_in_range(column.name)}) NOT VALID"
            )
        )
        connection.execute(
            text(f"COMMENT ON COLUMN images.{column.name} IS 'unit vector by the model {model_id}; NULL: none yet'")
        )

    with database.connect() as connection:
        exists = column_of(connection, model_id) is not None
    if not exists:
        with_short_locks(database.engine, add, what="adding a column")
    with database.connect() as connection:
        state = connection.execute(
            text(
                "SELECT (SELECT convalidated FROM pg_constraint "
                "WHERE conrelid = 'images'::regclass AND conname = :check) AS checked, "
                "(SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:index)) AS indexed"
            ),
            {"check": column.norm_check, "index": column.missing_index},
        ).one()
    if state.checked is False:
        # Reads the table, without stopping anybody.
        with database.begin() as connection:
            connection.execute(text(f"ALTER TABLE images VALIDATE CONSTRAINT {column.norm_check}"))
    if not state.indexed:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {column.missing_index}"))
            connection.execute(
                text(f"CREATE INDEX CONCURRENTLY {column.missing_index} ON images (id) WHERE {column.name} IS NULL")
            )
