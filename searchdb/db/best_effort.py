"""Notes that searches leave in the database for the next ones, which a database that may only be read is spared."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, text

from searchdb.errors import DatabaseError

T = TypeVar("T")

REFUSALS = frozenset({"42501", "25006"})
"""Insufficient privilege, as of a role that may only SELECT; and a read-only transaction, as on a standby."""
RETRY_WRITES_AFTER_S = 60.0
"""Between two tries to write where it was refused: somebody may have granted it meanwhile."""

_UNHURRIED = text("SET LOCAL synchronous_commit = off")
"""Nobody waits for the disk: a crash of the server loses at most the notes of its last second."""

_refused_at: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()


def write_best_effort(connection: Connection, write: Callable[[], T]) -> T | None:
    """Write and commit what only makes later searches faster; where that is refused, go on without it.

    Args:
        connection: in no transaction whose writes are to be kept.
        write: executes the statements on it.

    Returns:
        what `write` returned; None where the database refuses to be written, or did so a moment ago.
    """
    refused_at = _refused_at.get(connection.engine)
    if refused_at is not None and time.monotonic() - refused_at < RETRY_WRITES_AFTER_S:
        return None
    try:
        connection.execute(_UNHURRIED)
        result = write()
        connection.commit()
    except DatabaseError as exc:
        connection.rollback()
        if exc.sqlstate not in REFUSALS:
            raise
        _refused_at[connection.engine] = time.monotonic()
        return None
    _refused_at.pop(connection.engine, None)
    return result
