"""Finds the parts of the Unsplash Lite dataset in a zip, a folder or a glob, and reads their rows as typed values."""

from __future__ import annotations

import csv
import glob
import io
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from searchdb.errors import SourceError
from searchdb.sources import printable
from searchdb.sources.delimited import bounded_lines, delimited_rows
from searchdb.unsplash.columns import ALIASES, CONVERTERS, FORMATS, Value

MAX_LINE_CHARS = 1024 * 1024
"""Longest line in characters; the rest is dropped, so that a damaged part is not read into memory."""

_SHOWN_CHARS = 80
"""Maximum number of characters of an invalid value that a message quotes."""
_READ_ERRORS = (OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)
"""Raised on reading a file or zip member that is damaged or compressed by a method that Python does not support."""

_PART_NAME = re.compile(rf"({'|'.join(FORMATS)})\.(?:tsv|csv)[\d._-]*", re.IGNORECASE)
_WAY_OUT = "give the zip as downloaded, the folder of its files, or parts such as photos.tsv000"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a table: a file, or a member of a zip, with its header's columns.

    `columns` are the table's columns that it has, in its order, and `positions` are their positions in a row.
    """

    table: str
    name: str
    path: Path
    member: str | None
    byte_size: int
    delimiter: str
    columns: tuple[str, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a part, with a value for each of the part's columns. `line` is the number of its first line."""

    line: int
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be used, with the reason; `image_url` is the photo's URL, unchecked, if it can be read."""

    part: str
    line: int
    reason: str
    image_url: str | None = None

    def __str__(self) -> str:
        return f"line {self.line:,} of {self.part}: {self.reason}"


# --- Finding the parts ----------------------------------------------------------------------------


def find_parts(paths: Sequence[str | Path]) -> tuple[Part, ...]:
    """Return the parts in zips, folders, files and globs, in the order of FORMATS and then of their names.

    Raises:
        SourceError: a path does not exist or holds no part, a zip is broken or encrypted, or a part has no header.
    """
    found = {
        (os.path.realpath(part.path), part.member): part
        for given in paths
        for path in _matches(str(given))
        for part in _parts_at(path)
    }
    if not found:
        raise SourceError(f"no part of the Unsplash dataset was given: {_WAY_OUT}")
    tables = list(FORMATS)
    return tuple(sorted(found.values(), key=lambda part: (tables.index(part.table), part.name, str(part.path))))


def _matches(given: str) -> list[Path]:
    expanded = os.path.expanduser(given)  # noqa: PTH111 - pathlib raises for an unknown ~user
    if os.path.lexists(expanded):
        return [Path(expanded)]
    matches = [Path(match) for pattern in _braces(expanded) for match in sorted(glob.glob(pattern))]  # noqa: PTH207
    if not matches:
        raise SourceError(f"{printable(given)!r} does not exist; {_WAY_OUT}")
    return [path for path in matches if _table(path.name)] or matches


def _braces(pattern: str) -> list[str]:
    """Expand `{tsv,csv}` as a shell does, for patterns that were quoted on the command line."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    choices = found[1].split(",")
    return [each for c in choices for each in _braces(pattern[: found.start()] + c + pattern[found.end() :])]


def _table(name: str) -> str | None:
    match = _PART_NAME.fullmatch(name)
    return match[1].lower() if match else None


def _parts_at(path: Path) -> list[Part]:
    shown = repr(printable(str(path)))
    try:
        if path.is_dir():
            folders = [path, *sorted(each for each in path.iterdir() if each.is_dir() and not _hidden(each.name))]
            for level in (folders[:1], folders[1:]):
                parts = [_part(file) for folder in level for file in folder.iterdir() if _is_part(file)]
                if parts:
                    return parts
        elif _table(path.name):
            return [_part(path)]
        elif zipfile.is_zipfile(path):
            return _zipped_parts(path, shown)
        elif path.suffix.lower() == ".zip":
            raise SourceError(f"{shown} is not a zip, or is incomplete; download it again")
        else:
            raise SourceError(f"{shown} is neither a zip nor a part of the Unsplash dataset; {_WAY_OUT}")
    except OSError as exc:
        raise SourceError(f"{shown} cannot be read: {exc.strerror or exc}") from exc
    raise SourceError(f"the folder {shown} holds no part of the Unsplash dataset; {_WAY_OUT}")


def _is_part(file: Path) -> bool:
    return _table(file.name) is not None and file.is_file()


def _zipped_parts(path: Path, shown: str) -> list[Part]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if _table(PurePosixPath(info.filename).name)]
    except _READ_ERRORS as exc:
        raise SourceError(f"the zip {shown} is damaged ({exc}); download it again") from exc
    members = [info for info in members if not any(map(_hidden, PurePosixPath(info.filename).parts))]
    if not members:
        raise SourceError(f"the zip {shown} holds no part of the Unsplash dataset; {_WAY_OUT}")
    if any(info.flag_bits & 1 for info in members):
        raise SourceError(f"the zip {shown} is encrypted; unpack it with its password and give the folder")
    return [_part(path, info) for info in members]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _part(path: Path, member: zipfile.ZipInfo | None = None) -> Part:
    """Return the part in a file or zip member, with the columns in its header."""
    name = printable(path.name if member is None else PurePosixPath(member.filename).name)
    table = _table(name)
    assert table is not None  # noqa: S101 - the callers checked it
    format_ = FORMATS[table]
    head = next((line for line in _Lines(path, member and member.filename, name) if line.strip()), "")
    delimiter = "," if "\t" not in head and "," in head else "\t"
    header = next((fields for _, fields in delimited_rows(iter([head]), delimiter=delimiter)), csv.Error())
    named = [] if isinstance(header, csv.Error) else [_column(field) for field in header]
    positions: dict[str, int] = {}
    for position, column in [*enumerate(named), *((at, ALIASES.get(column, "")) for at, column in enumerate(named))]:
        if column in format_.columns:
            positions.setdefault(column, position)
    missing = [column for column in format_.required if column not in positions]
    if missing:
        raise SourceError(
            f"{name} has no column {missing[0]}: the first line of a part must name its columns; "
            "take the part as downloaded, or leave it out"
        )
    ordered = sorted(positions.items(), key=lambda item: item[1])
    return Part(
        table=table,
        name=name,
        path=path,
        member=member and member.filename,
        byte_size=path.stat().st_size if member is None else member.file_size,
        delimiter=delimiter,
        columns=tuple(column for column, _ in ordered),
        positions=tuple(position for _, position in ordered),
    )


def _column(field: str) -> str:
    return re.sub(r"\s+", "_", field.strip().lower())


# --- Reading a part -------------------------------------------------------------------------------


class _Lines:
    """Iterates over the lines of a part, read from the file or the zip; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self, path: Path, member: str | None, name: str) -> None:
        self._path, self._member, self._name = path, member, name
        self._binary: BinaryIO | None = None

    @property
    def bytes_read(self) -> int:
        """Uncompressed bytes of the part read so far."""
        return self._binary.tell() if self._binary is not None and not self._binary.closed else 0

    def __iter__(self) -> Iterator[str]:
        try:
            if self._member is None:
                with self._path.open("rb") as binary:
                    yield from self._decoded(binary)
            else:
                with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as binary:
                    yield from self._decoded(cast("BinaryIO", binary))
        except _READ_ERRORS as exc:
            reason = getattr(exc, "strerror", None) or exc
            inside = way_out = ""
            if self._member is not None:
                inside, way_out = f" in {printable(self._path.name)!r}", ", or unpack it and give the folder"
            raise SourceError(
                f"{self._name}{inside} cannot be read to its end ({reason}); download it again{way_out}"
            ) from exc

    def _decoded(self, binary: BinaryIO) -> Iterator[str]:
        self._binary = binary
        with io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="") as text:
            for line in bounded_lines(text, MAX_LINE_CHARS):
                yield line.replace("\0", "�") if "\0" in line else line


class PartReader:
    """Reads one part row by row: iterate over it for its Rows and BadRows.

    Raises, while iterating:
        SourceError: the file cannot be read to its end.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._lines = _Lines(part.path, part.member, part.name)
        kinds = FORMATS[part.table].columns
        self._converters = [CONVERTERS[kinds[column]] for column in part.columns]
        self._required = [part.columns.index(column) for column in FORMATS[part.table].required]

    @property
    def bytes_read(self) -> int:
        """Uncompressed bytes of the part read so far."""
        return self._lines.bytes_read

    def __iter__(self) -> Iterator[Row | BadRow]:
        # Local variables, because this loop processes millions of rows.
        converters, required, positions = self._converters, self._required, self._part.positions
        rows = delimited_rows(iter(self._lines), delimiter=self._part.delimiter, exact_width=True)
        next(rows, None)  # the header
        for line, fields in rows:
            if isinstance(fields, csv.Error):
                yield self._bad(line, f"the row is malformed ({printable(str(fields))}); look for a stray quote or tab")
                continue
            texts = [fields[position] for position in positions]
            try:
                values = tuple(
                    [convert(text) if text else None for convert, text in zip(converters, texts, strict=True)]
                )
            except ValueError:
                yield self._wrong(line, texts)
                continue
            for index in required:
                if values[index] is None:
                    if any(map(str.strip, fields)):
                        yield self._bad(line, f"column {self._part.columns[index]} is empty", texts)
                    break
            else:
                yield Row(line=line, values=values)

    def _wrong(self, line: int, texts: list[str]) -> BadRow:
        """Return a BadRow for the first value that its column cannot hold."""
        for column, convert, text in zip(self._part.columns, self._converters, texts, strict=True):
            try:
                convert(text) if text else None
            except ValueError as exc:
                shown = text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
                return self._bad(line, f"column {column}: '{printable(shown)}' {exc}", texts)
        raise AssertionError("only called for a row with a wrong value")

    def _bad(self, line: int, reason: str, texts: Sequence[str] = ()) -> BadRow:
        url = dict(zip(self._part.columns, texts, strict=False)).get("photo_image_url")
        return BadRow(part=self._part.name, line=line, reason=reason, image_url=url or None)
