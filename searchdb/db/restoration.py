"""Creates what a collection's schema lacks: tables that can be filled again, indexes, constraints and functions."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.functions import install_functions, outdated_functions
from searchdb.db.norms import CONSTRAINT
from searchdb.db.schema import EXTENSION_DROPPED, missing_objects, use_schema
from searchdb.db.tables import NORM_IN_RANGE, VECTOR_INDEX, image_sample, images, metadata, relevance_scale
from searchdb.errors import SchemaError

REFILLED = ("query_embeddings", "image_sample", "relevance_scale", "index_builds", "index_recalls", "ingest_chunks")
"""Tables that hold caches and history: an empty one fills again. All others hold what only a backup can restore."""
IN_ROW = (image_sample.c.embedding, relevance_scale.c.everyday_vector)
"""Columns of those tables with STORAGE PLAIN."""
DOMAIN = "searchdb_embedding"
"""Creating it loads pgvector's library, which a restore needs before it creates match_images: see migration 0010."""


def restore_objects(connection: Connection, schema: str) -> Sequence[str]:
    """Create all that a schema lacks but the vector index; return the names, such as `function match_images`.

    Sets the transaction's search_path to the schema.

    Raises:
        SchemaError: the extension or a table is missing, and only a backup has what was in it.
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
    restored = [f"function {name}" for name in outdated_functions(connection, schema)]
    install_functions(connection, [name.removeprefix("function ") for name in restored])
    for name in lost:
        metadata.tables[name].create(connection, checkfirst=False)
        for column in IN_ROW:
            if column.table.name == name:
                connection.execute(text(f"ALTER TABLE {name} ALTER COLUMN {column.name} SET STORAGE PLAIN"))
        restored.append(f"table {name}, empty")
    restored += _restore_indexes(connection, schema)
    restored += _restore_constraint(connection)
    if not connection.scalar(text("SELECT to_regtype(:name) IS NOT NULL"), {"name": DOMAIN}):
        connection.execute(text(f"CREATE DOMAIN {DOMAIN} AS vector(512)"))
        restored.append(f"domain {DOMAIN}")
    return restored


def _restore_indexes(connection: Connection, schema: str) -> Sequence[str]:
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


def _restore_constraint(connection: Connection) -> Sequence[str]:
    """Add the CHECK on vectors if it is missing, not valid yet: that takes no long lock."""
    exists = sa.text(
        "SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = :name AND conrelid = to_regclass('images'))"
    )
    if connection.scalar(exists, {"name": CONSTRAINT}):
        return []
    connection.execute(text(f"ALTER TABLE {images.name} ADD CONSTRAINT {CONSTRAINT} CHECK ({NORM_IN_RANGE}) NOT VALID"))
    return [f"constraint {CONSTRAINT}"]
