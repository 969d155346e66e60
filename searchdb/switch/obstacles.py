"""Finds what would keep the vectors of the old model when the columns of `images` are renamed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

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
    AND att.attname IN ('embedding', 'embedding_model_id')
    AND (
        dependent.classid
            IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass)
        AND dependent.deptype = 'n'
        OR dependent.classid = 'pg_attrdef'::regclass
        OR dependent.classid = 'pg_class'::regclass AND dependent.objid = dependent.refobjid  -- a generated column
    )
    ORDER BY name
    """
)


def obstacles(connection: Connection) -> Sequence[str]:
    """Return the names of the views, rules and others that depend on `images.embedding` or `embedding_model_id`."""
    return connection.scalars(_DEPENDENT).all()
