"""Runs statements that may have a user's raw condition in them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Connection

from searchdb.db.driver_errors import INSUFFICIENT_PRIVILEGE, QUERY_CANCELED
from searchdb.db.reading import refused, traceless
from searchdb.errors import DatabaseError, DatabaseUnavailableError, QueryError
from searchdb.search.filters import Filters


@contextmanager
def guarded(connection: Connection, filters: Filters | None, timeout_s: float) -> Generator[None]:
    """Run statements with a raw condition in them: read-only, without a trace, and for at most `timeout_s` seconds.

    Without such a condition it does nothing.

    Raises:
        QueryError: PostgreSQL refuses the condition, or it takes too long.
    """
    if not filters or not filters.where:
        yield
        return
    try:
        with traceless(connection, timeout_s):
            yield
    except DatabaseUnavailableError:
        raise
    except DatabaseError as exc:
        reason = str(exc)
        if exc.sqlstate == QUERY_CANCELED:
            reason += f" (the limit is {timeout_s:g} s: simplify it, or create an index for it)"
        elif exc.sqlstate == INSUFFICIENT_PRIVILEGE:
            reason = str(refused(exc, "a condition may only read"))
        raise QueryError(f"where is refused by PostgreSQL: {reason}", field="where") from exc
