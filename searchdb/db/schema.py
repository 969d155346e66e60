"""Checks and migrates the database's schema."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from searchdb.bundled import migrations_folder
from searchdb.db.functions import EXTENSION_SCHEMA, FUNCTIONS, outdated_functions
from searchdb.db.keys import missing_keys
from searchdb.db.switch_tables import metadata  # with the tables of tables.py
from searchdb.db.tables import VECTOR_INDEX, procrastinate
from searchdb.db.version_table import Collection, adopt, find_collection, has_tables_of_ours, quoted
from searchdb.db.views import VIEWS
from searchdb.errors import DatabaseError, SchemaError

if TYPE_CHECKING:
    from searchdb.db.database import Database

SCHEMA_REVISION = "0012"
"""The migration that this code works with; a test checks that it is the newest one."""
MIN_PGVECTOR = (0, 8)
"""The first pgvector with iterative index scans, without which match_images may return too few rows."""
MIGRATION_LOCK_KEY = 0x5EA2C4DB
"""Key of the advisory lock that stops two migrations from running at once."""
MIGRATION_LOCK_TIMEOUT = "60s"
"""Longest wait for that lock, or for a table that a long query holds."""
DATASET_TABLES = ("photos", "keywords", "collections", "conversions", "colors")
"""Tables of the Unsplash dataset, without the prefix: they are declared in a package that this one does not import."""
QUEUE_TABLES = ("jobs", "events", "periodic_defers", "workers")
"""Procrastinate's tables, without the prefix."""
TABLES = frozenset(
    {name for name in metadata.tables if not name.startswith("unsplash_")}
    | {f"unsplash_{name}" for name in DATASET_TABLES}
    | {f"procrastinate_{name}" for name in QUEUE_TABLES}
)
"""The names of all our tables, Procrastinate's among them."""

COLUMNS = sorted((t.name, c.name) for t in metadata.tables.values() if t.name in TABLES for c in t.columns)
"""Our tables' columns, as pairs of names."""
EXTENSION_DROPPED = "the extension vector was dropped, and all vectors with it: only a backup has them, restore it"
REVISION_LOST = (
    "the schema {schema} has a collection, but not the revision of its tables: restore the backup again; or, if this "
    "version of searchdb has migrated it before, run CREATE TABLE IF NOT EXISTS {place}.searchdb_version (version_num "
    "varchar(32) NOT NULL CONSTRAINT searchdb_version_pkc PRIMARY KEY) and INSERT INTO {place}.searchdb_version VALUES "
    "('{revision}')"
)
INSUFFICIENT_PRIVILEGE = "42501"
NOT_FOUND = frozenset({"42883", "42P01", "42704"})
"""SQLSTATEs of an undefined function, table and other object."""
_OURS = re.compile(
    rf"(?<![\w.])(\w+\.)?(?:{'|'.join(sorted(TABLES | FUNCTIONS.keys() | VIEWS.keys() | {VECTOR_INDEX}))})\b"
)

_migrating = threading.Lock()
"""Alembic has one context per process, so threads take turns; processes do so by the advisory lock."""

_MISSING = text(
    """
    SELECT 'table ' || name FROM unnest(CAST(:tables AS text[])) AS name WHERE NOT EXISTS (
        SELECT FROM pg_class WHERE relname = name AND relnamespace = n.oid AND relkind IN ('r', 'p')
    )
    UNION ALL
    SELECT 'function ' || name FROM unnest(CAST(:functions AS text[])) AS name WHERE NOT EXISTS (
        SELECT FROM pg_proc WHERE proname = name AND pronamespace = n.oid
    )
    UNION ALL
    SELECT 'view ' || name FROM unnest(CAST(:views AS text[])) AS name WHERE NOT EXISTS (
        SELECT FROM pg_class WHERE relname = name AND relnamespace = n.oid AND relkind = 'v'
    )
    UNION ALL
    SELECT 'column ' || wanted.relation || '.' || wanted.name
    FROM unnest(CAST(:relations AS text[]), CAST(:columns AS text[])) AS wanted (relation, name)
    JOIN pg_class c ON c.relname = wanted.relation AND c.relnamespace = n.oid
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = wanted.name AND NOT attisdropped
    )
    UNION ALL
    SELECT 'extension vector' WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')
    ORDER BY 1
    """.replace("n.oid", "(SELECT oid FROM pg_namespace WHERE nspname = :schema)")
)
_TAKEN = text(
    "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
    "WHERE nspname = :schema AND relname = ANY (CAST(:tables AS text[])) ORDER BY relname LIMIT 1"
)


def schema_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema; None if it has no schema yet."""
    return find_collection(connection).revision


def check_schema(connection: Connection) -> None:
    """Check that the schema has the revision that this code works with, and all its tables and functions.

    Raises:
        SchemaError: it needs `searchdb db migrate`, `searchdb db repair`, or a newer searchdb.
    """
    collection = find_collection(connection)
    if collection.revision != SCHEMA_REVISION:
        raise SchemaError(schema_advice(collection.revision))
    check_complete(connection, collection)


def check_complete(connection: Connection, collection: Collection) -> None:
    """Check that a collection has all its tables and functions.

    Raises:
        SchemaError: it needs `searchdb db repair`.
    """
    missing = missing_objects(connection, collection.schema)
    if "extension vector" in missing:
        raise SchemaError(EXTENSION_DROPPED)
    if missing:
        raise SchemaError(
            f"the database lacks the {', the '.join(missing)}: run `searchdb db repair` as the owner of the database"
        )


def missing_objects(connection: Connection, schema: str) -> Sequence[str]:
    """Return what a schema lacks of the extension, our tables, columns, functions and views, such as `table images`."""
    names = {
        "schema": schema,
        "tables": sorted(TABLES),
        "functions": list(FUNCTIONS),
        "views": list(VIEWS),
        "relations": [table for table, _ in COLUMNS],
        "columns": [column for _, column in COLUMNS],
    }
    return connection.scalars(_MISSING, names).all()


def advice_on_missing(sqlstate: str | None, message: str) -> str | None:
    """Return what to do about PostgreSQL's error that an object does not exist; None if it is none of ours."""
    if sqlstate in NOT_FOUND and _OURS.search(message):
        return "If the schema lacks it, run `searchdb db repair` as the owner of the database"
    return None


def migrate(database: Database) -> None:
    """Bring the schema to the newest revision; safe to run in several processes at once.

    Raises:
        SchemaError: the schema is newer than this code, pgvector is missing or too old, or another application has a
            table with a name of ours.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    from searchdb.db.connections import behind_pooler  # which imports this module

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with _migrating, database.connect() as connection:
        config.attributes["connection"] = connection
        if not behind_pooler(connection):  # where no session has a limit of ours, and others would get this one
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("SET lock_timeout = 0")
            connection.commit()
        try:
            command.upgrade(config, "head")
        except CommandError as exc:
            raise SchemaError(schema_advice(schema_revision(connection))) from exc
    database.engine.dispose()  # older connections do not know the vector type


def refuse_taken_names(connection: Connection, names: Sequence[str]) -> None:
    """Refuse a migration where an application beside us has one of the names that it creates.

    Raises:
        SchemaError: the first schema of the search_path has a relation with such a name.
    """
    taken = text("SELECT relname FROM pg_class WHERE relname = ANY (:names) AND relnamespace = :schema ::regnamespace")
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    name = connection.scalar(taken, {"names": list(names), "schema": schema})
    if name is not None:
        raise SchemaError(
            f"the schema {schema} has a relation {name} that is not searchdb's, which needs the name for one of its "
            f"own: rename it, as by ALTER TABLE {name} RENAME TO my_{name}, then run `searchdb db migrate`"
        )


def prepare_migration(connection: Connection) -> str:
    """Make a transaction ready for the migrations; return the schema in which they create tables.

    Creates the extension, checks that no other application uses our names, and sets the search_path.

    Raises:
        SchemaError: as `migrate`.
    """
    collection = find_collection(connection)
    if collection.revision is None:
        taken = connection.scalar(_TAKEN, {"schema": collection.schema, "tables": sorted(TABLES)})
        if taken is not None and has_tables_of_ours(connection, collection.schema):
            place = quoted(connection, collection.schema)
            raise SchemaError(REVISION_LOST.format(schema=collection.schema, place=place, revision=SCHEMA_REVISION))
        if taken is not None:
            raise SchemaError(
                f"the schema {collection.schema} has a table {taken} that is not searchdb's: give searchdb a schema of "
                "its own, run CREATE SCHEMA searchdb and add ?options=-csearch_path%3Dsearchdb to DATABASE_URL"
            )
    _require_pgvector(connection, create=collection.revision is None)
    adopt(connection, collection)
    use_schema(connection, collection.schema)
    return collection.schema


def use_schema(connection: Connection, schema: str) -> None:
    """Until the transaction ends, look for names in a collection's schema, and then in the extension's."""
    path = f"SELECT set_config('search_path', format('%I, %I', CAST(:schema AS text), {EXTENSION_SCHEMA}), true)"
    connection.execute(text(path), {"schema": schema})


def outdated_objects(connection: Connection, schema: str) -> Sequence[str]:
    """Return what a schema lacks of tables, keys, functions, views and the vector index, and functions that differ."""
    missing = [name for name in missing_objects(connection, schema) if not name.startswith("function ")]
    functions = [f"function {name}" for name in outdated_functions(connection, schema)]
    keys = [
        f"constraint {key.name}"
        for tables in (metadata, procrastinate)
        for key in missing_keys(connection, schema, tables)
    ]
    index = f"{quoted(connection, schema)}.{VECTOR_INDEX}"
    valid = connection.scalar(
        text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": index}
    )
    return [*missing, *keys, *functions, *([] if valid else [f"index {VECTOR_INDEX}"])]


def schema_advice(revision: str | None) -> str:
    """Return what to do about a revision that is not SCHEMA_REVISION."""
    if revision is None:
        return "the database has no searchdb tables yet: run `searchdb db migrate`"
    found = f"the database's schema is at {revision}, this searchdb works with {SCHEMA_REVISION}"
    return f"{found}: {'run `searchdb db migrate`' if revision < SCHEMA_REVISION else 'upgrade searchdb'}"


def _require_pgvector(connection: Connection, *, create: bool) -> None:
    """Check the extension's version; create it for a new collection if it does not exist."""
    installed, version = connection.execute(
        text(
            "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
            "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector')"
        )
    ).one()
    needed = ".".join(map(str, MIN_PGVECTOR))
    version = installed or version
    if version is None:
        raise SchemaError(f"the server has no pgvector: install pgvector {needed} or newer on it")
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_PGVECTOR:
        raise SchemaError(
            f"the server has pgvector {version}, searchdb needs {needed} or newer: "
            "install it and run ALTER EXTENSION vector UPDATE"
        )
    if installed is None and not create:
        raise SchemaError(EXTENSION_DROPPED)
    if installed is None:
        # Not in a collection's own schema: dropping that would drop the vectors of all other collections.
        public = connection.scalar(text("SELECT to_regnamespace('public') IS NOT NULL"))
        try:
            connection.execute(text(f"CREATE EXTENSION vector{' WITH SCHEMA public' if public else ''}"))
        except DatabaseError as exc:
            if exc.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
            error = SchemaError(f"{exc}: have an administrator run CREATE EXTENSION vector in this database")
            error.sqlstate = exc.sqlstate
            raise error from exc
