"""Reads files by path within a limit, and makes files without a name for what is downloaded."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from searchdb.errors import FileUnreadableError, TooManyBytesError, TransferError, UnsafeFolderError
from searchdb.media.memory import Hold
from searchdb.private_folder import make_private_folder

HEAD_BYTES = 1024
"""Bytes that tell what is in a file."""


class UnwantedContentError(Exception):
    """The content is of a kind that the caller does not want, as its first bytes tell; the rest was not read."""


def open_file(path: str) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        FileUnreadableError: it does not exist, is not a regular file, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer indefinitely.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        raise unreadable(exc) from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileUnreadableError("the file is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(
    path: str, max_bytes: int, hold: Hold | None = None, unwanted: Callable[[bytes], bool] | None = None
) -> bytes:
    """Return a file's bytes; see `Fetcher.fetch` for the arguments.

    Raises:
        FileUnreadableError: it does not exist, is not a regular file, or cannot be read.
        TooManyBytesError: it has more than `max_bytes`.
        UnwantedContentError: `unwanted` said so.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if unwanted is not None and unwanted(os.pread(file.fileno(), HEAD_BYTES, 0)):
                raise UnwantedContentError
            if size > max_bytes:
                raise TooManyBytesError(max_bytes, size)
            if hold is not None:
                hold.take(size)
            data = file.read(size + 1)
            if len(data) > size:  # it grew, or is a file under /proc that reports a size of 0
                data += file.read(max_bytes + 1 - len(data))
    except OSError as exc:
        raise unreadable(exc) from exc
    if len(data) > max_bytes:
        raise TooManyBytesError(max_bytes)
    return data


def unreadable(exc: OSError | ValueError) -> FileUnreadableError:
    """Return our error for one of the system's; a ValueError is about a NUL or the like in the name."""
    reason = exc.strerror or exc if isinstance(exc, OSError) else exc
    return FileUnreadableError(f"the file cannot be read: {reason}")


def unnamed_file(folder: Path) -> IO[bytes]:
    """Return a new file in a private folder, which is made if necessary; it is gone when it is closed, however.

    Raises:
        TransferError: there can be none.
    """
    try:
        make_private_folder(folder)
        return tempfile.TemporaryFile(dir=folder)
    except (OSError, UnsafeFolderError) as exc:
        raise _unsavable(folder, exc) from exc


def append(file: IO[bytes], data: bytes, folder: Path) -> None:
    """Write to the end of such a file in the folder.

    Raises:
        TransferError: the disk is full, or broken.
    """
    try:
        file.write(data)
        file.flush()
    except OSError as exc:
        raise _unsavable(folder, exc) from exc


def _unsavable(folder: Path, exc: OSError | UnsafeFolderError) -> TransferError:
    reason = exc if isinstance(exc, UnsafeFolderError) else exc.strerror or exc
    return TransferError(f"the video cannot be saved in {folder}: {reason}")
