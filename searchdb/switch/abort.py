"""Ends an open change of the model as if it had never begun."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.short_locks import with_short_locks
from searchdb.db.switch_tables import model_switches, switch_failures
from searchdb.db.tables import embedding_models
from searchdb.db.vectors import column_of
from searchdb.db.width import drop_column
from searchdb.errors import DatabaseError, SwitchError
from searchdb.records import ModelIdentity
from searchdb.switch.forget import OF_A_MODEL
from searchdb.switch.jobs import cancel_jobs
from searchdb.switch.obstacles import require_owner, require_unused

# The build of an index would hold the table until it ends, and be for nothing.
_STOP_BUILDS = text(
    """
    SELECT pg_cancel_backend(progress.pid) FROM pg_stat_progress_create_index AS progress
    JOIN pg_class ON pg_class.oid = progress.index_relid
    WHERE progress.relid = to_regclass('images') AND pg_class.relname LIKE replace(:column, '_', '\\_') || '\\_%'
    """
)


@dataclass(frozen=True, kw_only=True)
class AbortReport:
    """The model that a change led to which was ended, and whether the collection still has vectors by it."""

    model: ModelIdentity
    kept: bool


def abort_switch(database: Database) -> AbortReport:
    """Drop what the open change has made: column, index, function, texts and jobs; return what was ended.

    Vectors of a model that was the current one before are kept, with those that were added.

    Workers that are at it find no column and leave their jobs. It may be called at any moment before the change-over.

    Raises:
        SwitchError: no change is open, the model has become the current one, or something depends on the column that
            would be dropped.
        DatabaseError: we do not own the tables, or they were in use all the time.
    """
    with database.connect() as connection:
        require_owner(connection, "ending the switch")
        switch = open_switch(connection)
        if switch is None:
            raise SwitchError("no switch to another model is open: there is nothing to abort")
        _require_unchanged(switch)
        if not _was_current(connection, switch):
            require_unused(connection, switch.column.name)
    with database.begin() as connection:
        # First, so that nothing new is queued; the command that runs it notices, and ends.
        connection.execute(
            sa.update(model_switches)
            .where(model_switches.c.id == switch.id, model_switches.c.changed_at.is_(None))
            .values(phase="abort")
        )
        cancel_jobs(connection)
    with suppress(DatabaseError), database.begin() as connection:  # a build of another role: wait for its end
        connection.execute(_STOP_BUILDS, {"column": f"images_{switch.column.name}"})

    def drop(connection: Connection) -> None:
        connection.execute(text("LOCK TABLE embedding_models IN EXCLUSIVE MODE"))
        found = open_switch(connection)
        if found is None or found.id != switch.id:
            return
        _require_unchanged(found)
        connection.execute(text("LOCK TABLE images IN ACCESS EXCLUSIVE MODE"))
        # The vectors of a model that was the current one before are kept until `searchdb model forget`.
        if _was_current(connection, switch):
            schema = connection.scalar(
                text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'images'::regclass")
            )
            connection.execute(text(f"DROP INDEX IF EXISTS {schema}.{switch.column.missing_index}"))
            connection.execute(
                sa.delete(switch_failures).where(switch_failures.c.embedding_model_id == switch.model_id)
            )
        else:
            require_unused(connection, switch.column.name)
            drop_column(connection, switch.column)
            for table in OF_A_MODEL:
                connection.execute(sa.delete(table).where(table.c.embedding_model_id == switch.model_id))
        cancel_jobs(connection)
        connection.execute(
            sa.update(model_switches)
            .where(model_switches.c.id == switch.id)
            .values(ended_at=sa.func.now(), aborted=True)
        )

    with_short_locks(database.engine, drop, what="ending the switch")
    with database.connect() as connection:
        return AbortReport(model=switch.model, kept=column_of(connection, switch.model_id) is not None)


def _was_current(connection: Connection, switch: OpenSwitch) -> bool:
    """Whether the model that a change leads to was the current one before."""
    model = embedding_models.c
    return connection.scalar(sa.select(model.retired_at).where(model.id == switch.model_id)) is not None


def _require_unchanged(switch: OpenSwitch) -> None:
    if switch.changed_at is not None:
        raise SwitchError(
            f"the collection has the vectors of {switch.model} since {switch.changed_at:%Y-%m-%d %H:%M}: finish with "
            f"`searchdb model switch {shlex.quote(switch.model.name)}`, then switch back to the model before"
        )
