"""Reads files by path within a limit, and makes files without a name for what is downloaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from searchdb.errors import TooManyBytesError, TransferError, UnsafeFolderError
from searchdb.media.formats import SNIFFED_BYTES
from searchdb.media.memory import Hold
from searchdb.media.regular_file import open_regular
from searchdb.private_folder import make_private_folder


class UnwantedContentError(Exception):
    """The content is of a kind that the caller does not want, as its first bytes tell; the rest was not read."""


def read_file(
    path: str, max_bytes: int, hold: Hold | None = None, unwanted: Callable[[bytes], bool] | None = None
) -> bytes:
    """Return a file's bytes; see `Fetcher.fetch` for the arguments.

    Raises:
        FileUnreadableError: it does not exist, is not a regular file, or cannot be read.
        TooManyBytesError: it has more than `max_bytes`.
        UnwantedContentError: `unwanted` said so.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if unwanted is not None and unwanted(os.pread(file.fileno(), SNIFFED_BYTES, 0)):
            raise UnwantedContentError
        if size > max_bytes:
            raise TooManyBytesError(max_bytes, size)
        if hold is not None:
            hold.take(size)
        data = file.read(size + 1)
        if len(data) > size:  # it grew, or is a file under /proc that reports a size of 0
            data += file.read(max_bytes + 1 - len(data))
    if len(data) > max_bytes:
        raise TooManyBytesError(max_bytes)
    return data


def unnamed_file(folder: Path) -> IO[bytes]:
    """Return a new file without a name in a private folder, which is made if necessary.

    It vanishes when it is closed or the process ends.

    Raises:
        TransferError: there can be none.
    """
    try:
        make_private_folder(folder)
        return tempfile.TemporaryFile(dir=folder)
    except (OSError, UnsafeFolderError) as exc:
        raise _unsavable(folder, exc) from exc


def append(file: IO[bytes], data: bytes, folder: Path) -> None:
    """Write to the end of such a file.

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
