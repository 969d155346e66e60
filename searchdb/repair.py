"""Puts back what a restore or an accident left out of a collection's schema: tables, functions, the vector index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.embedded_reader import READER, ensure_reader
from searchdb.db.norms import InvalidVectors, validate_norms
from searchdb.db.open_switch import open_switch
from searchdb.db.restoration import restore_objects
from searchdb.db.schema import SCHEMA_REVISION, schema_advice
from searchdb.db.vectors import CURRENT, VectorColumn, current_column, other_columns
from searchdb.db.version_table import find_collection
from searchdb.errors import DatabaseError, SchemaError
from searchdb.index.build import build_index
from searchdb.index.status import has_index
from searchdb.switch.finish import finish
from searchdb.unsplash.tables import metadata  # the same one, with the dataset's tables in it


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What was put back, such as `function match_images`, and the images whose vectors have no usable length."""

    restored: Sequence[str]
    invalid: InvalidVectors | None


def repair(settings: Settings) -> RepairReport:
    """Make a collection's schema complete again; safe to repeat, and does nothing to a complete one.

    Missing and different functions are created as this version defines them, and keep what was tuned. The vector index
    is built if it is missing or invalid; searches and ingest continue. Missing tables that can be filled again are
    created empty.

    Raises:
        SchemaError: the schema has another revision, or lacks a table that only a backup can restore.
        DatabaseError: we do not own the tables.
    """
    with Database(settings) as database:
        with database.begin() as connection:
            collection = find_collection(connection)
            if collection.revision != SCHEMA_REVISION:
                raise SchemaError(schema_advice(collection.revision))
            restored = list(restore_objects(connection, collection.schema, metadata))
        if database.embedded:
            with database.connect() as connection:
                restored += [f"role {READER}"] if ensure_reader(connection) else []
        with database.connect() as connection:
            invalid = validate_norms(connection, collection.schema)
        if finish(database):
            restored.append("the end of the switch to another model")
        for column in _without_index(database):
            try:
                build_index(database.engine, column=column)
            except DatabaseError:
                if invalid is None:  # otherwise these rows are the cause, or are to be mended first in any case
                    raise
            else:
                beside = "" if column.name == CURRENT else f" of the model {column.model_id}"
                restored.append(f"the vector index{beside}")
        return RepairReport(restored=restored, invalid=invalid)


def _without_index(database: Database) -> Sequence[VectorColumn]:
    """Return the columns of vectors without a valid index; an open switch builds that of its own."""
    with database.connect() as connection:
        switch = open_switch(connection)
        columns = [current_column(connection), *other_columns(connection)]
        built = [column for column in columns if switch is None or column.model_id != switch.model_id]
        return [column for column in built if not has_index(connection, column)]
