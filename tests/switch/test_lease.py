"""One command at a time runs a switch; whether it lives is told by its pid only where that means the same process."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
import sqlalchemy as sa

from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.switch_tables import model_switches
from searchdb.records import ModelIdentity
from searchdb.switch import lease
from searchdb.switch.lease import LOST_AFTER_S, is_alive, take_lease, this_process
from tests.helpers.two_models import OTHER, begin, images_of, random_units

ENDED = 2**22 + 1
"""A pid above the highest that Linux gives."""
ELSEWHERE = "another boot/4026531836/0"
HERE = this_process().rpartition("/")[0] + "/another process"


@pytest.fixture
def switch(database: Database) -> OpenSwitch:
    images_of(database, ModelIdentity(name="old", weights_sha256=b"1" * 32, dimension=512), random_units(3, 512))
    return begin(database, OTHER)


def run_by(database: Database, process: str, pid: int, *, silent: bool = False) -> OpenSwitch:
    """Have the switch run by a process, and return it."""
    seen = sa.func.now() - timedelta(seconds=LOST_AFTER_S + 1 if silent else 0)
    with database.begin() as connection:
        connection.execute(sa.update(model_switches).values(process=process, pid=pid, seen_at=seen))
    with database.connect() as connection:
        found = open_switch(connection)
    assert found is not None
    return found


def test_a_process_and_its_child_are_told_apart() -> None:
    assert this_process() == this_process()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, this_process().encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert of_child.rpartition("/")[0] == this_process().rpartition("/")[0]
    assert of_child != this_process()


@pytest.mark.parametrize(
    ("process", "pid", "silent", "alive"),
    [
        (HERE, os.getpid(), False, True),
        (HERE, ENDED, False, False),
        (HERE, os.getpid(), True, False),
        (ELSEWHERE, ENDED, False, True),
        (ELSEWHERE, os.getpid(), False, True),
        (ELSEWHERE, os.getpid(), True, False),
    ],
    ids=["here", "here, ended", "here, silent", "elsewhere", "elsewhere, with our pid", "elsewhere, silent"],
)
def test_who_is_taken_for_dead(
    database: Database, switch: OpenSwitch, process: str, pid: int, *, silent: bool, alive: bool
) -> None:
    """A container may have the host name and the pid of another one."""
    found = run_by(database, process, pid, silent=silent)
    assert is_alive(found, LOST_AFTER_S + 1 if silent else 0) is alive
    assert take_lease(database.engine, switch.id) is not alive
    assert take_lease(database.engine, switch.id) is not alive


def test_the_own_lease_is_kept(database: Database, switch: OpenSwitch) -> None:
    run_by(database, this_process(), os.getpid())
    assert take_lease(database.engine, switch.id)
    assert lease.Heartbeat(database.engine, switch.id)._beat()
    run_by(database, ELSEWHERE, os.getpid())
    assert not lease.Heartbeat(database.engine, switch.id)._beat()
