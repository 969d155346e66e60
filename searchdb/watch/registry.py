"""Records running watches in the database, so that `searchdb status` and the page show them."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from searchdb.db.tables import folder_watches
from searchdb.errors import DatabaseError
from searchdb.ingest.rows import storable

HEARTBEAT_S = 10.0
"""Seconds between two records of a watch that is alive."""
LOST_AFTER_S = 60.0
"""A watch without a record for this long has died or cannot reach the database."""
FORGOTTEN_AFTER_S = 86_400.0
"""A lost watch is shown for a day, to be noticed."""
END_S = 5.0
"""Longest wait for a record in progress when the watch ends, in seconds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WatchState:
    """What a watch is doing: see the columns of `folder_watches`."""

    polling: bool = False
    changed_at: datetime | None = None
    waiting: int = 0
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class WatchStatus(WatchState):
    """A watch as the database knows it. `lost`: it has not been heard of for LOST_AFTER_S."""

    host: str
    pid: int
    paths: Sequence[str]
    started_at: datetime
    seen_at: datetime
    lost: bool


def read_watches(connection: Connection) -> list[WatchStatus]:
    """Return the watches that run, and those that were lost in the last day, the oldest first."""
    lost = (folder_watches.c.seen_at < _ago(LOST_AFTER_S)).label("lost")
    columns = [folder_watches.c[each.name] for each in fields(WatchStatus) if each.name != "lost"]
    statement = (
        sa.select(*columns, lost)
        .where(folder_watches.c.seen_at >= _ago(FORGOTTEN_AFTER_S))
        .order_by(folder_watches.c.id)
    )
    return [WatchStatus(**row) for row in connection.execute(statement).mappings()]


class Registration:
    """The record of one running watch, renewed every HEARTBEAT_S by a thread of its own. Use it in a `with`."""

    def __init__(self, engine: Engine, paths: Sequence[str]) -> None:
        self._engine = engine
        self._host, self._pid, self._paths = socket.gethostname(), os.getpid(), storable(list(paths))
        self._id: int | None = None
        self._state = WatchState()
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="searchdb-watch-record", daemon=True)

    def update(self, state: WatchState) -> None:
        """Record a new state soon."""
        if state != self._state:
            self._state = state
            self._changed.set()

    def others(self) -> list[WatchStatus]:
        """Return the other living watches on this host that follow one of the same folders."""
        with self._engine.connect() as connection:
            return [
                watch
                for watch in read_watches(connection)
                if not watch.lost
                and watch.host == self._host
                and watch.pid != self._pid
                and set(self._paths) & set(watch.paths)
            ]

    def __enter__(self) -> Registration:
        mine = folder_watches.c.host == self._host
        with self._engine.begin() as connection:
            here = connection.execute(sa.select(folder_watches.c.id, folder_watches.c.pid).where(mine)).all()
            # If one of them lives after all, as in another container of this host's name, it records itself again.
            dead = [row.id for row in here if row.pid == self._pid or not _lives(row.pid)]
            old = folder_watches.c.seen_at < _ago(FORGOTTEN_AFTER_S)
            connection.execute(sa.delete(folder_watches).where(folder_watches.c.id.in_(dead) | old))
        self._record()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._changed.set()
        self._thread.join(END_S)
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.delete(folder_watches).where(folder_watches.c.id == self._id))
        except DatabaseError as exc:
            logger.info("the end of the watch was not recorded: %s", exc)

    def _renew(self) -> None:
        while not self._ended.is_set():
            self._changed.wait(HEARTBEAT_S)
            self._changed.clear()
            if self._ended.is_set():
                return
            try:
                self._record()
            except DatabaseError as exc:  # it is recorded once the database is back
                logger.info("the state of the watch was not recorded: %s", exc)
            self._ended.wait(1.0)  # a state that changes all the time is not recorded more often

    def _record(self) -> None:
        state = self._state
        values = {
            "polling": state.polling,
            "changed_at": state.changed_at,
            "waiting": state.waiting,
            "problem": storable(state.problem),
            "seen_at": sa.func.now(),
        }
        mine = folder_watches.c.id == self._id
        with self._engine.begin() as connection:
            updated = sa.update(folder_watches).where(mine).values(values)
            if self._id is None or not connection.execute(updated).rowcount:
                place = {"host": self._host, "pid": self._pid, "paths": self._paths}
                new = sa.insert(folder_watches).values(place | values).returning(folder_watches.c.id)
                self._id = connection.scalar(new)


def _lives(pid: int) -> bool:
    """Whether a process of this host lives, as far as it can be seen from here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _ago(seconds: float) -> sa.ColumnElement[datetime]:
    return sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
