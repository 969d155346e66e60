"""Checks and migrates the database's schema."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from searchdb.bundled import migrations_folder
from searchdb.errors import SchemaError

if TYPE_CHECKING:
    from searchdb.db.database import Database

SCHEMA_REVISION = "0009"
"""The migration that this code works with; a test checks that it is the newest one."""
MIN_PGVECTOR = (0, 8)
"""The first pgvector with iterative index scans, without which match_images may return too few rows."""
MIGRATION_LOCK_KEY = 0x5EA2C4DB
"""Key of the advisory lock that stops two migrations from running at once."""
MIGRATION_LOCK_TIMEOUT = "60s"
"""Longest wait for that lock, or for a table that a long query holds."""

_migrating = threading.Lock()
"""Alembic has one context per process, so threads take turns; processes do so by the advisory lock."""


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema; None if it has no schema yet."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    return connection.scalar(text("SELECT version_num FROM alembic_version"))


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision; safe to run in several processes at once.

    Raises:
        SchemaError: the schema is newer than this code, or pgvector is missing or too old.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with _migrating, database.connect() as connection:
        config.attributes["connection"] = connection
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.commit()
        _require_pgvector(connection)
        try:
            command.upgrade(config, "head")
        except CommandError as exc:
            raise SchemaError(schema_advice(schema_revision(connection))) from exc
    database.engine.dispose()  # older connections do not know the vector type


def schema_advice(revision: str | None) -> str:
    """Return what to do about a revision that is not SCHEMA_REVISION."""
    if revision is None:
        return "the database has no searchdb tables yet: run `searchdb db migrate`"
    found = f"the database's schema is at {revision}, this searchdb works with {SCHEMA_REVISION}"
    return f"{found}: {'run `searchdb db migrate`' if revision < SCHEMA_REVISION else 'upgrade searchdb'}"


def _require_pgvector(connection: Connection) -> None:
    version = connection.scalar(
        text(
            "SELECT coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
            "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector'))"
        )
    )
    connection.rollback()
    needed = ".".join(map(str, MIN_PGVECTOR))
    if version is None:
        raise SchemaError(f"the server has no pgvector: install pgvector {needed} or newer on it")
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_PGVECTOR:
        raise SchemaError(
            f"the server has pgvector {version}, searchdb needs {needed} or newer: "
            "install it and run ALTER EXTENSION vector UPDATE"
        )
