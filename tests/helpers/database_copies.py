"""Copies of a database that took long to fill, for tests that change it."""

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
def copied(admin: sa.Engine, settings: Settings, home: Path) -> Iterator[Settings]:
    """Give the settings of a copy of a database that nobody is connected to; drop it in the end."""
    original = settings.url()
    assert original is not None
    name = f"copy_{next(_numbers)}"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {original.database} STRATEGY file_copy")
    url = libpq_url(original.set(database=name))
    yield settings.model_copy(update={"database_url": SecretStr(url), "home": home})
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
