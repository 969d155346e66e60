"""Lets one command at a time run a change of the model, and tells whether it lives."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

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


def this_process() -> str:
    """Return what tells this process from all others, of other containers, too: where its pid counts, and a number."""
    return f"{_pid_space()}/{_number_of(os.getpid())}"


@cache
def _pid_space() -> str:
    """Return what is equal for all processes among which a pid means the same one: containers may share a host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - Path would follow the link
    except OSError:  # not Linux: there are no such spaces
        return socket.gethostname()


@cache
def _number_of(_pid: int) -> str:
    """Return a random number for this process; a child that is forked later gets one of its own."""
    return uuid4().hex


def is_alive(switch: OpenSwitch, age_s: float) -> bool:
    """Whether the command that runs a change lives, as far as is known; `age_s` is that of its last sign of life."""
    return age_s < LOST_AFTER_S and not _is_gone(switch.process, switch.pid)


def _is_gone(process: str, pid: int) -> bool:
    """Whether a process is known to have ended; of one elsewhere only its signs of life tell."""
    return process.rpartition("/")[0] == _pid_space() and not process_exists(pid)


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
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "process": this_process()}
    with engine.begin() as connection:
        held = connection.execute(
            sa.select(row.pid, row.process, (row.seen_at < sa.func.now() - seconds(LOST_AFTER_S)).label("silent"))
            .where(row.id == switch_id, row.ended_at.is_(None))
            .with_for_update()
        ).one_or_none()
        if held is None:
            return False
        if not (held.process == mine["process"] or held.silent or _is_gone(held.process, held.pid)):
            return False
        connection.execute(sa.update(model_switches).where(row.id == switch_id).values(**mine, seen_at=sa.func.now()))
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
        mine = row.id == self._id, row.process == this_process(), row.ended_at.is_(None)
        with self._engine.begin() as connection:
            return bool(
                connection.execute(sa.update(model_switches).where(*mine).values(seen_at=sa.func.now())).rowcount
            )
