"""Databases with pgvector in a schema of its own, and roles without rights beyond what an application gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.database_url import libpq_url

OWNER = "searchdb_app"
"""A role that owns databases and is no superuser."""


def make_owner(admin: sa.Engine) -> str:
    """Create the role OWNER if it does not exist; return its name."""
    with admin.connect() as connection:
        if not connection.scalar(sa.text("SELECT count(*) FROM pg_roles WHERE rolname = :name"), {"name": OWNER}):
            connection.execute(sa.text(f"CREATE ROLE {OWNER} LOGIN"))
    return OWNER


@contextmanager
def owned_database(
    admin: sa.Engine, name: str, home: Path, *, extension_schema: str = "public", search_path: str | None = None
) -> Iterator[Settings]:
    """Create a database that OWNER owns, with pgvector in a schema; give OWNER's settings for it, and drop it.

    Args:
        extension_schema: the extension's, which OWNER may use but not create objects in.
        search_path: the `options=-csearch_path=...` of the URL, whose first schema is created.
    """
    owner = make_owner(admin)
    url = admin.url.set(database=name)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE template0 OWNER {owner} STRATEGY file_copy"))
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        if extension_schema != "public":
            connection.execute(sa.text(f"CREATE SCHEMA {extension_schema}"))
            connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {extension_schema} TO {owner}"))
        connection.execute(sa.text(f"CREATE EXTENSION vector WITH SCHEMA {extension_schema}"))
        if search_path:
            first = search_path.split(",")[0]
            connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {first} AUTHORIZATION {owner}"))
    engine.dispose()
    yield settings_for(url, home, search_path=search_path)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


def settings_for(url: sa.URL, home: Path, *, search_path: str | None = None, role: str = OWNER) -> Settings:
    """Return settings for a database as a role, with a search_path in the URL."""
    own = url.set(username=role)
    if search_path is not None:
        own = own.update_query_dict({"options": f"-csearch_path={search_path}"})
    return Settings(database_url=libpq_url(own), home=home, model="demo")
