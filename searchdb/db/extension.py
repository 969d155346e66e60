"""Makes pgvector's type and operators usable on a connection, in whichever schema the extension is installed."""

from __future__ import annotations

from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from sqlalchemy import Connection

from searchdb.errors import SchemaError

SEARCH_PATH = "searchdb_search_path"
"""Key in a connection's `info`: the schemas that its search_path named before the extension's was added."""

_FIND = b"""
SELECT current_schemas(false)::text[], n.nspname::text, n.nspname = ANY (current_schemas(false)),
    has_schema_privilege(n.oid, 'USAGE'), quote_ident(current_user), quote_ident(n.nspname)
FROM (VALUES (true)) AS one LEFT JOIN pg_extension e ON e.extname = 'vector'
    LEFT JOIN pg_namespace n ON n.oid = e.extnamespace
"""
# Last, so that no other object of that schema hides one of the collection's.
APPEND = """
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), %s::text), %s)
"""
"""Adds a schema, which is quoted if necessary, to the search_path; the second parameter: of the transaction only?"""
MISSING_SCHEMA = "searchdb_missing_schema"
"""Key in a connection's `info`: the schema to add in each transaction, where the session is not ours."""


def use_vectors(connection: psycopg.Connection[Any], info: dict[Any, Any], *, session: bool) -> None:
    """Add the extension's schema to a new connection's search_path if it is not there, and register the vector type.

    Operators such as `<=>` are found by the search_path only. Does nothing before the extension exists.

    Args:
        connection: not in a transaction.
        info: gets SEARCH_PATH, and MISSING_SCHEMA if that must be added in each transaction.
        session: whether the session is ours, and so its search_path; through a pooler it is not.

    Raises:
        SchemaError: our role may not use the extension's schema.
    """
    with connection.transaction():
        row = connection.execute(_FIND).fetchone()
        assert row is not None  # noqa: S101 - the query has one row
        schemas, schema, on_path, usable, role, quoted = row
        info[SEARCH_PATH] = schemas
        if schema is None:
            return
        if not usable:
            raise SchemaError(
                f"the extension vector is in the schema {schema}, which the role {role} may not use: "
                f"run GRANT USAGE ON SCHEMA {quoted} TO {role}"
            )
        if not on_path:
            connection.execute(APPEND, [quoted, not session])
            if not session:
                info[MISSING_SCHEMA] = quoted
        register_vector(connection)


def advice_on_builds(connection: Connection) -> str | None:
    """Return what to do before an index can be built on a connection; None if it can be.

    A build runs in no transaction, in which alone the search_path could be set through a pooler.
    """
    schema = connection.info.get(MISSING_SCHEMA)
    if schema is None:
        return None
    return (
        f"an index cannot be built through a pooler while the extension's schema {schema} is not on the role's "
        f"search_path: run ALTER ROLE ... SET search_path = public, {schema}, or set DATABASE_URL to the server itself"
    )
