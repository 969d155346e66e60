"""Computes the SHA-256 of a file in constant memory."""

from __future__ import annotations

import hashlib
import os
import stat

from searchdb.errors import FileUnreadableError


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
