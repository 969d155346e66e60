"""Which folders may be used: no other user can write or replace them. Tests as root also try other users' folders."""

from __future__ import annotations

import grp
import os
import pwd
import re
import struct
from pathlib import Path

import pytest

from searchdb.errors import UnsafeFolderError
from searchdb.private_folder import make_private_folder, private_folder, read_text
from tests.helpers.users import OTHER_ID, as_root, run_as


def use(folder: Path) -> None:
    with private_folder(folder) as descriptor:
        assert os.fstat(descriptor).st_ino == folder.stat().st_ino


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "parent" / "folder"
    make_private_folder(folder)
    return folder


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750])
def test_a_folder_that_only_we_can_write(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    use(folder)


@pytest.mark.parametrize(
    ("mode", "why"), [(0o757, r"writable by everyone: run `chmod o-w .*folder`"), (0o1777, "writable by everyone")]
)
def test_a_folder_that_everyone_can_write(folder: Path, mode: int, why: str) -> None:
    folder.chmod(mode)
    with pytest.raises(UnsafeFolderError, match=why):
        use(folder)


def test_a_folder_made_with_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    use(tmp_path / "a" / "b")


def test_a_folder_that_everyone_can_replace(folder: Path) -> None:
    folder.parent.chmod(0o777)
    with pytest.raises(
        UnsafeFolderError, match=r"parent is writable by everyone, who could replace .*folder: run `chmod"
    ):
        use(folder)
    with pytest.raises(UnsafeFolderError, match="could replace"):
        make_private_folder(folder.parent / "another")
    assert not (folder.parent / "another").exists()
    folder.parent.chmod(0o1777)
    use(folder)


def test_a_group_that_only_its_user_is_in(folder: Path) -> None:
    user = pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(user.pw_gid)
    if group.gr_name != user.pw_name or set(group.gr_mem) - {user.pw_name}:
        pytest.skip("this user has no group of its own")
    os.chown(folder, -1, user.pw_gid)
    folder.chmod(0o775)
    use(folder)
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, OTHER_ID), (4, 0, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)]
    try:  # another user may write: in the mode, that is the group's right
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        os.setxattr(folder, "system.posix_acl_access", acl)
    except (AttributeError, OSError) as exc:
        pytest.skip(f"no access control lists here: {exc}")
    with pytest.raises(UnsafeFolderError, match="writable by its group"):
        use(folder)


@as_root
def test_a_group_of_others(folder: Path) -> None:
    os.chown(folder, -1, OTHER_ID)
    use(folder)
    folder.chmod(0o775)
    with pytest.raises(UnsafeFolderError, match=r"writable by its group \S+: run `chmod g-w"):
        use(folder)


@as_root
def test_root_uses_no_folder_of_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(folder, OTHER_ID, OTHER_ID)
    with pytest.raises(UnsafeFolderError, match=r"belongs to \S+, who .*: run searchdb as \S+, or give .* `chown root"):
        use(folder)
    monkeypatch.setenv("SUDO_UID", str(OTHER_ID))
    with pytest.raises(UnsafeFolderError, match=r"run searchdb as \S+ without sudo"):
        use(folder)


@as_root
def test_root_uses_no_folder_that_another_user_could_replace(folder: Path) -> None:
    os.chown(folder.parent, OTHER_ID, OTHER_ID)
    with pytest.raises(
        UnsafeFolderError, match=r"parent belongs to \S+, who could replace .*folder while root uses it"
    ):
        use(folder)


@as_root
def test_an_ordinary_user_uses_folders_of_its_own_and_of_root(short_home: Path) -> None:
    own, foreign, of_root = (short_home / name for name in ("own", "foreign", "root"))
    for each, owner in ((own, OTHER_ID), (foreign, OTHER_ID - 1), (of_root, 0)):
        each.mkdir()
        os.chown(each, owner, owner)
    short_home.chmod(0o755)
    assert run_as(OTHER_ID, lambda: use(own)) == ""
    assert run_as(OTHER_ID, lambda: use(of_root)) == ""
    assert re.search(
        r"UnsafeFolderError: \S+foreign belongs to .*: use a folder of your own", run_as(OTHER_ID, lambda: use(foreign))
    )


def test_a_link_is_not_followed(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    with pytest.raises(UnsafeFolderError, match="is a link"):
        use(link)
    (folder / "text").write_text("secret")
    (folder / "link").symlink_to(folder / "text")
    os.mkfifo(folder / "pipe")
    assert read_text(folder / "text", 2) == "cret"
    assert {read_text(folder / name) for name in ("link", "pipe", "none")} == {""}
