"""A folder of files, named by the SHA-256 of an image, whose size has a bound that several processes share."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from searchdb.private_folder import FILE_FLAGS, make_private_folder, private_folder, read_text

BLOCK = 4096
"""Bytes: a file counts as whole blocks, as disks store it, or else many tiny files could fill the disk."""
TOTAL_SUFFIX = ".total"
"""Suffix of a file beside the folder: the size of all files together, in bytes. It is locked while one is written."""
PRUNE_TO = 0.9
"""Share of the bound that pruning leaves, so that the next file does not have it prune again."""
COUNT_AGAIN_S = 60.0
"""Seconds between two counts of a full folder, from which a person may have deleted files: a count reads all names."""
TEMPORARY = ".tmp"
MODE = 0o700


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    modified: float
    size: int


class BoundedFolder:
    """A folder `<ab>/<sha256>.<suffix>` of at most `max_bytes`, which threads and processes of one machine share.

    The size is kept in a file, under whose lock files are written and deleted: no writer can pass the bound. Each
    process counts the files once, before its first write, which makes good what killed processes left.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._total = folder.with_name(folder.name + TOTAL_SUFFIX)
        self._counted_at = -COUNT_AGAIN_S
        self._counted = False

    @property
    def size(self) -> int:
        """Bytes of all files, as last noted; reads the folder only if they were never noted."""
        noted = read_text(self._total)
        return _number(noted) if noted else sum(file.size for file in self._files())

    def has_room(self, size: int) -> bool:
        """Whether a file of this many bytes seems to fit; `write` decides.

        Raises:
            UnsafeFolderError: another user can write into the folder.
            OSError: the files cannot be counted.
        """
        if self.size + _blocks(size) <= self.max_bytes:
            return True
        with self._locked() as total:
            return self._used_beside(total, _blocks(size)) + _blocks(size) <= self.max_bytes

    def path(self, sha256: bytes, suffix: str) -> Path:
        """Return the path of an image's file."""
        name = sha256.hex()
        return self.folder / name[:2] / f"{name}{suffix}"

    def read(self, path: Path) -> bytes | None:
        """Return a file's content; None if there is none, or it cannot be read."""
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | FILE_FLAGS)
            with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
                return file.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        return None

    def write(self, path: Path, data: bytes, *, prune: bool = False) -> bool:
        """Write a file atomically; return False if it does not fit, even after the oldest were deleted, with `prune`.

        Raises:
            UnsafeFolderError: another user can write into the folder.
            OSError: it cannot be written; nothing is left behind.
        """
        added = _blocks(len(data))
        with self._locked() as total:
            used = self._used_beside(total, added, prune=prune)
            if used + added > self.max_bytes:
                return False
            before = _size_of(path)
            _note(total, used + added - before)
            try:
                self._write(path, data)
            except BaseException:
                _note(total, used)
                raise
        return True

    def delete(self, path: Path) -> None:
        """Delete a file, if it exists.

        Raises:
            UnsafeFolderError: another user can write into the folder.
            OSError: it cannot be deleted.
        """
        if not self.folder.exists():
            return
        with self._locked() as total:
            used = self._used(total)
            freed = _size_of(path)
            path.unlink(missing_ok=True)
            _note(total, max(used - freed, 0))

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True, mode=MODE)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=TEMPORARY)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Generator[int]:
        """Yield the file with the total, locked against other threads and processes."""
        parent = self.folder.parent.resolve()  # a link to the home is its user's, one in the home may be anybody's
        make_private_folder(parent)
        self.folder.mkdir(exist_ok=True, mode=MODE)
        with private_folder(parent) as home, private_folder(parent / self.folder.name):
            total = os.open(self._total.name, os.O_RDWR | os.O_CREAT | FILE_FLAGS, 0o600, dir_fd=home)
        try:
            fcntl.flock(total, fcntl.LOCK_EX)
            yield total
        finally:
            os.close(total)

    def _used_beside(self, total: int, added: int, *, prune: bool = False) -> int:
        """Return the bytes used; if `added` more do not fit, after another count or after pruning."""
        used = self._used(total)
        if used + added > self.max_bytes and prune:
            return self._count(total, keep=PRUNE_TO * self.max_bytes - added)
        if used + added > self.max_bytes and time.monotonic() - self._counted_at >= COUNT_AGAIN_S:
            return self._count(total)
        return used

    def _used(self, total: int) -> int:
        if not self._counted:
            return self._count(total)
        return _number(os.pread(total, 32, 0).decode("ascii", "replace"))

    def _count(self, total: int, *, keep: float | None = None) -> int:
        """Count all files, and delete what killed writers left; with `keep`, delete the oldest beyond so many bytes."""
        found = list[_File]()
        for file in self._files():
            if file.path.suffix == TEMPORARY:  # of a killed writer, since the lock is held
                file.path.unlink(missing_ok=True)
            else:
                found.append(file)
        used = sum(file.size for file in found)
        if keep is not None:
            for file in sorted(found, key=lambda file: file.modified):
                if used <= keep:
                    break
                with suppress(OSError):
                    file.path.unlink()
                    used -= file.size
        _note(total, used)
        self._counted, self._counted_at = True, time.monotonic()
        return used

    def _files(self) -> Iterator[_File]:
        for folder in _entries(self.folder):
            for entry in _entries(folder.path) if folder.is_dir(follow_symlinks=False) else ():
                with suppress(FileNotFoundError):  # another process deletes it
                    status = entry.stat(follow_symlinks=False)
                    yield _File(path=Path(entry.path), modified=status.st_mtime, size=_blocks(status.st_size))


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _blocks(size: int) -> int:
    """Return the bytes that a file of this size takes on a disk, about."""
    return -(-size // BLOCK) * BLOCK


def _size_of(path: Path) -> int:
    with suppress(OSError):
        return _blocks(path.lstat().st_size)
    return 0


def _note(total: int, used: int) -> None:
    # One write of a constant length, which a reader without the lock sees whole.
    os.pwrite(total, f"{used:020}\n".encode(), 0)


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0
