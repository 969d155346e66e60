"""Checks that no other user can write into a folder of ours or replace it, and opens it and its files without links."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from searchdb.errors import UnsafeFolderError

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags of every file that we open in such a folder; opening a pipe must not wait for another process."""
MADE_MODE = 0o755
"""Mode of the folders that we make, whatever the umask: group and others may not write."""
ROOT = 0
_ACL = "system.posix_acl_access"


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it exists; check it as `private_folder` does.

    Raises:
        UnsafeFolderError: another user can write into it, or replace it.
        OSError: it cannot be made.
    """
    _check_parents(folder)
    for missing in [each for each in (*reversed(folder.parents), folder) if not each.exists()]:
        missing.mkdir(mode=MADE_MODE, exist_ok=True)
    with private_folder(folder):
        pass


@contextmanager
def private_folder(folder: Path) -> Generator[int]:
    """Yield a descriptor of a folder that belongs to us or to root, and that no other user can write or replace.

    Files opened relative to the descriptor are in the folder that was checked, whatever happens to its path.

    Raises:
        UnsafeFolderError: the folder is another user's, a link, or others may write it; the message says what to do.
        OSError: it cannot be opened.
    """
    _check_parents(folder)
    try:
        descriptor = os.open(folder, FOLDER_FLAGS)
    except OSError as exc:
        if folder.is_symlink():
            raise UnsafeFolderError(
                f"{folder} is a link, which is not followed: make it a folder, or mount one"
            ) from exc
        raise
    try:
        _check(folder, os.fstat(descriptor), descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def open_step_by_step(folder: Path) -> int:
    """Return a descriptor of a folder, given by its full path, none of whose components is a link.

    Raises:
        OSError: a component is missing, closed to us, or a link.
    """
    descriptor = os.open(folder.anchor, FOLDER_FLAGS)
    for part in folder.parts[1:]:
        try:
            following = os.open(part, FOLDER_FLAGS, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = following
    return descriptor


def read_text(path: Path, offset: int = 0) -> str:
    """Return the text of a regular file from a byte offset on; empty if it is none, or cannot be read."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | FILE_FLAGS)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.seek(offset)
                return os.fsdecode(file.read())
    return ""


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _check(folder: Path, status: os.stat_result, descriptor: int) -> None:
    if status.st_uid not in (os.geteuid(), ROOT):
        owner = user_name(status.st_uid)
        if os.geteuid() != ROOT:
            raise UnsafeFolderError(f"{folder} belongs to {owner}: use a folder of your own")
        sudo = " without sudo" if os.environ.get("SUDO_UID") == str(status.st_uid) else ""
        raise UnsafeFolderError(
            f"{folder} belongs to {owner}, who could make root write elsewhere through links: run searchdb as "
            f"{owner}{sudo}, or give the folder to root with `chown root {folder}`"
        )
    if status.st_mode & stat.S_IWOTH:
        raise UnsafeFolderError(f"{folder} is writable by everyone: run `chmod o-w {folder}`")
    if status.st_mode & stat.S_IWGRP and not _has_private_group(status, descriptor):
        raise UnsafeFolderError(
            f"{folder} is writable by its group {_group_name(status.st_gid)}: run `chmod g-w {folder}`"
        )


def _check_parents(folder: Path) -> None:
    """Check that only their owners can replace a folder or those above it, and that under root they are root's.

    Whom root let into the group of a folder above is trusted: /var/local of Debian is writable by a group.
    """
    for parent in folder.parents:
        try:
            status = parent.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise UnsafeFolderError(
                f"{parent} is writable by everyone, who could replace {folder}: run `chmod o-w {parent}`"
            )
        if os.geteuid() == ROOT and status.st_uid != ROOT:
            owner = user_name(status.st_uid)
            raise UnsafeFolderError(
                f"{parent} belongs to {owner}, who could replace {folder} while root uses it: run searchdb as {owner}"
            )


def _has_private_group(status: os.stat_result, descriptor: int) -> bool:
    """Whether the folder's group is the one that many systems make for each user, with the umask 002.

    With an access control list, the mode shows what the list allows at most, to whomever.
    """
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    if (group.gr_gid, group.gr_name) != (owner.pw_gid, owner.pw_name) or set(group.gr_mem) - {owner.pw_name}:
        return False
    with suppress(AttributeError, OSError):  # not on this system, or not in this file system
        return _ACL not in os.listxattr(descriptor)
    return True


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
