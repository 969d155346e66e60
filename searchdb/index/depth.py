"""Stores the search depth, probes or ef_search, with match_images, for every client."""

from __future__ import annotations

from sqlalchemy import Connection, text

from searchdb.index.status import MATCH_IMAGES, SETTINGS, missing


def owner(connection: Connection) -> str | None:
    """Return the role that may build and tune the index; None if our own role may.

    Raises:
        SchemaError: there is no match_images.
    """
    row = connection.execute(
        text(
            "SELECT pg_get_userbyid(CASE WHEN pg_has_role(c.relowner, 'USAGE') THEN p.proowner ELSE c.relowner END), "
            "pg_has_role(c.relowner, 'USAGE') AND pg_has_role(p.proowner, 'USAGE') "
            "FROM pg_class c, pg_proc p WHERE c.oid = to_regclass('images') AND p.oid = to_regprocedure(:function)"
        ),
        {"function": MATCH_IMAGES},
    ).one_or_none()
    if row is None:
        raise missing(MATCH_IMAGES)
    return None if row[1] else row[0]


def store_setting(connection: Connection, method: str, setting: int) -> None:
    """Set the search depth for every client: it is stored with the function match_images."""
    # Loads pgvector into this session: until then its settings are unknown, and only a superuser may set unknown ones.
    connection.execute(text("SELECT CAST('[1]' AS vector)"))
    connection.execute(text(f"ALTER FUNCTION {MATCH_IMAGES} SET {SETTINGS[method]} = {int(setting)}"))
