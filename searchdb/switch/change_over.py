"""Changes a collection over to another model, in one short transaction: its column of vectors becomes `embedding`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.connections import LOCKED, lift_time_limits
from searchdb.db.database import Database
from searchdb.db.driver_errors import require_writable
from searchdb.db.functions import install_match, pin_model, tuned_settings
from searchdb.db.older_snapshots import wait_for_older_snapshots
from searchdb.db.open_switch import OpenSwitch
from searchdb.db.short_locks import GIVE_UP_S, with_short_locks
from searchdb.db.switch_tables import model_switches, switch_failures
from searchdb.db.tables import embedding_models, images
from searchdb.db.vectors import SIGNATURE, VectorColumn, column_of, current_column
from searchdb.errors import DatabaseError, SwitchError, SwitchIncompleteError
from searchdb.index.status import BUILD_LOCK_KEY, drop_leftovers, has_index
from searchdb.switch.obstacles import require_no_obstacles

NOT_NULL_CHECK = "images_embedding_filled_check"
"""A CHECK that the new column has no NULL, which `finish` validates: it makes SET NOT NULL read no row."""

_SCHEMA = text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'images'::regclass")

logger = logging.getLogger(__name__)

EmbedTexts = Callable[[Connection], object]
"""Embeds the stored texts of the current model that have no vector by the new one, on the connection it is given."""


@dataclass(frozen=True, kw_only=True)
class ChangeReport:
    """What a change-over did.

    Attributes:
        moved: images that could not be embedded, now in `unembedded_images`.
        locked_s: seconds for which it held the lock that searches wait for.
        attempts: how often it tried to get that lock.
    """

    moved: int
    locked_s: float
    attempts: int


def change_over(
    database: Database,
    switch: OpenSwitch,
    *,
    embed_texts: EmbedTexts | None = None,
    give_up_s: float = GIVE_UP_S,
    cancel: threading.Event | None = None,
) -> ChangeReport:
    """Make the model of an open switch the current one; searches wait for milliseconds and then go on with it.

    Images without a vector must have a row in `switch_failures`: they move to `unembedded_images`. All stored texts
    must have a vector, and the index must have been built and tuned. It is safe to repeat: after the change-over it
    does nothing. Call `finish` afterwards.

    Args:
        database: the collection.
        switch: the open switch.
        embed_texts: embeds texts that came in since they were embedded for the new model. Nobody can add texts while it
            runs, so it should have little left to do.
        give_up_s: seconds after which no more attempt is made to get the lock.
        cancel: ends the attempts when it is set.

    Raises:
        SwitchIncompleteError: images or texts have no vector and no failure: fill them, and call it again.
        SwitchError: the column or its index is missing, or a view depends on the columns.
        DatabaseError: others use the table all the time, or we do not own it.
    """
    column = switch.column
    with database.connect() as connection:
        current = current_column(connection)
        if current.model_id == column.model_id:
            return ChangeReport(moved=0, locked_s=0.0, attempts=0)
        require_writable(connection, "the change-over")
        _check(connection, column)
    drop_leftovers(database.engine, column)
    _ensure_missing_index(database, column)
    # A statement with an older snapshot would see rows without the new vectors.
    wait_for_older_snapshots(database.engine, what="the change-over", give_up_s=give_up_s, cancel=cancel)
    attempts, locked = 0, 0.0

    def attempt(connection: Connection) -> int:
        nonlocal attempts, locked
        attempts += 1
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(BUILD_LOCK_KEY))):
            error = DatabaseError("an index of the collection is being built or tuned: try again when that has ended")
            error.sqlstate = LOCKED
            raise error
        # In the order in which writers lock: they share the row of the current model, then write images. It does not
        # stop readers.
        connection.execute(text("LOCK TABLE embedding_models IN EXCLUSIVE MODE"))
        old = current_column(connection)
        if old.model_id != switch.from_model_id or column_of(connection, switch.model_id) is None:
            raise SwitchError("the switch was ended, or the collection was switched: see `searchdb model status`")
        if embed_texts is not None:
            embed_texts(connection)
        connection.execute(text("LOCK TABLE images IN ACCESS EXCLUSIVE MODE"))
        locked = time.monotonic()
        _require_complete(connection, switch)
        moved = _move_failed(connection, switch)
        _exchange(connection, old, column)
        _record(connection, switch)
        return moved

    moved = with_short_locks(database.engine, attempt, what="the change-over", give_up_s=give_up_s, cancel=cancel)
    report = ChangeReport(moved=moved, locked_s=time.monotonic() - locked, attempts=attempts)
    logger.info(
        "the images have the vectors of %s now: searches waited for %.0f ms", switch.model, report.locked_s * 1e3
    )
    return report


def _check(connection: Connection, column: VectorColumn) -> None:
    """Check what can be checked before the lock."""
    require_no_obstacles(connection)
    assert column.model_id is not None  # noqa: S101 - of an open switch
    if column_of(connection, column.model_id) is None:
        raise SwitchError(
            f"images has no column {column.name}: the switch was ended; begin it again with `searchdb model switch`"
        )
    if not has_index(connection, column):
        raise SwitchError(f"there is no valid index {column.index}: build it before the change-over")


def _ensure_missing_index(database: Database, column: VectorColumn) -> None:
    """Make the index of the images without a vector, with which it takes no time to see that there are none."""
    valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.scalar(valid, {"name": column.missing_index}):
            return
        connection.detach()  # it goes back to no pool without its limits
        lift_time_limits(connection, local=False)
        connection.execute(text(f"DROP INDEX CONCURRENTLY IF EXISTS {column.missing_index}"))
        create = f"CREATE INDEX CONCURRENTLY {column.missing_index} ON images (id) WHERE {column.name} IS NULL"
        connection.execute(text(create))


def _require_complete(connection: Connection, switch: OpenSwitch) -> None:
    """Check that nothing is missing: the index of the images without a vector answers that at once."""
    missing = f"FROM images WHERE {switch.column.name} IS NULL"
    unknown = connection.scalar(
        text(
            f"SELECT count(*) {missing} AND NOT EXISTS (SELECT FROM switch_failures AS failure "  # noqa: S608
            "WHERE failure.image_id = images.id AND failure.embedding_model_id = :model)"
        ),
        {"model": switch.model_id},
    )
    texts = connection.scalar(
        text(
            "SELECT count(*) FROM query_embeddings AS old WHERE embedding_model_id = :old AND NOT EXISTS "
            "(SELECT FROM query_embeddings AS new WHERE new.query = old.query AND new.embedding_model_id = :new)"
        ),
        {"old": switch.from_model_id, "new": switch.model_id},
    )
    if unknown or texts:
        raise SwitchIncompleteError(images=unknown or 0, texts=texts or 0)


def _move_failed(connection: Connection, switch: OpenSwitch) -> int:
    """Move the images without a vector to `unembedded_images`, with all their columns and why; return how many."""
    names = ", ".join(column.name for column in images.columns)
    moved = connection.execute(
        text(
            f"""
            INSERT INTO unembedded_images ({names}, error, message, attempts, failed_at)
            SELECT {", ".join(f"images.{column.name}" for column in images.columns)},
                failure.error, failure.message, failure.attempts, failure.failed_at
            FROM images JOIN switch_failures AS failure ON failure.image_id = images.id
            WHERE failure.embedding_model_id = :model AND images.{switch.column.name} IS NULL
            """  # noqa: S608 - our own names
        ),
        {"model": switch.model_id},
    ).rowcount
    if moved:
        connection.execute(text(f"DELETE FROM images WHERE {switch.column.name} IS NULL"))  # noqa: S608
    connection.execute(sa.delete(switch_failures).where(switch_failures.c.embedding_model_id == switch.model_id))
    return moved


def _exchange(connection: Connection, old: VectorColumn, new: VectorColumn) -> None:
    """Give the columns, and all that belongs to them, each other's place. No row is read or written."""
    assert old.model_id is not None and new.model_id is not None  # noqa: S101, PT018 - both are of a model
    aside = VectorColumn.beside(old.model_id, old.dimension)
    here = VectorColumn(model_id=new.model_id, dimension=new.dimension)
    settings = {column: tuned_settings(connection, column) for column in (old, new)}
    schema = connection.execute(_SCHEMA).scalar_one()
    comments = {
        "embedding_model_id": images.c.embedding_model_id.comment,
        here.name: images.c.embedding.comment,
        aside.name: f"unit vector by the model {aside.model_id}, from which the collection was switched; NULL: none",
    }
    statements = [
        f"DROP INDEX IF EXISTS {schema}.{new.missing_index}",
        f"ALTER TABLE images ALTER COLUMN {old.name} DROP NOT NULL",
        *_renamings(schema, old, aside),
        *_renamings(schema, new, here),
        # A column with a default is added without writing it to the rows.
        "ALTER TABLE images DROP COLUMN embedding_model_id, "
        f"ADD CONSTRAINT {NOT_NULL_CHECK} CHECK ({here.name} IS NOT NULL) NOT VALID, "
        f"ADD COLUMN embedding_model_id integer NOT NULL DEFAULT {int(new.model_id)}",
        "ALTER TABLE images ALTER COLUMN embedding_model_id DROP DEFAULT",
        *(f"COMMENT ON COLUMN images.{name} IS '{comment}'" for name, comment in comments.items()),
        f"DROP FUNCTION {new.function}{SIGNATURE}",
    ]
    # In one message: on a busy machine each answer takes a while, and searches wait meanwhile.
    connection.exec_driver_sql("; ".join(statements), execution_options={"no_parameters": True})
    install_match(connection, here, settings[new])
    install_match(connection, aside, settings[old])
    pin_model(connection, new.model_id)


def _renamings(schema: str, before: VectorColumn, after: VectorColumn) -> Sequence[str]:
    return (
        f"ALTER TABLE images RENAME COLUMN {before.name} TO {after.name}",
        # The current model's may have been dropped by hand.
        f"ALTER INDEX IF EXISTS {schema}.{before.index} RENAME TO {after.index}",
        f"ALTER TABLE images RENAME CONSTRAINT {before.norm_check} TO {after.norm_check}",
    )


def _record(connection: Connection, switch: OpenSwitch) -> None:
    """Make the model the current one, and note when."""
    model = embedding_models.c
    connection.execute(sa.update(embedding_models).where(model.current).values(current=False, retired_at=sa.func.now()))
    now_current = sa.update(embedding_models).where(model.id == switch.model_id)
    connection.execute(now_current.values(current=True, retired_at=None))
    connection.execute(
        sa.update(model_switches)
        .where(model_switches.c.id == switch.id)
        .values(changed_at=sa.func.now(), phase="finish")
    )
