"""Ends an open change of the model as if it had never begun."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.short_locks import with_short_locks
from searchdb.db.switch_tables import model_switches, switch_failures
from searchdb.db.tables import (
    image_sample,
    index_builds,
    index_recalls,
    query_embeddings,
    relevance_scale,
)
from searchdb.db.vectors import SIGNATURE
from searchdb.errors import DatabaseError, SwitchError
from searchdb.switch.jobs import cancel_jobs
from searchdb.switch.start import require_owner

OF_A_MODEL = (query_embeddings, image_sample, relevance_scale, index_builds, index_recalls, switch_failures)
"""The tables with what is made with one model."""

# The build of an index would hold the table until it ends, and be for nothing.
_STOP_BUILDS = text(
    """
    SELECT pg_cancel_backend(progress.pid) FROM pg_stat_progress_create_index AS progress
    JOIN pg_class ON pg_class.oid = progress.index_relid
    WHERE progress.relid = to_regclass('images') AND pg_class.relname LIKE replace(:column, '_', '\\_') || '\\_%'
    """
)


def abort_switch(database: Database) -> OpenSwitch:
    """Drop what the open change has made: column, index, function, texts and jobs; return what was ended.

    Workers that are at it find no column and leave their jobs. It may be called at any moment before the change-over.

    Raises:
        SwitchError: no change is open, or the model has become the current one.
        DatabaseError: we do not own the tables, or they were in use all the time.
    """
    with database.connect() as connection:
        require_owner(connection)
        switch = open_switch(connection)
        if switch is None:
            raise SwitchError("no switch to another model is open: there is nothing to abort")
        _require_unchanged(switch)
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
        connection.execute(text(f"DROP FUNCTION IF EXISTS {switch.column.function}{SIGNATURE}"))
        connection.execute(text(f"ALTER TABLE images DROP COLUMN IF EXISTS {switch.column.name}"))
        for table in OF_A_MODEL:
            connection.execute(sa.delete(table).where(table.c.embedding_model_id == switch.model_id))
        cancel_jobs(connection)
        connection.execute(
            sa.update(model_switches)
            .where(model_switches.c.id == switch.id)
            .values(ended_at=sa.func.now(), aborted=True)
        )

    with_short_locks(database.engine, drop, what="ending the switch")
    return switch


def _require_unchanged(switch: OpenSwitch) -> None:
    if switch.changed_at is not None:
        raise SwitchError(
            f"the collection has the vectors of {switch.model} since {switch.changed_at:%Y-%m-%d %H:%M}: finish with "
            f"`searchdb model switch {switch.model.name}`, then switch back to the model before"
        )
