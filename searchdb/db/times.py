"""Loads PostgreSQL's times, also those that Python's do not reach: infinity, and years before 1 or after 9999."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.types.datetime import DateLoader, TimestampLoader, TimestamptzLoader


def load_all_times(connection: psycopg.Connection[Any]) -> None:
    """Have a connection load times that Python cannot hold as PostgreSQL's text; psycopg would raise an error."""
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)


def _lenient(python: type[Loader]) -> type[Loader]:
    class LenientLoader(Loader):
        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._loader = python(oid, context)

        def load(self, data: Buffer) -> Any:
            try:
                return self._loader.load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return LenientLoader


_LOADERS = {
    "timestamptz": _lenient(TimestamptzLoader),
    "timestamp": _lenient(TimestampLoader),
    "date": _lenient(DateLoader),
}
