"""The embedded server: shared by many processes, stopped by the last, robust against killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_programs import MAJOR_VERSION, reason
from searchdb.db.embedded_start import LOCK_FILES, REMAINS_OF_A_SERVER
from searchdb.errors import EmbeddedServerError
from tests.helpers import warm_processes
from tests.helpers.waiting import GIVE_UP_S, until

pytestmark = pytest.mark.slow  # starts servers of its own

USER = """
import sys
from pathlib import Path
from searchdb.db.embedded import EmbeddedServer
url = EmbeddedServer.at(Path(sys.argv[1])).join()
import psycopg
from searchdb.database_url import libpq_url
with psycopg.connect(libpq_url(url)) as connection:
    assert connection.execute("SELECT 1").fetchone() == (1,)
print("joined", flush=True)
sys.stdin.readline()
"""
"""A process that uses the server until its standard input ends."""


class User:
    """A running USER."""

    def __init__(self, home: Path) -> None:
        input_, self._input = os.pipe()
        self._output, output = os.pipe()
        self._process = warm_processes.start(["-c", USER, str(home)], stdin=input_, stdout=output)
        os.close(input_)
        os.close(output)

    def wait_joined(self) -> None:
        with os.fdopen(self._output) as output:
            assert output.readline() == "joined\n"

    def leave(self) -> None:
        os.close(self._input)
        assert self._process.wait(GIVE_UP_S) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(GIVE_UP_S)
        os.close(self._input)


def postmaster_pid(server: EmbeddedServer) -> int:
    return int((server.data / "postmaster.pid").read_text().splitlines()[0])


def test_concurrent_processes_share_one_server_and_the_last_stops_it(short_home: Path) -> None:
    server = EmbeddedServer.at(short_home)
    users = [User(short_home) for _ in range(4)]
    for user in users:
        user.wait_joined()
    pid = postmaster_pid(server)
    for user in users[:-1]:
        user.leave()
        assert server.is_running()
    assert postmaster_pid(server) == pid
    users[-1].leave()
    assert not server.is_running()


def test_a_killed_process_does_not_keep_the_server_running(used_home: Path) -> None:
    server = EmbeddedServer.at(used_home)
    killed, other = User(used_home), User(used_home)
    killed.wait_joined()
    other.wait_joined()
    killed.kill()
    assert server.is_running()
    other.leave()
    assert not server.is_running()


def test_a_process_joins_the_server_that_a_killed_one_left_running(used_home: Path) -> None:
    server = EmbeddedServer.at(used_home)
    killed = User(used_home)
    killed.wait_joined()
    killed.kill()
    pid = postmaster_pid(server)
    heir = User(used_home)
    heir.wait_joined()
    assert postmaster_pid(server) == pid
    heir.leave()
    assert not server.is_running()


def test_a_killed_server_is_started_again(used_home: Path) -> None:
    server = EmbeddedServer.at(used_home)
    first = User(used_home)
    first.wait_joined()
    os.kill(postmaster_pid(server), signal.SIGKILL)
    until(lambda: not server.is_running(), "the end of the killed server")
    second = User(used_home)
    second.wait_joined()
    first.leave()
    second.leave()


def test_a_pinned_server_stays_until_it_is_stopped(used_home: Path) -> None:
    server = EmbeddedServer.at(used_home)
    server.join()
    server.pin()
    server.leave()
    assert server.is_running()
    user = User(used_home)
    user.wait_joined()
    user.leave()
    assert server.is_running()
    assert server.stop()
    assert not server.is_running()
    assert not server.stop()
    assert not server.pinned


def test_variables_meant_for_another_server_are_ignored(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "db.example",
        "PGHOSTADDR": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": "somebody",
        "PGDATABASE": "another",
        "PGSSLMODE": "require",
        "PGREQUIREAUTH": "scram-sha-256",
        "PGCHANNELBINDING": "require",
        "PGTARGETSESSIONATTRS": "read-only",
    }.items():
        monkeypatch.setenv(name, value)
    with Database(Settings(database_url=None, home=used_home)) as database:
        with database.connect() as connection:
            assert connection.exec_driver_sql("SHOW data_directory").scalar() == str(used_home / "postgres")
        psycopg.connect(**database.driver_arguments()).close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the working folder of another process")
def test_a_process_that_has_the_number_of_a_lost_server_is_not_taken_for_it(used_home: Path) -> None:
    server = EmbeddedServer.at(used_home)
    server.join()
    server.leave()
    owner = server.data.stat()
    with subprocess.Popen(["sleep", "600"], user=owner.st_uid, group=owner.st_gid) as sleeper:
        for name in LOCK_FILES:
            (server.data / name).write_text(f"{sleeper.pid}\n{server.data}\n1\n5432\n.\n\n 0 0\nready\n")
            os.chown(server.data / name, owner.st_uid, owner.st_gid)
        try:
            server.join()
            assert sleeper.poll() is None
        finally:
            sleeper.kill()
            server.leave()


def test_joins_in_one_process_are_counted(used_home: Path) -> None:
    server = EmbeddedServer.at(used_home)
    assert EmbeddedServer.at(used_home) is server
    server.join()
    server.join()
    server.leave()
    assert server.is_running()
    server.leave()
    assert not server.is_running()
    server.leave()


def test_an_incomplete_data_folder_is_recreated(short_home: Path) -> None:
    (short_home / "postgres.new").mkdir()
    (short_home / "postgres.new" / "PG_VERSION").write_text("18\n")
    server = EmbeddedServer.at(short_home)
    server.join()
    assert server.is_running()
    server.leave()


def test_a_folder_may_have_an_unusual_name(short_home: Path) -> None:
    server = EmbeddedServer.at(short_home / "My pictures' home é")
    user = User(server.home)
    user.wait_joined()
    assert server.is_running()
    user.leave()
    assert not server.is_running()


def test_only_the_owner_can_reach_the_socket(server: EmbeddedServer) -> None:
    assert server.data.stat().st_mode & 0o077 == 0
    with psycopg.connect(host=str(server.data), user="postgres", dbname="postgres") as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("",)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    with pytest.raises(EmbeddedServerError, match=r"too long.*Set SEARCHDB_HOME to a shorter path"):
        EmbeddedServer.at(home).join()
    assert not home.exists()


@pytest.mark.parametrize("name", ["a,b", "a$b", 'a"b', "a`b", "a\\b"])
def test_a_path_that_another_program_would_misread_is_refused(short_home: Path, name: str) -> None:
    with pytest.raises(EmbeddedServerError, match=r"has the character .* Set SEARCHDB_HOME to another folder"):
        EmbeddedServer.at(short_home / name).join()
    assert not (short_home / name).exists()


def test_a_folder_that_everyone_may_write_is_refused(short_home: Path) -> None:
    short_home.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="writable by everyone"):
        EmbeddedServer.at(short_home).join()


def test_data_of_another_major_version_is_refused(short_home: Path) -> None:
    (short_home / "postgres").mkdir()
    (short_home / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedServerError, match=f"made by PostgreSQL 16, .* PostgreSQL {MAJOR_VERSION}"):
        EmbeddedServer.at(short_home).join()


def test_a_home_that_cannot_be_made_is_refused(short_home: Path) -> None:
    (short_home / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match="cannot make SEARCHDB_HOME"):
        EmbeddedServer.at(short_home / "file" / "home").join()


def test_the_end_of_a_killed_servers_processes_is_not_why_a_start_fails() -> None:
    log = """\
2026-01-02 03:04:05 UTC [7] FATAL:  terminating connection due to unexpected postmaster exit
2026-01-02 03:04:05 UTC [9] FATAL:  lock file "postmaster.pid" already exists
2026-01-02 03:04:05 UTC [9] HINT:  Is another postmaster (PID 5) running in data directory "/home/postgres"?
"""
    assert reason(log).startswith(REMAINS_OF_A_SERVER[0])  # so it is tried again
