"""Turns the exceptions of Procrastinate, and of its own connections, into ours."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import psycopg
from procrastinate.exceptions import ProcrastinateException
from sqlalchemy.engine import URL

from searchdb.db.driver_errors import database_error
from searchdb.errors import DatabaseError


@contextmanager
def queue_errors(url: URL) -> Generator[None]:
    """Translate the exceptions of a block that calls Procrastinate on this database.

    Raises:
        DatabaseUnavailableError: the connection was lost or never made.
        DatabaseError: PostgreSQL refused a statement, or Procrastinate failed otherwise.
    """
    try:
        yield
    except (ProcrastinateException, psycopg.Error) as exc:
        original = _of_the_driver(exc)
        if original is None:
            raise DatabaseError(f"the queue failed: {type(exc).__name__}: {exc}") from exc
        raise database_error(original, url) from exc


def _of_the_driver(exc: BaseException | None) -> psycopg.Error | None:
    """Return the driver's exception that an exception comes from; None if there is none."""
    while exc is not None and not isinstance(exc, psycopg.Error):
        exc = exc.__cause__ or exc.__context__
    return exc
