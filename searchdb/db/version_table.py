"""The collection's place in a database: its schema, and the table in it that records the schema's revision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from searchdb.db.extension import SEARCH_PATH
from searchdb.errors import SchemaError

VERSION_TABLE = "searchdb_version"
"""Alembic's table of the current revision, under a name that no other application uses."""
OLD_VERSION_TABLE = "alembic_version"
"""Its name before OWN_TABLE_SINCE. Any application that uses Alembic has a table of this name."""
OWN_TABLE_SINCE = "0010"

_OUR_TABLES = """
SELECT count(*) = 2 FROM pg_class ours JOIN pg_attribute a ON a.attrelid = ours.oid WHERE ours.relnamespace = n.oid
AND (ours.relname, a.attname) IN (('images', 'embedding_model_id'), ('embedding_models', 'weights_sha256'))
"""

# `alembic_version` is ours only beside tables of ours: another application may count its revisions as we do.
_FIND = text(
    f"""
    SELECT n.nspname, c.relname
    FROM unnest(CAST(:schemas AS text[])) WITH ORDINALITY AS path (name, place)
    JOIN pg_namespace n ON n.nspname = path.name JOIN pg_class c ON c.relnamespace = n.oid
    WHERE c.relkind = 'r' AND (c.relname = '{VERSION_TABLE}' OR c.relname = '{OLD_VERSION_TABLE}' AND ({_OUR_TABLES}))
    ORDER BY path.place, c.relname = '{OLD_VERSION_TABLE}' LIMIT 1
    """  # noqa: S608 - our own names
)


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Where a collection is: its schema, and the revision of its tables; None if there are none yet.

    `adopted` says whether the revision is in VERSION_TABLE, not in OLD_VERSION_TABLE.
    """

    schema: str
    revision: str | None
    adopted: bool


def find_collection(connection: Connection) -> Collection:
    """Return the first collection on the search_path, or the schema in which a new one would be made.

    The extension's schema, which `use_vectors` adds to the search_path, does not count: another collection may be in
    it.

    Raises:
        SchemaError: the search_path names no schema that exists.
    """
    schemas: Sequence[str] = connection.info[SEARCH_PATH]
    found = connection.execute(_FIND, {"schemas": list(schemas)}).one_or_none()
    if found is not None:
        schema, table = found
        revision = connection.scalar(text(f"SELECT max(version_num) FROM {quoted(connection, schema)}.{table}"))  # noqa: S608
        if table == VERSION_TABLE or (revision or "") < OWN_TABLE_SINCE:
            return Collection(schema=schema, revision=revision, adopted=table == VERSION_TABLE)
    if not schemas:
        path = connection.scalar(text("SELECT current_setting('search_path')"))
        raise SchemaError(
            f"the search_path, {path}, names no schema that exists and that we may use: run CREATE SCHEMA, or change "
            "the search_path in DATABASE_URL or of the role"
        )
    return Collection(schema=schemas[0], revision=None, adopted=True)


def has_tables_of_ours(connection: Connection, schema: str) -> bool:
    """Whether a schema has the tables of a collection, whatever its version table says."""
    query = text(f"SELECT ({_OUR_TABLES}) FROM pg_namespace n WHERE nspname = :schema")  # noqa: S608 - our own names
    return bool(connection.scalar(query, {"schema": schema}))


def adopt(connection: Connection, collection: Collection) -> None:
    """Rename the version table of a collection of before OWN_TABLE_SINCE."""
    if not collection.adopted:
        _rename(connection, collection.schema, OLD_VERSION_TABLE, VERSION_TABLE)


def release(connection: Connection, schema: str) -> None:
    """Rename the version table back after a downgrade, for the version of searchdb that goes with that revision."""
    revision = connection.scalar(text(f"SELECT max(version_num) FROM {quoted(connection, schema)}.{VERSION_TABLE}"))  # noqa: S608
    if revision is not None and revision < OWN_TABLE_SINCE:
        _rename(connection, schema, VERSION_TABLE, OLD_VERSION_TABLE)


def quoted(connection: Connection, schema: str) -> str:
    """Return a schema's name as SQL has it."""
    return connection.dialect.identifier_preparer.quote_identifier(schema)


def _rename(connection: Connection, schema: str, old: str, new: str) -> None:
    table = f"{quoted(connection, schema)}.{old}"
    connection.execute(text(f"ALTER TABLE {table} RENAME CONSTRAINT {old}_pkc TO {new}_pkc"))
    connection.execute(text(f"ALTER TABLE {table} RENAME TO {new}"))
