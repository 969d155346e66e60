"""The parts of a watch: what is settled, what is due, what is mounted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from searchdb.watch import changed_folders, settling
from searchdb.watch.changed_folders import ChangedFolders
from searchdb.watch.mounts import Mount, mounts_of, read_mounts
from searchdb.watch.settling import Settling, is_temporary

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /mnt/my\\040nas rw - nfs4 nas:/photos rw,vers=4.2
31 22 0:27 / /mnt/my\\040nas/local rw shared:2 master:1 - tmpfs tmpfs rw
32 22 0:28 / /home/ann/phone rw - fuse.sshfs ann@phone:/ rw
33 22 0:29 / /pool rw - fuse.mergerfs a:b rw
34 22 8:2 / /mnt/usb rw - fuseblk /dev/sdb1 rw
35 22 0:30 / /mnt/usb rw - cifs //server/share rw
nonsense
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(settling, "time", clock)
    monkeypatch.setattr(changed_folders, "time", clock)
    return clock


def aged(path: Path, seconds: float) -> Path:
    """Write a file that was last modified so long ago."""
    path.write_bytes(b"x")
    os.utime(path, (time.time() - seconds, time.time() - seconds))
    return path


@pytest.mark.parametrize(
    ("folder", "kinds"),
    [
        ("/srv", ["ext4"]),
        ("/mnt/my nas/2024", ["nfs4"]),
        ("/mnt/my nas", ["nfs4", "tmpfs"]),
        ("/mnt/my nas/local", ["tmpfs"]),
        ("/mnt/usb/x", ["cifs"]),
        ("/home/ann", ["ext4", "fuse.sshfs"]),
        ("/home/annabel", ["ext4"]),
    ],
)
def test_mounts_of_a_folder(tmp_path: Path, folder: str, kinds: list[str]) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert [mount.kind for mount in mounts_of(folder, read_mounts(table))] == kinds


@pytest.mark.parametrize(
    ("kind", "is_remote"),
    [("nfs4", True), ("cifs", True), ("9p", True), ("vboxsf", True), ("fuse.sshfs", True), ("fuse.rclone", True),
     ("ext4", False), ("overlay", False), ("fuseblk", False), ("fuse.mergerfs", False), ("tmpfs", False)],
)  # fmt: skip
def test_which_mounts_are_remote(kind: str, is_remote: bool) -> None:
    assert Mount(folder="/x", kind=kind, device="0:1").is_remote is is_remote


def test_a_system_without_a_list_of_mounts(tmp_path: Path) -> None:
    assert read_mounts(tmp_path / "none") == []
    assert mounts_of("/x", []) == []


@pytest.mark.parametrize("name", ["a.jpg.part", "A.JPG.CRDOWNLOAD", "a.tmp", "a.jpg.filepart"])
def test_temporary_names(name: str) -> None:
    assert is_temporary(f"/photos/{name}")
    assert not is_temporary(f"/photos.tmp/{name}.jpg")


def test_a_file_is_settled_when_it_has_not_changed_for_a_while(tmp_path: Path, clock: Clock) -> None:
    files = Settling(5.0)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    assert not files.is_settled(str(path), since=900.0, remote=False)
    assert (len(files), files.oldest) == (1, 900.0)
    clock.now += 4
    path.write_bytes(b"12")
    assert files.touch(str(path))
    clock.now += 4
    assert files.take_settled() == []
    assert files.oldest == 1000.0, "it has changed after it was last seen"
    clock.now += 2
    assert files.take_settled() == [str(path)]
    assert files.is_settled(str(path), since=0, remote=False)
    assert len(files) == 0
    assert not files.touch(str(path))


def test_a_file_that_changes_while_it_is_listed_waits_again(tmp_path: Path, clock: Clock) -> None:
    files = Settling(5.0)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    assert not files.is_settled(str(path), since=900.0, remote=False)
    clock.now += 6
    assert files.take_settled() == [str(path)]
    path.write_bytes(b"12")
    assert not files.is_settled(str(path), since=900.0, remote=False)
    path.unlink()
    clock.now += 6
    assert files.take_settled() == []
    assert len(files) == 0


def test_the_clock_of_a_server_is_not_believed(tmp_path: Path) -> None:
    path = aged(tmp_path / "a.jpg", 10_000)
    # A new time of change, as of a renamed file: only that of modification can be set.
    assert not Settling(5.0).is_settled(str(path), since=0, remote=False)
    assert Settling(0.0).is_settled(str(path), since=0, remote=True)
    future = aged(tmp_path / "b.jpg", -10_000)
    assert not Settling(5.0).is_settled(str(future), since=0, remote=False)


def test_folders_are_due_when_they_are_quiet_or_have_waited_for_long(clock: Clock) -> None:
    folders = ChangedFolders(5.0)
    folders.add("/a", since=1.0)
    folders.add("/a/b", since=2.0, deep=True)
    folders.add("/a/b/c", since=3.0)
    folders.add("/d", since=4.0, at_once=True)
    assert folders.oldest == 1.0
    assert [folder.path for folder in folders.take_due()] == ["/d"]
    clock.now += 4
    folders.add("/a", since=5.0)
    clock.now += 2
    [due] = folders.take_due()
    assert (due.path, due.deep, due.since) == ("/a/b", True, 2.0), "with what is in it"
    clock.now += 2
    folders.add("/a", since=6.0)
    assert folders.take_due() == []
    clock.now += 2
    assert [folder.path for folder in folders.take_due()] == ["/a"], "after ten seconds"
    assert not folders
    assert folders.oldest is None
