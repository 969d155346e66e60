"""Makes and repairs the embedded server's role that may SELECT and do nothing else."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

READER = "searchdb_reader"
"""The role's name. It has no password: the server trusts everyone who may enter its folder."""
READER_CONNECTIONS = 80
"""Most connections of the role, so that readers leave some of PostgreSQL's default of 100 to the owner."""
READER_SETTINGS = {"default_transaction_read_only": "on", "statement_timeout": "60s", "temp_file_limit": "4GB"}
"""The role's settings. Only a superuser may change the last one: a sort or a join cannot fill the disk."""
READER_LOCK_KEY = 0x5EA2C4DC
"""Key of the advisory lock that stops two processes from making the role at once."""
ALL_DATA = "pg_read_all_data"
"""The role whose privileges it has: grants on tables would be in dumps, and fail where a dump is restored without the
role. It includes tables that are made later, and the system catalogs, also with the hashes of passwords."""

_STATE = text(
    """
    SELECT r.oid IS NOT NULL AS exists,
        r.rolcanlogin AND r.rolinherit AND r.rolconnlimit = :connections AND r.rolpassword IS NULL
        AND coalesce(r.rolvaliduntil, 'infinity') = 'infinity'
        AND NOT (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls) AS attributes,
        ARRAY(
            SELECT quote_ident(of.rolname) || CASE WHEN inherit_option THEN '' ELSE ' without inheritance' END
            FROM pg_auth_members m JOIN pg_roles of ON of.oid = m.roleid WHERE m.member = r.oid
        ) AS memberships,
        coalesce((SELECT setconfig FROM pg_db_role_setting WHERE setrole = r.oid AND setdatabase = 0), '{}')
            AS settings,
        ARRAY(
            SELECT quote_ident(datname) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase
            WHERE setrole = r.oid
        ) AS databases,
        EXISTS (
            SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid
            AND dbid IN (0, d.oid) AND classid NOT IN ('pg_auth_members'::regclass)
        ) AS more,
        EXISTS (
            SELECT FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) WHERE grantee = 0
            AND privilege_type = 'TEMPORARY'
        ) AS temporary,
        quote_ident(d.datname) AS database,
        (SELECT each FROM pg_roles o, unnest(o.rolconfig) AS each
         WHERE o.rolname = current_user AND each LIKE 'search_path=%') AS search_path
    FROM pg_database d LEFT JOIN pg_authid r ON r.rolname = :reader WHERE d.datname = current_database()
    """
)
_MEMBERSHIPS = text(
    "SELECT quote_ident(of.rolname) AS of, quote_ident(by.rolname) AS by FROM pg_auth_members m "
    "JOIN pg_roles of ON of.oid = m.roleid JOIN pg_roles by ON by.oid = m.grantor WHERE m.member = to_regrole(:reader)"
)


def ensure_reader(connection: Connection) -> bool:
    """Make the embedded server's reader, or make it again what it has to be; return whether anything was changed.

    Whatever else the role was granted is revoked, and what it owns becomes ours.

    Args:
        connection: of the superuser, in a transaction without uncommitted writes; commits it.

    Raises:
        DatabaseError: PostgreSQL refused, as on a full disk.
    """
    if not _repairs(_state(connection)):
        return False
    connection.rollback()
    with connection.begin():
        # Roles belong to the server: a database that is read-only by default stays so.
        connection.execute(text("SET TRANSACTION READ WRITE"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": READER_LOCK_KEY})
        state = _state(connection)
        statements = _repairs(state)
        if state.exists and state.memberships != [ALL_DATA]:
            for row in connection.execute(_MEMBERSHIPS, {"reader": READER}).all():
                statements.insert(0, f"REVOKE {row.of} FROM {READER} GRANTED BY {row.by} CASCADE")
        for statement in statements:
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return bool(statements)


def _state(connection: Connection) -> Any:
    return connection.execute(_STATE, {"reader": READER, "connections": READER_CONNECTIONS}).one()


def _repairs(state: Any) -> list[str]:
    """Return the statements that make the role what it has to be; none if it is."""
    statements: list[str] = []
    if not state.exists:
        statements.append(f"CREATE ROLE {READER}")
    if not state.attributes:
        statements.append(
            f"ALTER ROLE {READER} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT NOREPLICATION NOBYPASSRLS "
            f"CONNECTION LIMIT {READER_CONNECTIONS} PASSWORD NULL VALID UNTIL 'infinity'"
        )
    if state.more:
        statements += [f"REASSIGN OWNED BY {READER} TO CURRENT_USER", f"DROP OWNED BY {READER}"]
    if state.memberships != [ALL_DATA]:
        statements.append(f"GRANT {ALL_DATA} TO {READER} WITH INHERIT TRUE, SET FALSE")
    # The collection is found by the search_path, which may be set for the owner's role alone.
    path = [] if state.search_path is None else [state.search_path]
    if set(state.settings) != {*(f"{name}={value}" for name, value in READER_SETTINGS.items()), *path}:
        statements.append(f"ALTER ROLE {READER} RESET ALL")
        statements += [f"ALTER ROLE {READER} SET {name} = '{value}'" for name, value in READER_SETTINGS.items()]
        statements += [f"ALTER ROLE {READER} SET search_path TO {each.partition('=')[2]}" for each in path]
    statements += [f"ALTER ROLE {READER} IN DATABASE {name} RESET ALL" for name in state.databases]
    if state.temporary:
        statements.append(f"REVOKE TEMPORARY ON DATABASE {state.database} FROM PUBLIC")
    return statements
