"""Finds what stands in the way of a change: what would keep the old model's vectors, and another owner."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection, text

from searchdb.db.driver_errors import INSUFFICIENT_PRIVILEGE, require_writable
from searchdb.errors import DatabaseError, SwitchError
from searchdb.index.depth import owner

RENAMED = ("embedding", "embedding_model_id")
"""Columns that a change of the model renames."""

# A view, a rule or a generated column refers to a column by its number, and follows a renamed one.
_DEPENDENT = text(
    """
    SELECT DISTINCT CASE dependent.classid
        WHEN 'pg_rewrite'::regclass THEN coalesce(
            (SELECT pg_describe_object('pg_class'::regclass, ev_class, 0) FROM pg_rewrite WHERE oid = dependent.objid),
            pg_describe_object(dependent.classid, dependent.objid, 0))
        ELSE pg_describe_object(dependent.classid, dependent.objid, dependent.objsubid)
    END AS name
    FROM pg_depend AS dependent
    JOIN pg_attribute AS att ON att.attrelid = dependent.refobjid AND att.attnum = dependent.refobjsubid
    WHERE dependent.refclassid = 'pg_class'::regclass AND dependent.refobjid = to_regclass('images')
    AND att.attname IN :columns
    AND (
        dependent.classid
            IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass)
        AND dependent.deptype = 'n'
        OR dependent.classid = 'pg_attrdef'::regclass
        OR dependent.classid = 'pg_class'::regclass AND dependent.objid = dependent.refobjid  -- a generated column
    )
    ORDER BY name
    """
).bindparams(sa.bindparam("columns", expanding=True))


def obstacles(connection: Connection, columns: Collection[str] = RENAMED) -> Sequence[str]:
    """Return the names of the views, rules and others that depend on any of these columns of `images`."""
    return connection.scalars(_DEPENDENT, {"columns": list(columns)}).all()


def require_no_obstacles(connection: Connection) -> None:
    """Check that nothing would keep the old model's vectors.

    Raises:
        SwitchError: a view, a rule or a generated column would.
    """
    if names := obstacles(connection):
        raise SwitchError(
            f"{', '.join(names)} depends on images.embedding or images.embedding_model_id, and would keep the old "
            "model's vectors when these columns are renamed: drop it before the switch, and create it again afterwards"
        )


def require_unused(connection: Connection, column: str) -> None:
    """Check that a column of `images` can be dropped: PostgreSQL refuses it while something else depends on it.

    Raises:
        SwitchError: a view, a rule or a generated column does.
    """
    if names := obstacles(connection, [column]):
        raise SwitchError(
            f"{', '.join(names)} depends on images.{column}, which is to be dropped: drop it first, or define it "
            "without this column"
        )


def require_owner(connection: Connection, action: str) -> None:
    """Check that we may change the tables; `action` is what for, such as "switching the model".

    Raises:
        DatabaseError: another role owns them, or they may only be read.
    """
    if (other := owner(connection)) is not None:
        error = DatabaseError(f"{action} needs the owner of the tables: connect as {other}")
        error.sqlstate = INSUFFICIENT_PRIVILEGE
        raise error
    require_writable(connection, action)
