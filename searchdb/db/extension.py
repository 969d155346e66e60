"""Makes pgvector's type and operators usable on a connection, in whichever schema the extension is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

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
_APPEND = b"""
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), %s::text), false)
"""


def use_vectors(connection: psycopg.Connection[Any], record: Any) -> None:
    """Add the extension's schema to a new connection's search_path if it is not there, and register the vector type.

    Operators such as `<=>` are found by the search_path only. Does nothing before the extension exists.

    Raises:
        SchemaError: our role may not use the extension's schema.
    """
    try:
        record.info[SEARCH_PATH] = _prepare(connection)
    except BaseException:
        connection.close()  # the pool does not know it yet
        raise


def _prepare(connection: psycopg.Connection[Any]) -> Sequence[str]:
    """Prepare a connection for vectors; return the schemas on its search_path before."""
    with connection.transaction():
        row = connection.execute(_FIND).fetchone()
        assert row is not None  # noqa: S101 - the query has one row
        schemas, schema, on_path, usable, role, quoted = row
        if schema is None:
            return schemas
        if not usable:
            raise SchemaError(
                f"the extension vector is in the schema {schema}, which the role {role} may not use: "
                f"run GRANT USAGE ON SCHEMA {quoted} TO {role}"
            )
        if not on_path:
            connection.execute(_APPEND, [quoted])
        register_vector(connection)
        return schemas
