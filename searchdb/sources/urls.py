"""Turns lists of URLs (plain, CSV, TSV or JSON lines) into SourceItems; a bad row does not affect the others."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, cast

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import RejectedItem, SourceItem, clean_url, mask_credentials
from searchdb.sources import printable
from searchdb.sources.delimited import bounded_lines, delimited_rows

SOURCE = "urls"

URL_COLUMNS = ("url", "image_url", "image")
"""Names of columns with the URL; the first one that exists is used, the others are metadata."""

MAX_LINE_CHARS = 1024 * 1024
"""Longest line in characters; the rest is dropped, so that a list without line ends is not read into memory."""

_SHOWN_CHARS = 80
"""Maximum number of characters of an invalid value that a message quotes."""

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
    column and the value. Repeated URLs are yielded again.

    Raises:
        SourceError: the list is missing or a folder (raised by the call), or cannot be read, is UTF-16 or has no
            column of URLs (raised by the first `next`).
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
                yield _item(row)
            except InvalidReferenceError as exc:
                named = "" if isinstance(row, InvalidReferenceError) else str(_first(row, URL_COLUMNS) or "")
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
            yield from _csv_rows(reading, delimiter, number)
            return
    if suffix in _DELIMITERS:
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


def _csv_rows(lines: Iterator[str], delimiter: str, first_line: int) -> Iterator[_Row]:
    """Yield the rows of a CSV as mappings; a row may have more or fewer fields than the header."""
    header: list[str] | None = None
    for at, fields in delimited_rows(lines, delimiter=delimiter, first_line=first_line):
        if isinstance(fields, csv.Error):
            yield at, InvalidReferenceError(f"the row is malformed ({fields}); look for a stray quote")
        elif header is None:
            header = _normalised(fields)
        elif any(map(str.strip, fields)):
            yield at, {column: value for column, value in zip(header, fields, strict=False) if column}


def _json_rows(lines: Iterator[str], first_line: int) -> Iterator[_Row]:
    for at, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            row: object = json.loads(line, parse_constant=_refuse_number, parse_float=_finite)
        except (ValueError, RecursionError) as exc:
            yield at, InvalidReferenceError(f"the line is not JSON ({exc or 'nested too deeply'})")
            continue
        if isinstance(row, dict):
            values = cast("dict[str, Any]", row)
            yield at, dict(zip(_normalised(list(values)), values.values(), strict=True))
        else:
            yield at, InvalidReferenceError("the line is not a JSON object, {...}")


def _normalised(columns: list[str]) -> list[str]:
    """Return the column names stripped, and the known ones in lower case."""
    return [
        name.lower() if name.lower() in _CONVERTERS or name.lower() in URL_COLUMNS else name
        for name in (column.strip() for column in columns)
    ]


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


# --- Rows -----------------------------------------------------------------------------------------


def _item(row: Mapping[str, Any]) -> SourceItem:
    """Return the record for one row; InvalidReferenceError names the invalid column and value."""
    url_column = next((name for name in URL_COLUMNS if name in row), None)
    url = None if url_column is None else row[url_column]
    if url_column is None or url is None or (isinstance(url, str) and not url.strip()):
        raise InvalidReferenceError("the row has no URL")
    values: dict[str, Any] = {"image": _value(url_column, url, _url)}
    metadata: dict[str, Any] = {}
    for column, raw in row.items():
        value = raw.strip() if isinstance(raw, str) else raw
        if column == url_column or not column or value is None or value in ("", [], {}):
            continue
        if column in _CONVERTERS:
            values[column] = _value(column, value, _CONVERTERS[column])
        else:
            metadata[_value("name", column, _text)] = _value(column, value, _storable)
    return SourceItem(source=SOURCE, metadata=metadata, **values)


def _value(column: str, raw: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(raw)
    except ValueError as exc:
        shown = mask_credentials(printable(str(raw)))
        shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
        raise InvalidReferenceError(f"column {printable(column)}: '{shown}' {exc}") from exc


def _storable(value: Any) -> Any:
    """Return the value unchanged; ValueError if PostgreSQL's text and jsonb cannot store it."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("holds a NUL character")
        if re.search("[\ud800-\udfff]", value):
            raise ValueError("is not valid UTF-8; save the list as UTF-8")
    elif isinstance(value, list):
        for element in cast("list[Any]", value):
            _storable(element)
    elif isinstance(value, dict):
        for key, element in cast("dict[str, Any]", value).items():
            _storable(key)
            _storable(element)
    return cast("Any", value)


def _text(value: Any) -> str:
    if isinstance(value, (list, dict, bool)):
        raise ValueError("is not text")
    return _storable(str(value))


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a URL")
    return clean_url(_storable(value))


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("is not a date and time, such as 2024-05-31T18:30:00+02:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _degrees(limit: int) -> Callable[[Any], float]:
    def degrees(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not abs(number) <= limit:  # also refuses NaN
            raise ValueError(f"is not a number between -{limit} and {limit}")
        return number

    return degrees


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    if isinstance(value, str):
        value = value.split(";" if ";" in value else ",")
    if not isinstance(value, list):
        raise ValueError("is not a list of tags")
    tags = (_text(tag).strip() for tag in cast("list[Any]", value))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    return next((row[column] for column in columns if column in row), None)


_CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
    "source_id": _text,
    "description": _text,
    "credit": _text,
    "credit_url": _url,
    "page_url": _url,
    "taken_at": _time,
    "camera": _text,
    "country": _text,
    "city": _text,
    "latitude": _degrees(90),
    "longitude": _degrees(180),
    "tags": _tags,
}
