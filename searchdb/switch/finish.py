"""Finishes a change-over while people search: makes the new column NOT NULL, and gathers statistics."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.database import Database
from searchdb.db.open_switch import open_switch
from searchdb.db.short_locks import with_short_locks
from searchdb.db.switch_tables import model_switches
from searchdb.switch.change_over import NOT_NULL_CHECK

_STATE = text(
    """
    SELECT a.attnotnull AS not_null, k.convalidated AS validated
    FROM pg_attribute a LEFT JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.conname = :name
    WHERE a.attrelid = to_regclass('images') AND a.attname = 'embedding'
    """
)


def finish(database: Database) -> bool:
    """Do what is left to do after a change-over; return whether anything was.

    All of it is done beside searches and ingest, and it is safe to repeat at whichever point it was interrupted.

    Raises:
        DatabaseError: we do not own the tables, or they were in use all the time.
    """
    with database.connect() as connection:
        state = connection.execute(_STATE, {"name": NOT_NULL_CHECK}).one()
        switch = open_switch(connection)
    changed = switch is not None and switch.changed_at is not None
    if state.validated is False:
        with database.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text(f"ALTER TABLE images VALIDATE CONSTRAINT {NOT_NULL_CHECK}"))
    if state.validated is not None or not state.not_null:
        with_short_locks(database.engine, _set_not_null, what="the end of the switch")
    if changed:
        with database.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("ANALYZE images"))
            ended = sa.update(model_switches).where(model_switches.c.ended_at.is_(None))
            connection.execute(ended.where(model_switches.c.changed_at.is_not(None)).values(ended_at=sa.func.now()))
    return changed or state.validated is not None or not state.not_null


def _set_not_null(connection: Connection) -> None:
    """Make the column NOT NULL, for which the validated CHECK saves reading the rows, and drop the CHECK."""
    connection.execute(text("ALTER TABLE images ALTER COLUMN embedding SET NOT NULL"))
    connection.execute(text(f"ALTER TABLE images DROP CONSTRAINT IF EXISTS {NOT_NULL_CHECK}"))
