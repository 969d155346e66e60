"""Lets one command at a time run a change of the model, and tells whether it lives."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy import Engine

from searchdb.db.open_switch import OpenSwitch
from searchdb.db.switch_tables import model_switches
from searchdb.errors import DatabaseError
from searchdb.ingest.queue import seconds

BEAT_S = 3.0
"""Seconds between two signs of life."""
LOST_AFTER_S = 20.0
"""A command without a sign of life for this long is taken for dead."""


def is_alive(switch: OpenSwitch, age_s: float) -> bool:
    """Whether the command that runs a change lives, as far as is known; `age_s` is that of its last sign of life."""
    if switch.host == socket.gethostname():
        return age_s < LOST_AFTER_S and process_exists(switch.pid)
    return age_s < LOST_AFTER_S


def process_exists(pid: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def take_lease(engine: Engine, switch_id: int) -> bool:
    """Make this process the one that runs a change, unless another one that lives does; return whether it is."""
    row = model_switches.c
    host, pid = socket.gethostname(), os.getpid()
    with engine.begin() as connection:
        held = connection.execute(
            sa.select(row.host, row.pid, (row.seen_at < sa.func.now() - seconds(LOST_AFTER_S)).label("silent"))
            .where(row.id == switch_id, row.ended_at.is_(None))
            .with_for_update()
        ).one_or_none()
        if held is None:
            return False
        ours = (held.host, held.pid) == (host, pid)
        dead = held.silent or (held.host == host and not process_exists(held.pid))
        if not (ours or dead):
            return False
        connection.execute(
            sa.update(model_switches).where(row.id == switch_id).values(host=host, pid=pid, seen_at=sa.func.now())
        )
    return True


class Heartbeat:
    """Gives a sign of life every BEAT_S seconds while its `with` lasts, and notices that the change has ended.

    `lost` is set when the change was aborted, or another command has taken it over.
    """

    def __init__(self, engine: Engine, switch_id: int) -> None:
        self._engine = engine
        self._id = switch_id
        self._end = threading.Event()
        self.lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="searchdb-switch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(BEAT_S):
            with suppress(DatabaseError):  # an outage: the next one may come through
                if not self._beat():
                    self.lost.set()
                    return

    def _beat(self) -> bool:
        row = model_switches.c
        mine = row.id == self._id, row.host == socket.gethostname(), row.pid == os.getpid(), row.ended_at.is_(None)
        with self._engine.begin() as connection:
            return bool(
                connection.execute(sa.update(model_switches).where(*mine).values(seen_at=sa.func.now())).rowcount
            )
