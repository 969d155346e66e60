"""Finds and adds the primary keys, unique constraints and foreign keys that a schema lacks, as after half a restore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, ForeignKeyConstraint, MetaData, PrimaryKeyConstraint, UniqueConstraint, text
from sqlalchemy.schema import Constraint

ROW_KEYS = (PrimaryKeyConstraint, UniqueConstraint)
"""Keys that INSERT ... ON CONFLICT and foreign keys need."""
KEYS = (*ROW_KEYS, ForeignKeyConstraint)

_EXISTING = text(
    """
    SELECT c.relname, k.conname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_constraint k ON k.conrelid = c.oid WHERE n.nspname = :schema AND c.relkind IN ('r', 'p')
    """
)


def missing_keys(
    connection: Connection, schema: str, metadata: MetaData, kinds: tuple[type[Constraint], ...] = KEYS
) -> Sequence[Any]:
    """Return the keys of these kinds that the tables in a schema lack; a missing table is not reported."""
    existing = {tuple(row) for row in connection.execute(_EXISTING, {"schema": schema})}
    tables = {table for table, _ in existing}
    keys = [
        constraint
        for table in metadata.sorted_tables
        if table.name in tables
        for constraint in table.constraints
        if isinstance(constraint, kinds) and len(constraint.columns)  # type: ignore[attr-defined]
    ]
    absent = [key for key in keys if (key.table.name, str(key.name)) not in existing]
    return sorted(absent, key=lambda key: str(key.name))


def add_keys(
    connection: Connection, schema: str, metadata: MetaData, kinds: tuple[type[Constraint], ...]
) -> Sequence[str]:
    """Add the missing keys of these kinds in the first schema of the search_path; return their names.

    Raises:
        DatabaseError: the rows break one of them.
    """
    compiler: Any = connection.dialect.ddl_compiler(connection.dialect, None)  # type: ignore[arg-type]
    added = list[str]()
    for key in missing_keys(connection, schema, metadata, kinds):
        connection.execute(text(f"ALTER TABLE {key.table.name} ADD {compiler.process(key)}"))
        added.append(f"constraint {key.name}")
    return added
