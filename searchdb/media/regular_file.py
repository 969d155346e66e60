"""Opens files that come from anywhere: only regular ones, and without waiting."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO

from searchdb.errors import FileUnreadableError


@contextmanager
def open_regular(path: str) -> Generator[IO[bytes]]:
    """Open a regular file for reading, in bytes; errors of reading it within the block are translated.

    Raises:
        FileUnreadableError: it does not exist, is not a regular file, or may not be read.
    """
    try:
        descriptor = _open(path)
        # Before `open`, which refuses a folder without closing its descriptor.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileUnreadableError("the file is not a regular file")
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            yield file
    except OSError as exc:
        raise unreadable(exc) from exc


def _open(path: str) -> int:
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer indefinitely.
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as exc:  # a NUL or another character that is invalid in a file name
        raise FileUnreadableError(f"the file cannot be read: {' '.join(str(exc).split())}") from exc


def unreadable(exc: OSError) -> FileUnreadableError:
    """Return our error for one of the system's about reading a file."""
    return FileUnreadableError(f"the file cannot be read: {exc.strerror or exc}")
