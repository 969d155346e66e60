"""Writes a file beside its final name and renames it at the end, so that no half file has that name."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from searchdb.errors import StorageError
from searchdb.export.disk import is_full

BUFFER_BYTES = 256 * 1024
"""Bytes that are written at a time: rows are a few hundred bytes each."""


class Sink(Protocol):
    """Where the bytes of an export go."""

    def write(self, data: bytes, /) -> object:
        """Take all bytes."""
        ...


@contextmanager
def file_sink(path: Path) -> Generator[Sink]:
    """Yield the sink of a file, which exists or is replaced only if the block ends without an error.

    A link is followed. What is no regular file, such as a pipe, is written directly.

    Raises:
        StorageError: it cannot be written.
    """
    file = _File(path)
    with file.translated():
        final = Path(os.path.realpath(path))
        try:
            former = final.stat()
        except FileNotFoundError:
            former = None
        direct = former is not None and not stat.S_ISREG(former.st_mode)
        written = final if direct else final.with_name(f".searchdb-{secrets.token_hex(8)}.part")
        flags = 0 if direct else os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file.descriptor = os.open(written, os.O_WRONLY | os.O_CLOEXEC | flags, 0o666)
    try:
        yield file
        with file.translated():
            file.flush()
            if not direct:
                if former is not None:
                    with suppress(PermissionError):  # another user's file in our folder
                        os.fchmod(file.descriptor, stat.S_IMODE(former.st_mode))
                os.fsync(file.descriptor)
                written.rename(final)
    except BaseException:
        if not direct:
            written.unlink(missing_ok=True)
        raise
    finally:
        os.close(file.descriptor)


class _File:
    """A buffered file whose errors are ours; what is buffered after an error is never written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._buffer = bytearray()
        self.descriptor = -1

    def write(self, data: bytes, /) -> None:
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            with self.translated():
                self.flush()

    def flush(self) -> None:
        view, self._buffer = memoryview(self._buffer), bytearray()
        while view:
            view = view[os.write(self.descriptor, view) :]

    @contextmanager
    def translated(self) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            raise StorageError(str(self._path), exc.strerror or str(exc), full=is_full(exc)) from exc
        except ValueError as exc:  # a NUL in the name
            raise StorageError(str(self._path), str(exc), full=False) from exc
