"""Lets the user that runs the server for root pass through closed folders, records that, and takes it back."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from searchdb.db.embedded_programs import binaries, server_user
from searchdb.errors import EmbeddedServerError
from searchdb.private_folder import FILE_FLAGS, ROOT, open_step_by_step, private_folder, read_text, user_name

RECORD = "postgres.opened"
"""File in the home with the folders that were opened: `{path: [inode, mode before, mode after]}`."""

log = logging.getLogger(__name__)


def open_to_server_user(data: Path) -> None:
    """Let the server's user traverse (not list) the folders above its data and its binaries; called by root.

    Only folders of root are opened. What is opened is recorded first, so that a killed start can be undone, too.

    Raises:
        EmbeddedServerError: a folder of another user is closed.
    """
    user = server_user()
    if user is None:
        return
    home = data.parent
    closed = [folder for folder in _on_the_way(data) if not folder.stat().st_mode & stat.S_IXOTH]
    for folder in closed:
        descriptor = open_step_by_step(folder)
        try:
            status = os.fstat(descriptor)
            if status.st_uid != ROOT:
                owner = user_name(status.st_uid)
                raise EmbeddedServerError(
                    f"{folder} of {owner} is closed to the system user {user.pw_name!r}, which runs the embedded "
                    f"server under root: run searchdb as {owner}, or run `chmod o+x {folder}`"
                )
            before = stat.S_IMODE(status.st_mode)
            _write(home, _read(home) | {str(folder): (status.st_ino, before, before | stat.S_IXOTH)})
            os.fchmod(descriptor, before | stat.S_IXOTH)
        finally:
            os.close(descriptor)
        log.warning(
            "made %s passable for the system user %r, which runs the embedded server (chmod o+x); "
            "`searchdb db stop --undo` takes it back",
            folder,
            user.pw_name,
        )


def close_again(home: Path) -> Iterable[tuple[Path, bool]]:
    """Give the folders that were opened their former mode; yield each, and whether it was as we had left it.

    A folder that was changed or replaced since is left as it is.

    Raises:
        UnsafeFolderError: others may write the home, so that its record is not to be trusted.
    """
    for name, (inode, before, after) in _read(home).items():
        as_left = False
        with suppress(OSError):
            descriptor = open_step_by_step(Path(name))
            try:
                status = os.fstat(descriptor)
                as_left = (status.st_ino, stat.S_IMODE(status.st_mode)) == (inode, after)
                if as_left:
                    os.fchmod(descriptor, before)
            finally:
                os.close(descriptor)
        yield Path(name), as_left
    (home / RECORD).unlink(missing_ok=True)


def _on_the_way(data: Path) -> list[Path]:
    """Return the folders that the server passes through, the outermost first, without links."""
    programs = binaries()
    found = {*data.resolve().parents, *programs.resolve().parents, *(parent.resolve() for parent in programs.parents)}
    return sorted(found)


def _read(home: Path) -> dict[str, tuple[int, int, int]]:
    with private_folder(home):
        text = read_text(home / RECORD)
    try:
        return {
            str(path): (int(inode), int(before), int(after))
            for path, (inode, before, after) in json.loads(text).items()
        }
    except (ValueError, AttributeError, TypeError):
        return {}  # there is none, or a start was killed while it wrote the first one


def _write(home: Path, opened: dict[str, tuple[int, int, int]]) -> None:
    with private_folder(home) as folder:
        unfinished = f"{RECORD}.new"
        with suppress(FileNotFoundError):
            os.unlink(unfinished, dir_fd=folder)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FILE_FLAGS, 0o600, dir_fd=folder)
        with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, not a path
            json.dump(opened, file)
        os.replace(unfinished, RECORD, src_dir_fd=folder, dst_dir_fd=folder)
