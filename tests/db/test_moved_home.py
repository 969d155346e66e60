"""A home that was moved or copied, also while its server ran, has a server and data of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_programs import run_program
from searchdb.db.embedded_start import SOCKET_NAME
from searchdb.errors import EmbeddedServerError
from tests.helpers.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow  # starts servers of its own


@pytest.fixture
def original(used_home: Path) -> Iterator[EmbeddedServer]:
    """A stopped server with a table `note`, whose one row is 'original'."""
    yield EmbeddedServer.at(used_home)
    EmbeddedServer.at(used_home.parent / "b").stop()


def write(server: EmbeddedServer, statement: str) -> None:
    with psycopg.connect(host=str(server.data), user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(statement.encode())


def note(server: EmbeddedServer) -> tuple[str, str]:
    """Return the note, and the folder in which the server that answers has its data."""
    with psycopg.connect(host=str(server.data), user="postgres", dbname="postgres") as connection:
        row = connection.execute("SELECT text, current_setting('data_directory') FROM note").fetchone()
        assert row is not None
        return row


def copy(server: EmbeddedServer, name: str = "b") -> EmbeddedServer:
    subprocess.run(["cp", "-a", server.home, server.home.parent / name], check=True)
    return EmbeddedServer.at(server.home.parent / name)


def move(server: EmbeddedServer, name: str = "b") -> EmbeddedServer:
    return EmbeddedServer.at(server.home.rename(server.home.parent / name))


def as_older_versions_made_it(server: EmbeddedServer) -> None:
    """Write the path of the socket's folder into the configuration."""
    with (server.data / "postgresql.conf").open("a") as file:
        file.write(f"unix_socket_directories = '{server.data}'\n")


def test_a_moved_home_starts(original: EmbeddedServer) -> None:
    as_older_versions_made_it(original)
    moved = move(original)
    moved.join()
    assert note(moved) == ("original", str(moved.data))
    moved.leave()
    assert not moved.is_running()


def test_a_copy_of_a_running_home_is_another_collection(original: EmbeddedServer) -> None:
    as_older_versions_made_it(original)
    original.join()
    duplicate = copy(original)
    assert not duplicate.is_running()
    duplicate.join()
    write(duplicate, "UPDATE note SET text = 'copy'")
    write(original, "UPDATE note SET text = 'changed'")
    assert note(duplicate) == ("copy", str(duplicate.data))
    assert note(original) == ("changed", str(original.data))
    duplicate.leave()
    assert not duplicate.is_running()
    assert note(original) == ("changed", str(original.data))
    original.leave()


def test_stopping_a_copy_that_does_not_run_spares_the_original(original: EmbeddedServer) -> None:
    original.join()
    duplicate = copy(original)
    assert not duplicate.stop()
    assert original.is_running()
    original.leave()


def test_a_home_that_is_moved_while_its_server_runs(original: EmbeddedServer) -> None:
    original.join()
    original.pin()
    original.leave()
    moved = move(original)
    assert moved.pinned
    moved.join()
    assert note(moved) == ("original", str(moved.data))
    assert moved.stop()
    moved.leave()


def test_stopping_a_home_that_was_moved_while_its_server_ran(original: EmbeddedServer) -> None:
    original.join()
    original.pin()
    original.leave()
    moved = move(original)
    assert moved.stop()
    assert not (moved.data / SOCKET_NAME).exists()


def test_the_pin_of_a_copied_home_does_not_count(original: EmbeddedServer) -> None:
    original.pin()
    assert original.pinned
    assert not copy(original).pinned


def test_another_server_in_the_folder_is_not_trusted(original: EmbeddedServer) -> None:
    """Before searchdb named the folder at each start, the server of a copy listened in the original's."""
    duplicate = copy(original)
    options = f"-k {original.data}"
    run_program(
        "pg_ctl", "start", "-w", "-D", str(duplicate.data), "-l", str(duplicate.data / "log"), "-o", options,
        timeout=GIVE_UP_S,
    )  # fmt: skip
    try:
        assert not original.is_running()
        assert not original.stop()
        with pytest.raises(EmbeddedServerError, match=rf"with its data in {duplicate.data}: stop it with `kill \d+`"):
            original.join()
        assert note(original)[1] == str(duplicate.data)  # it still runs: it is not ours to stop
    finally:
        run_program("pg_ctl", "stop", "-w", "-D", str(duplicate.data), "-m", "fast", timeout=GIVE_UP_S)
    original.join()
    assert note(original) == ("original", str(original.data))
    original.leave()


def test_a_failed_start_says_why_and_leaves_no_server(original: EmbeddedServer) -> None:
    with (original.data / "log").open("a") as log:
        log.write("2020-01-01 00:00:00 UTC [1] FATAL:  the reason of another day\n" * 3)
    with (original.data / "postgresql.conf").open("a") as file:
        file.write("shared_buffers = nonsense\n")
    with pytest.raises(
        EmbeddedServerError, match=r'invalid value for parameter "shared_buffers": "nonsense"'
    ) as caught:
        original.join()
    assert "another day" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (original.data / "postmaster.pid").exists()


def test_a_start_without_a_control_file_says_so(original: EmbeddedServer) -> None:
    (original.data / "global" / "pg_control").unlink()
    with pytest.raises(EmbeddedServerError, match=r"could not open file .*pg_control"):
        original.join()


def test_a_database_that_is_gone_is_not_made_anew(original: EmbeddedServer) -> None:
    original.join()
    original.stop()
    shutil.rmtree(original.home)
    with pytest.raises(EmbeddedServerError, match="is gone: it was moved or deleted"):
        original.start_again()
    assert not original.home.exists()
    original.home.mkdir()
    original.leave()
