"""Stores the search depth, probes or ef_search, with match_images, for every client."""

from __future__ import annotations

from sqlalchemy import Connection, text

from searchdb.db.vectors import CURRENT_COLUMN, SIGNATURE, VectorColumn
from searchdb.index.status import SETTINGS, missing


def owner(connection: Connection, column: VectorColumn = CURRENT_COLUMN) -> str | None:
    """Return the role that may build and tune the index; None if our own role may.

    Raises:
        SchemaError: there is no match_images.
    """
    function = column.function + SIGNATURE
    row = connection.execute(
        text(
            "SELECT pg_get_userbyid(CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN p.proowner ELSE c.relowner END), "
            "pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.proowner, 'USAGE') "
            "FROM pg_class c, pg_proc p WHERE c.oid = to_regclass('images') AND p.oid = to_regprocedure(:function)"
        ),
        {"function": function},
    ).one_or_none()
    if row is None:
        raise missing(function)
    return None if row[1] else row[0]


def store_setting(connection: Connection, method: str, setting: int, column: VectorColumn = CURRENT_COLUMN) -> None:
    """Set the search depth for every client: it is stored with the function that searches a column."""
    # Loads pgvector into this session: until then its settings are unknown, and only a superuser may set unknown ones.
    connection.execute(text("SELECT CAST('[1]' AS vector)"))
    connection.execute(text(f"ALTER FUNCTION {column.function}{SIGNATURE} SET {SETTINGS[method]} = {int(setting)}"))
