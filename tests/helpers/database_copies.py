"""Databases that are copies of another one, and are dropped after use."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from searchdb.config import Settings
from searchdb.database_url import libpq_url

_numbers = itertools.count(1)


@contextmanager
def copied_database(admin: sa.Engine, template: str) -> Iterator[str]:
    """Copy a database, which must have no connections, yield the name of the copy, and drop it afterwards.

    Copying the template's files takes a third of the time of logging its pages, which is PostgreSQL's default.
    """
    name = f"test_{next(_numbers)}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    yield name
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def copied_collection(admin: sa.Engine, settings: Settings, home: Path) -> Iterator[Settings]:
    """Yield the settings of a copy of a collection's database, with another home."""
    original = settings.url()
    assert original is not None
    assert original.database is not None
    with copied_database(admin, original.database) as name:
        url = libpq_url(original.set(database=name))
        yield settings.model_copy(update={"database_url": SecretStr(url), "home": home})
