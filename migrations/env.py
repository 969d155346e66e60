"""Runs the migrations under an advisory lock, on the given connection or on the database in Settings."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, text

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.norms import warn_of_invalid_vectors
from searchdb.db.schema import MIGRATION_LOCK_KEY, MIGRATION_LOCK_TIMEOUT, prepare_migration
from searchdb.db.tables import VECTOR_INDEX
from searchdb.db.version_table import VERSION_TABLE, release
from searchdb.unsplash.tables import metadata  # the same one, with the dataset's tables in it


def run(connection: Connection) -> None:
    """Migrate in one transaction; a concurrent process waits and then finds nothing to do.

    A CHECK on the existing rows is validated in the next one, while reads and writes go on.
    """
    with connection.begin():
        connection.execute(
            text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": MIGRATION_LOCK_TIMEOUT}
        )
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK_KEY})
        schema = prepare_migration(connection)
        context.configure(
            connection=connection,
            target_metadata=metadata,
            include_object=include_object,
            version_table=VERSION_TABLE,
            version_table_schema=schema,
        )
        context.run_migrations()
        release(connection, schema)
    warn_of_invalid_vectors(connection, schema)


def include_object(obj: object, name: str | None, type_: str, reflected: bool, compare_to: object) -> bool:
    """Compare all but the vector index, whose options change with the data, and the tables of the queue and Alembic."""
    return name not in (VECTOR_INDEX, VERSION_TABLE) and not (
        type_ == "table" and (name or "").startswith("procrastinate_")
    )


def run_offline() -> None:
    """Print the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # others double each percent sign
        target_metadata=metadata,
        literal_binds=True,
        version_table=VERSION_TABLE,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if context.is_offline_mode():
    run_offline()
elif given is not None:
    run(given)
else:
    with Database(Settings()) as database, database.connect() as own:
        run(own)
