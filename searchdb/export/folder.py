"""Fills a folder with links to images or copies of them, whose names have the order of the export."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from searchdb.errors import ExportError, FileUnreadableError, ImageError, StorageError
from searchdb.export.disk import is_full
from searchdb.export.names import extension_of, file_name
from searchdb.export.originals import Originals, in_order
from searchdb.export.report import ExportFailure, ExportReport
from searchdb.export.rows import Row
from searchdb.media.formats import FORMATS, format_of
from searchdb.media.regular_file import open_regular
from searchdb.records import is_url

FOLDER_COLUMNS = ("id", "image", "source", "video", "video_time", "ingested_at")
"""What must be known about each image."""
MAX_FOLDER_FILES = 100_000
"""Most files of one folder: beyond it, file managers and network shares are of little use."""
COPIED_BYTES = 1024 * 1024
"""Bytes of a file that are copied at a time."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One image and its number."""

    number: int
    total: int
    row: Row

    def name(self, extension: str | None = None) -> str:
        reference = self.row["video"] or self.row["image"]
        return file_name(self.number, self.total, reference, extension=extension, time=self.row["video_time"])


def fill_folder(
    folder: Path, rows: Sequence[Row], originals: Originals, *, copy: bool, progress: Callable[[int], None]
) -> ExportReport:
    """Link or copy the images into a folder, which is made if it does not exist; return the report.

    Links are symbolic, to the absolute path. Frames of videos are files in either case. Nothing that exists is
    overwritten or followed: what is there from an earlier export counts as unchanged, and any other file with a name
    that is needed makes its image a failure, as a gone file or a failed download does. A copy has its final name only
    when it is complete.

    Args:
        folder: the target; the last component may be a link.
        rows: have FOLDER_COLUMNS.
        originals: gets previews and downloads.
        copy: copy files, and download images at URLs, which cannot be linked.
        progress: called with the number of images done so far.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    report = ExportReport(target=str(folder), format="folder")
    jobs = (_Job(number=number, total=len(rows), row=row) for number, row in enumerate(rows, 1))
    with (
        _opened(folder) as target,
        # Closed before the folder is: a thread must not write by a descriptor that is another file's meanwhile.
        closing(in_order(_Filler(target, folder, originals, copy=copy).place, jobs)) as outcomes,
    ):
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, ExportFailure):
                report.failed.append(outcome)
            elif outcome:
                report.exported += 1
            else:
                report.unchanged += 1
            progress(done)
    return report


class _Filler:
    """Puts images into one open folder."""

    def __init__(self, target: int, folder: Path, originals: Originals, *, copy: bool) -> None:
        self._target = target
        self._folder = folder
        self._originals = originals
        self._copy = copy

    def place(self, job: _Job) -> bool | ExportFailure:
        """Put one image into the folder; return whether its file is new."""
        image: str = job.row["image"]
        try:
            if job.row["video"] is not None:
                return self._place_frame(job)
            if is_url(image):
                return self._download(job)
            return self._copy_file(job) if self._copy else self._link(job)
        except (ImageError, ExportError) as exc:
            return ExportFailure.of(job.row["id"], image, exc)

    def _link(self, job: _Job) -> bool:
        image, name = job.row["image"], job.name()
        _check_path(image)
        with open_regular(image):  # a link to a file that is gone or unreadable would be of no use
            pass
        with self._writing(name):
            try:
                os.symlink(image, name, dir_fd=self._target)
            except FileExistsError:
                if self._status(name) is not None and self._linked(name) != image:
                    raise _taken(name) from None
                return False
        return True

    def _linked(self, name: str) -> str | None:
        with suppress(OSError):  # it is no link
            return os.readlink(name, dir_fd=self._target)
        return None

    def _copy_file(self, job: _Job) -> bool:
        image, name = job.row["image"], job.name()
        _check_path(image)
        with open_regular(image) as source:
            status = os.fstat(source.fileno())
            if (there := self._status(name)) is not None:
                if not _is_copy(there, status.st_mtime_ns, status.st_size):
                    raise _taken(name)
                return False
            with self._new_file(name) as descriptor:
                while data := source.read(COPIED_BYTES):
                    self._write(descriptor, data, name)
                self._set_times(descriptor, name, status.st_atime_ns, status.st_mtime_ns)
        return True

    def _download(self, job: _Job) -> bool:
        """Download an image; the time of its ingest becomes that of the file, by which the next export knows it."""
        if not self._copy:
            raise FileUnreadableError("it is at a URL, which cannot be linked: copy the images to download it")
        time_ns = _nanoseconds(job.row["ingested_at"])
        # Only the content says the extension.
        stem = job.name(extension="")
        for name in self._names_with(stem):
            there = self._status(name)
            if there is None or not _is_copy(there, time_ns):
                raise _taken(name)
            return False
        with self._originals.downloaded(job.row) as data:
            name = job.name(extension_of(format_of(data)))
            with self._new_file(name) as descriptor:
                self._write(descriptor, data, name)
                self._set_times(descriptor, name, time_ns, time_ns)
        return True

    def _place_frame(self, job: _Job) -> bool:
        data, name, time_ns = self._originals.preview(job.row), job.name(".webp"), _nanoseconds(job.row["ingested_at"])
        if (there := self._status(name)) is not None:
            if not _is_copy(there, time_ns, len(data)):
                raise _taken(name)
            return False
        with self._new_file(name) as descriptor:
            self._write(descriptor, data, name)
            self._set_times(descriptor, name, time_ns, time_ns)
        return True

    def _names_with(self, stem: str) -> list[str]:
        """Return the names in the folder that are this one with any of our extensions."""
        found = (f"{stem}{extension_of(form)}" for form in FORMATS)
        return [name for name in found if self._status(name) is not None]

    def _status(self, name: str) -> os.stat_result | None:
        with self._writing(name):
            try:
                return os.stat(name, dir_fd=self._target, follow_symlinks=False)
            except FileNotFoundError:
                return None

    @contextmanager
    def _new_file(self, name: str) -> Generator[int]:
        """Yield the descriptor of a file that gets its name at the end of the block, unless that is taken by then."""
        hidden = f".searchdb-{secrets.token_hex(8)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._writing(name):
            descriptor = os.open(hidden, flags, 0o666, dir_fd=self._target)
        try:
            try:
                yield descriptor
            finally:
                with self._writing(name):  # network file systems report a full disk only now
                    os.close(descriptor)
            with self._writing(name):
                self._give_name(hidden, name)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(hidden, dir_fd=self._target)

    def _give_name(self, hidden: str, name: str) -> None:
        try:
            # Unlike a rename, this never replaces a file.
            os.link(hidden, name, src_dir_fd=self._target, dst_dir_fd=self._target)
        except FileExistsError:
            raise _taken(name) from None
        except OSError:  # a file system without hard links, such as those of USB sticks
            if self._status(name) is not None:
                raise _taken(name) from None
            os.rename(hidden, name, src_dir_fd=self._target, dst_dir_fd=self._target)

    def _write(self, descriptor: int, data: bytes, name: str) -> None:
        view = memoryview(data)
        with self._writing(name):
            while view:
                view = view[os.write(descriptor, view) :]

    def _set_times(self, descriptor: int, name: str, accessed_ns: int, modified_ns: int) -> None:
        with self._writing(name):
            os.utime(descriptor, ns=(accessed_ns, modified_ns))

    @contextmanager
    def _writing(self, name: str) -> Generator[None]:
        """Translate errors of the target folder, which end the export: the next image would meet them, too."""
        try:
            yield
        except OSError as exc:
            raise StorageError(str(self._folder / name), exc.strerror or str(exc), full=is_full(exc)) from exc


@contextmanager
def _opened(folder: Path) -> Generator[int]:
    """Make a folder unless it exists, and yield its descriptor: files opened by it are in that folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileExistsError:
        raise StorageError(str(folder), "it is not a folder", full=False) from None
    except OSError as exc:
        raise StorageError(str(folder), exc.strerror or str(exc), full=is_full(exc)) from exc
    except ValueError as exc:  # a NUL in the name
        raise StorageError(str(folder), str(exc), full=False) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _check_path(reference: str) -> None:
    if not os.path.isabs(reference):  # noqa: PTH117 - a text of the database, which need not be a path
        raise FileUnreadableError("it is neither a URL nor the full path of a file")


def _is_copy(status: os.stat_result, time_ns: int, size: int | None = None) -> bool:
    """Whether a file is the one that an earlier export wrote: some file systems keep times to two seconds only."""
    same_time = abs(status.st_mtime_ns - time_ns) <= 2_000_000_000
    return stat.S_ISREG(status.st_mode) and same_time and (size is None or status.st_size == size)


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000


def _taken(name: str) -> ExportError:
    return ExportError(f"the folder has another file {name!r}: move it away, or export into a new folder")
