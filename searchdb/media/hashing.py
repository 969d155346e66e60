"""Computes the SHA-256 of a file in constant memory."""

from __future__ import annotations

import hashlib
import os
import stat
import threading

from searchdb.errors import DecodeInterruptedError, FileUnreadableError

READ_BYTES = 1 << 20
"""Bytes read between two checks whether to stop."""


def file_sha256(path: str) -> bytes:
    """Return the SHA-256 of a file's bytes, as `images.sha256` has it.

    Raises:
        FileUnreadableError: it does not exist, is not a regular file, or cannot be read.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer indefinitely.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileUnreadableError("the file is not a regular file")
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as exc:
        raise FileUnreadableError(f"the file cannot be read: {exc.strerror or exc}") from exc


def descriptor_sha256(descriptor: int, size: int, cancel: threading.Event) -> bytes:
    """Return the SHA-256 of the first `size` bytes of an open file, whose position is left alone.

    Raises:
        DecodeInterruptedError: `cancel` was set.
        OSError: it cannot be read.
    """
    digest, position = hashlib.sha256(), 0
    while data := os.pread(descriptor, min(READ_BYTES, size - position), position):
        if cancel.is_set():
            raise DecodeInterruptedError
        digest.update(data)
        position += len(data)
    return digest.digest()
