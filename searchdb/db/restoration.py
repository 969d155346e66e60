"""Creates what a collection's schema lacks: tables that can be filled again, keys, indexes, CHECKs and functions."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.functions import install_functions, outdated_functions
from searchdb.db.keys import ROW_KEYS, add_keys, missing_keys
from searchdb.db.schema import EXTENSION_DROPPED, missing_objects, use_schema
from searchdb.db.tables import (
    VECTOR_INDEX,
    image_sample,
    images,
    norm_in_range,
    procrastinate,
    query_embeddings,
    relevance_scale,
)
from searchdb.db.vectors import current_column, other_columns
from searchdb.db.views import VIEWS, install_views
from searchdb.errors import SchemaError

REFILLED = ("query_embeddings", "image_sample", "relevance_scale", "index_builds", "index_recalls", "ingest_chunks")
"""Tables that hold caches and history: an empty one fills again. All others hold what only a backup can restore."""
IN_ROW = (image_sample.c.embedding, relevance_scale.c.everyday_vector)
"""Columns of those tables with STORAGE PLAIN."""
DOMAIN = "searchdb_embedding"
"""Creating it loads pgvector's library, which a restore needs before it creates match_images: see migration 0010."""


def restore_objects(connection: Connection, schema: str, metadata: sa.MetaData) -> Sequence[str]:
    """Create all that a schema lacks but the vector index; return the names, such as `function match_images`.

    `metadata` declares the tables. Sets the transaction's search_path to the schema.

    Raises:
        SchemaError: the extension, a table, or part of the queue is missing, and only a backup has it.
    """
    missing = missing_objects(connection, schema)
    if "extension vector" in missing:
        raise SchemaError(EXTENSION_DROPPED)
    use_schema(connection, schema)
    lost = [name.removeprefix("table ") for name in missing if name.startswith("table ")]
    final = [f"table {name}" for name in lost if name not in REFILLED]
    final += [name for name in missing if name.startswith("column ")]
    if final:
        raise SchemaError(
            f"the database lacks the {', the '.join(final)}, and only a backup has what was there: restore it"
        )
    if keys := missing_keys(connection, schema, procrastinate):
        raise SchemaError(
            f"the queue's tables lack the constraint {keys[0].name}, as after a restore that stopped halfway: "
            "restore the backup again, into an empty database"
        )
    restored = [f"function {name}" for name in outdated_functions(connection, schema)]
    install_functions(connection, [name.removeprefix("function ") for name in restored])
    restored += add_keys(connection, schema, metadata, ROW_KEYS)
    for name in lost:
        metadata.tables[name].create(connection, checkfirst=False)
        for column in IN_ROW:
            if column.table.name == name:
                connection.execute(text(f"ALTER TABLE {name} ALTER COLUMN {column.name} SET STORAGE PLAIN"))
        restored.append(f"table {name}, empty")
    restored += add_keys(connection, schema, metadata, (sa.ForeignKeyConstraint,))
    restored += _restore_indexes(connection, schema, metadata)
    views = [name for name in VIEWS if f"view {name}" in missing]
    install_views(connection, views)
    restored += [f"view {name}" for name in views]
    restored += _restore_norm_checks(connection)
    if not connection.scalar(text("SELECT to_regtype(:name) IS NOT NULL"), {"name": DOMAIN}):
        connection.execute(text(f"CREATE DOMAIN {DOMAIN} AS vector(512)"))
        restored.append(f"domain {DOMAIN}")
    return restored


def _restore_indexes(connection: Connection, schema: str, metadata: sa.MetaData) -> Sequence[str]:
    """Create missing indexes but the vector index, which is built beside searches."""
    stored = text(
        "SELECT indexname FROM pg_indexes WHERE schemaname = :schema",
    )
    existing = set(connection.scalars(stored, {"schema": schema}))
    restored: list[str] = []
    for table in metadata.tables.values():
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in existing and index.name != VECTOR_INDEX:
                index.create(connection, checkfirst=False)
                restored.append(f"index {index.name}")
    return restored


def _restore_norm_checks(connection: Connection) -> Sequence[str]:
    """Add the CHECKs on vectors where they are missing: on images not valid yet, which takes no long lock."""
    exists = text("SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = :name AND conrelid = to_regclass(:table))")
    columns = [current_column(connection), *other_columns(connection)]
    checks = [(query_embeddings, f"{query_embeddings.name}_embedding_norm_check", "embedding")]
    checks += [(images, column.norm_check, column.name) for column in columns]
    restored: list[str] = []
    for table, name, column in checks:
        if connection.scalar(exists, {"name": name, "table": table.name}):
            continue
        check = norm_in_range(column)
        if table is query_embeddings:
            connection.execute(sa.delete(table).where(~sa.literal_column(f"({check})", sa.Boolean)))  # a cache
        valid = " NOT VALID" if table is images else ""
        connection.execute(text(f"ALTER TABLE {table.name} ADD CONSTRAINT {name} CHECK ({check}){valid}"))
        restored.append(f"constraint {name}")
    return restored
