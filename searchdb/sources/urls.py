"""Turns lists of URLs (plain, CSV, TSV or JSON lines) into SourceItems; a bad row does not affect the others."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, cast

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import RejectedItem, SourceItem, clean_url
from searchdb.sources import printable
from searchdb.sources.columns import SOURCE, URL_COLUMNS, item_from_row, normalised_names, url_of
from searchdb.sources.delimited import UNCLOSED, bounded_lines, delimited_rows
from searchdb.sources.json_lines import json_objects

MAX_NESTING = 100
"""How deep lists and objects in a line of JSON may be nested: what is stored is read back by programs with limits."""
MAX_LINE_CHARS = 1024 * 1024
"""Longest line in characters; the rest is dropped, so that a list without line ends is not read into memory."""

_DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}
"""Delimiters by extension: spreadsheets write semicolons or tabs to .csv where the comma is the decimal sign."""

_JSON_LINES = (".jsonl", ".ndjson")

_Row = tuple[int, "Mapping[str, Any] | InvalidReferenceError"]


def urls(path_or_dash: str, *, stdin: BinaryIO | TextIO | None = None) -> Iterator[SourceItem | RejectedItem]:
    """Yield one item for each URL of a list; `-` reads `stdin`, by default the process's.

    The list is one URL a line (blank lines and lines that begin with `#` are skipped), or CSV, TSV or JSON lines with
    one of URL_COLUMNS. The extension (.csv, .tsv, .jsonl, .ndjson) or else the first line decides the format. Columns
    named like SourceItem's fields fill them; all other non-empty columns go into `metadata`. `tags` are separated by
    `;` or else `,`, or are a JSON list. Times without a time zone are taken as UTC.

    A row whose URL or value is malformed becomes a RejectedItem with an InvalidReferenceError that names the line, the
    column and the value; so does a row with an unclosed quote, or with more fields than the header. Repeated URLs are
    yielded again.

    Raises:
        SourceError: the list is missing or a folder (raised by the call), or cannot be read, is UTF-16, has no column
            of URLs, or its header is malformed or names a column twice (raised by the first `next`).
    """
    if path_or_dash != "-":
        path = _expanded(path_or_dash)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
            raise SourceError(f"{printable(path_or_dash)!r} is a folder; give a list of URLs, or use `ingest files`")
        if not os.path.exists(path):  # noqa: PTH110
            raise SourceError(f"the list {printable(path_or_dash)!r} does not exist; give a file, or - for stdin")
    return _items(path_or_dash, stdin)


def _items(path_or_dash: str, stdin: BinaryIO | TextIO | None) -> Iterator[SourceItem | RejectedItem]:
    name = "stdin" if path_or_dash == "-" else printable(Path(path_or_dash).name)
    with _opened(path_or_dash, stdin) as stream:
        for line, row in _rows(_lines(stream, name), name, Path(path_or_dash).suffix.lower()):
            try:
                if isinstance(row, InvalidReferenceError):
                    raise row
                yield item_from_row(row)
            except InvalidReferenceError as exc:
                named = "" if isinstance(row, InvalidReferenceError) else url_of(row)
                yield RejectedItem(
                    image=printable(named.strip() or f"{name}:{line}"),
                    source=SOURCE,
                    error=InvalidReferenceError(f"line {line:,} of {name}: {exc}"),
                )


# --- Lines ----------------------------------------------------------------------------------------


@contextmanager
def _opened(path_or_dash: str, stdin: BinaryIO | TextIO | None) -> Generator[TextIO]:
    """Open the list as text with undecodable bytes as surrogates; stdin stays open afterwards."""
    if path_or_dash != "-":
        try:
            with (
                Path(path_or_dash)
                .expanduser()
                .open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream
            ):
                yield stream
        except OSError as exc:
            raise SourceError(f"the list {printable(path_or_dash)!r} cannot be read: {exc.strerror or exc}") from exc
        return
    given = sys.stdin if stdin is None else stdin
    binary = getattr(given, "buffer", given)
    if isinstance(binary, io.TextIOBase):  # a StringIO has no underlying bytes
        yield cast("TextIO", binary)
        return
    stream = io.TextIOWrapper(cast("BinaryIO", binary), encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield stream
    finally:
        stream.detach()


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for an unknown ~user


def _lines(stream: TextIO, name: str) -> Iterator[str]:
    for number, line in enumerate(bounded_lines(stream, MAX_LINE_CHARS)):
        if number == 0 and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
            raise SourceError(f"{name} is UTF-16; save it as UTF-8")
        yield line


def _rows(lines: Iterator[str], name: str, suffix: str) -> Iterator[_Row]:
    """Yield each row with the number of its first line, read in the list's format."""
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#")
    head = next(numbered, None)
    if head is None:
        return
    number, line = head
    reading = itertools.chain([line], lines)
    if suffix in _JSON_LINES or (suffix not in _DELIMITERS and line.lstrip().startswith("{")):
        yield from _json_rows(reading, number)
        return
    for delimiter in _DELIMITERS.get(suffix, ("\t", ",", ";")):
        if _columns(line, delimiter) & set(URL_COLUMNS):
            yield from _csv_rows(reading, delimiter, number, name)
            return
    if suffix in _DELIMITERS:
        if line.count('"') % 2:
            raise SourceError(_bad_header(number, name, UNCLOSED))
        raise SourceError(
            f"{name} has no url column: its first line must name the columns, one of them {' or '.join(URL_COLUMNS)}. "
            "For one URL a line, without names, give the list another extension, such as .txt"
        )
    for at, text in enumerate(reading, number):
        if text.strip() and text.lstrip()[0] != "#":
            yield at, {"url": text}


def _columns(line: str, delimiter: str) -> set[str]:
    try:
        return {column.strip().lower() for column in next(csv.reader([line], delimiter=delimiter), list[str]())}
    except csv.Error:
        return set()


def _csv_rows(lines: Iterator[str], delimiter: str, first_line: int, name: str) -> Iterator[_Row]:
    """Yield the rows of a CSV as mappings; a row may have fewer fields than the header."""
    header: list[str] = []

    def looks_like_row(line: str) -> bool:
        """Whether a line, read by itself, has all columns, and a URL that ends before any quote."""
        if not header:
            return False
        at = next(header.index(column) for column in URL_COLUMNS if column in header)
        try:
            fields = next(csv.reader([line], delimiter=delimiter), list[str]())
        except csv.Error:
            return False
        unquoted = line.partition('"')[0].rstrip("\r\n").split(delimiter)
        ended = len(unquoted) > at + 1 or (len(unquoted) == at + 1 and '"' not in line)
        return ended and len(fields) == len(header) and _is_url(fields[at])

    rows = delimited_rows(lines, delimiter=delimiter, first_line=first_line, looks_like_row=looks_like_row)
    for at, fields in rows:
        if isinstance(fields, csv.Error):
            if not header:
                raise SourceError(_bad_header(at, name, fields))
            yield at, InvalidReferenceError(f"the row is malformed ({fields}); look for {_cause(fields)}")
        elif not header:
            header += normalised_names(fields)
            if twice := _repeated(header):
                raise SourceError(
                    f"line {at:,} of {name} names the column {printable(twice)!r} twice; rename one of them"
                )
        elif any(map(str.strip, fields)):
            yield at, {column: value for column, value in zip(header, fields, strict=False) if column}


def _bad_header(line: int, name: str, reason: object) -> str:
    return f"line {line:,} of {name}, which names the columns, is malformed ({reason})"


def _cause(error: csv.Error) -> str:
    return "an unquoted comma, semicolon or tab" if "fields, the header" in str(error) else "a stray quote"


def _is_url(text: str) -> bool:
    try:
        return bool(clean_url(text))
    except ValueError:
        return False


def _repeated(names: Sequence[str]) -> str | None:
    """Return a name that occurs twice; blank ones may."""
    seen: set[str] = set()
    return next((name for name in names if name and (name in seen or seen.add(name))), None)


def _json_rows(lines: Iterator[str], first_line: int) -> Iterator[_Row]:
    for at, row in json_objects(lines, first_line, loads=_parse):
        if isinstance(row, str):
            yield at, InvalidReferenceError(row)
        elif twice := _repeated(keys := normalised_names(list(row))):
            yield at, InvalidReferenceError(f"the line has the key {printable(twice)!r} twice")
        else:
            yield at, dict(zip(keys, row.values(), strict=True))


def _parse(line: str) -> object:
    row = json.loads(line, parse_constant=_refuse_number, parse_float=_finite, object_pairs_hook=_distinct)
    if line.count("[") + line.count("{") > MAX_NESTING and (depth := _depth(row)) > MAX_NESTING:
        raise ValueError(f"nested {depth} deep, the limit is {MAX_NESTING}")
    return row


def _depth(value: object) -> int:
    """Return how deep lists and objects are nested in each other."""
    depth, level = 0, [value]
    while containers := [cast("list[Any] | dict[str, Any]", each) for each in level if isinstance(each, list | dict)]:
        depth += 1
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; ValueError if it has a key twice, of which Python would keep the last."""
    if twice := _repeated([key for key, _ in pairs]):
        raise ValueError(f"the key {printable(twice)!r} occurs twice")
    return dict(pairs)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)
