"""Makes a login role that may only SELECT a collection, on a server that is not the embedded one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from searchdb.db.driver_errors import INSUFFICIENT_PRIVILEGE
from searchdb.db.functions import EXTENSION_SCHEMA, FUNCTIONS
from searchdb.db.schema import TABLES
from searchdb.db.version_table import VERSION_TABLE, find_collection
from searchdb.db.views import VIEWS
from searchdb.errors import DatabaseError

PASSWORD_BYTES = 24
"""Random bytes of a password: it cannot be guessed, and needs no escaping in a URL."""
MAX_NAME_BYTES = 63
"""PostgreSQL's longest name of a role."""

_FOUND = text(
    """
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR NOT rolcanlogin
        OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid)
        OR EXISTS (SELECT FROM pg_class WHERE relowner = r.oid)
        OR EXISTS (SELECT FROM pg_database WHERE datdba = r.oid)
    FROM pg_roles r WHERE rolname = :name
    """
)
_GRANTS = text(
    f"""
    SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, CAST(:name AS text)) FROM pg_namespace
    WHERE (nspname = :schema OR nspname = {EXTENSION_SCHEMA}) AND NOT has_schema_privilege(:name, oid, 'USAGE')
    UNION ALL
    SELECT format('GRANT SELECT ON TABLE %I.%I TO %I', nspname, relname, CAST(:name AS text))
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = :schema AND relname = ANY (:tables) AND relkind IN ('r', 'p', 'v')
    AND NOT has_table_privilege(:name, pg_class.oid, 'SELECT')
    UNION ALL
    SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, CAST(:name AS text))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
    WHERE nspname = :schema AND (proname = ANY (:functions) OR proname ~ '^match_images_[0-9]+$')
    AND NOT has_function_privilege(:name, p.oid, 'EXECUTE')
    UNION ALL
    SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), CAST(:name AS text))
    WHERE NOT has_database_privilege(:name, current_database(), 'CONNECT')
    """  # noqa: S608 - our own SQL
)
_SETTINGS = text(
    f"""
    SELECT format('ALTER ROLE %I IN DATABASE %I SET default_transaction_read_only = on',
        CAST(:name AS text), current_database())
    UNION ALL
    SELECT format('ALTER ROLE %I IN DATABASE %I SET search_path = %s', CAST(:name AS text), current_database(),
        concat_ws(', ', quote_ident(:schema), quote_ident(nullif({EXTENSION_SCHEMA}, :schema))))
    """
)


@dataclass(frozen=True, kw_only=True)
class ReaderRole:
    """A role, its password unless that was kept, and whether it is new."""

    name: str
    password: str | None
    created: bool


def default_name(connection: Connection) -> str:
    """Return the name of a database's reader: roles belong to the server, which may have several collections."""
    database: str = connection.scalar(text("SELECT current_database()")) or ""
    suffix = "_reader"
    return database.encode()[: MAX_NAME_BYTES - len(suffix)].decode(errors="ignore") + suffix


def make_reader(connection: Connection, name: str, *, keep_password: bool = False) -> ReaderRole:
    """Create a role that may SELECT the collection's tables, or give an existing one the privileges that it lacks.

    Args:
        connection: of the tables' owner, not in a transaction; commits.
        name: the role's.
        keep_password: whether an existing role keeps its password, for which no right on the role is needed.

    Raises:
        DatabaseError: we may not create roles, or the role may do more than read.
    """
    with connection.begin():
        collection = find_collection(connection)
        found = connection.execute(_FOUND, {"name": name}).one_or_none()
        if found is not None and found[0]:
            raise DatabaseError(
                f"the role {name} exists, and may do more than read, or not log in: choose another with --name"
            )
        password = None if keep_password and found is not None else secrets.token_urlsafe(PASSWORD_BYTES)
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        try:
            if password is not None:
                verb = "CREATE" if found is None else "ALTER"
                connection.exec_driver_sql(
                    f"{verb} ROLE {quoted} LOGIN PASSWORD '{_encrypted(connection, name, password)}'"
                )
        except DatabaseError as exc:
            if exc.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
            action = "create a role" if found is None else f"change the password of the role {name}"
            raise DatabaseError(
                f"our role may not {action}: have an administrator run CREATE ROLE {quoted} LOGIN PASSWORD '...', then "
                f"run `searchdb db reader --name {name} --keep-password`"
            ) from exc
        names = {"name": name, "schema": collection.schema}
        tables = [*sorted(TABLES), *VIEWS, VERSION_TABLE]
        grants = connection.scalars(_GRANTS, names | {"tables": tables, "functions": list(FUNCTIONS)}).all()
        statements: list[str] = [*grants, *([] if password is None else connection.scalars(_SETTINGS, names))]
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return ReaderRole(name=name, password=password, created=found is None)


def reader_url(owner: URL, role: ReaderRole) -> URL:
    """Return the URL of the owner's database by the new role, without the owner's secrets."""
    query = {name: value for name, value in owner.query.items() if name not in ("passfile", "sslcert", "sslkey")}
    return owner.set(username=role.name, password=role.password, query=query)


def _encrypted(connection: Connection, name: str, password: str) -> str:
    """Return a password as the server stores it, so that no log of statements has the password itself."""
    driver: Any = connection.connection.driver_connection
    return driver.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
