"""Nothing that other users prepare in a home leads root elsewhere; what root opens for its server is closed again."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import psycopg
import pytest

from searchdb.db import embedded_access, embedded_log
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_access import open_to_server_user
from searchdb.db.embedded_log import LOG_NAME, trim_log
from searchdb.errors import EmbeddedServerError
from tests.helpers import warm_processes
from tests.helpers.users import OTHER_ID, as_root, run_as
from tests.helpers.waiting import GIVE_UP_S

pytestmark = pytest.mark.slow  # starts servers of its own
NAMES = ("postgres", "postgres.lock", "postgres.members", "postgres.pinned", "postgres.new", "postgres.opened")
"""What a start makes in a home."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@as_root
@pytest.mark.parametrize("name", NAMES)
def test_root_follows_no_link_in_the_home_of_another_user(short_home: Path, name: str) -> None:
    home, target = short_home / "home", short_home / "file of root"
    home.mkdir(mode=0o755)
    os.chown(home, OTHER_ID, OTHER_ID)
    target.write_text("precious")
    (home / name).symlink_to(target)
    result = warm_processes.run(["-m", "searchdb", "--home", str(home), "db", "start"], timeout=GIVE_UP_S)
    assert result.returncode == 1
    assert "belongs to" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (target.read_text(), target.stat().st_uid, mode(target)) == ("precious", os.geteuid(), 0o644)
    assert [path.name for path in home.iterdir()] == [name]


@pytest.mark.parametrize("name", ["postgres", "postgres.lock", "postgres.members"])
def test_links_in_a_home_of_our_own_are_not_followed(short_home: Path, name: str) -> None:
    target = short_home / "nothing yet"
    (short_home / name).symlink_to(target)
    with pytest.raises(EmbeddedServerError, match=name):
        EmbeddedServer.at(short_home).join()
    assert not target.exists()
    (short_home / name).unlink()


def test_a_pin_replaces_a_link(short_home: Path) -> None:
    target = short_home / "target"
    target.write_text("precious")
    server = EmbeddedServer.at(short_home)
    server.pin_file.symlink_to(target)
    server.pin()
    assert server.pinned
    assert target.read_text() == "precious"


@as_root
def test_data_of_another_user_is_refused(short_home: Path) -> None:
    (short_home / "postgres").mkdir()
    os.chown(short_home / "postgres", OTHER_ID, OTHER_ID)
    with pytest.raises(
        EmbeddedServerError, match=r"postgres belongs to \S+, but under root the server runs as searchdb"
    ):
        EmbeddedServer.at(short_home).join()


@as_root
def test_what_is_opened_is_printed_and_closed_again(short_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    closed, open_already, changed = (
        short_home / "closed",
        short_home / "closed/open",
        short_home / "closed/open/changed",
    )
    home = changed / "home"
    home.mkdir(parents=True)
    for folder, permitted in ((short_home, 0o755), (closed, 0o700), (open_already, 0o711), (changed, 0o750)):
        folder.chmod(permitted)
    server = EmbeddedServer.at(home)
    with caplog.at_level(logging.WARNING):
        server.join()
    server.leave()
    assert [mode(folder) for folder in (closed, open_already, changed)] == [0o701, 0o711, 0o751]
    said = [record.message for record in caplog.records if "passable" in record.message]
    assert [message.split()[1] for message in said] == [str(closed), str(changed)]
    assert all("searchdb db stop --undo" in message for message in said)
    caplog.clear()
    server.join()
    server.leave()
    assert not caplog.records
    changed.chmod(0o711)
    command = ["-m", "searchdb", "--home", str(home), "db", "stop", "--undo"]
    result = warm_processes.run(command, timeout=GIVE_UP_S)
    assert f"{closed}: closed again" in result.stderr
    assert f"{changed}: left as it is" in result.stderr
    assert [mode(folder) for folder in (closed, open_already, changed)] == [0o700, 0o711, 0o711]
    assert warm_processes.run(command, timeout=GIVE_UP_S).stderr == "it was not running\n"
    assert EmbeddedServer.at(home).close_again() == []
    assert EmbeddedServer.at(short_home / "none").close_again() == []


@as_root
def test_folders_of_another_user_are_not_opened(short_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, home = short_home / "private", short_home / "home"
    home.mkdir()
    (private / "bin").mkdir(parents=True)
    os.chown(private, OTHER_ID, OTHER_ID)
    private.chmod(0o700)
    monkeypatch.setattr(embedded_access, "binaries", lambda: private / "bin")
    short_home.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match=r"is closed to the system user 'searchdb', .* or run `chmod o\+x"):
        open_to_server_user(home / "postgres")
    assert mode(private) == 0o700


@as_root
def test_an_ordinary_user_has_a_server_in_its_own_home(short_home: Path) -> None:
    home = short_home / "home"
    home.mkdir(mode=0o700)
    os.chown(home, OTHER_ID, OTHER_ID)
    short_home.chmod(0o755)

    def use() -> None:
        server = EmbeddedServer.at(home)
        server.join()
        server.pin()
        server.leave()
        assert server.is_running()
        assert server.stop()

    assert run_as(OTHER_ID, use) == ""
    assert {path.stat().st_uid for path in home.iterdir()} == {OTHER_ID}


def test_the_log_has_a_bound(used_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_log, "MAX_LOG_BYTES", 10_000)
    server = EmbeddedServer.at(used_home)
    log = server.data / LOG_NAME
    server.join()
    with psycopg.connect(host=str(server.data), user="postgres", dbname="postgres", autocommit=True) as connection:
        for _ in range(200):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("SELECT FROM nothing_of_this_name")
    assert log.stat().st_size < 10_000
    assert "nothing_of_this_name" not in log.read_text()
    with log.open("a") as file:
        file.write("x" * 20_000)
    (used_home / "another name").hardlink_to(log)
    trim_log(server.data)
    assert log.stat().st_size > 20_000, "perhaps not the server's own file"
    (used_home / "another name").unlink()
    server.pin()
    server.leave()
    server.join()  # another use of the running server
    assert log.stat().st_size == 0
    server.stop()
    assert 0 < log.stat().st_size < 10_000
    server.leave()
