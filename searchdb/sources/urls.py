"""The URL list source: plain lists, CSV, TSV and JSON lines to SourceItems, one bad row never spoiling the rest."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import RejectedItem, SourceItem, clean_url, mask_credentials
from searchdb.sources import printable
from searchdb.sources.delimited import bounded_lines, delimited_rows

SOURCE = "urls"

URL_COLUMNS = ("url", "image_url", "image")
"""Columns that may hold the URL; the first of them that is there does, the others are metadata."""

MAX_LINE_CHARS = 1024 * 1024
"""Longest line read; the rest of a longer one is dropped, so that a list without line ends is not read into memory."""

_SHOWN_CHARS = 80
"""How much of a wrong value a message quotes."""

_DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}
"""Spreadsheets write semicolons, or tabs, into .csv where the comma is the decimal sign."""

_JSON_LINES = (".jsonl", ".ndjson")

_Row = tuple[int, "Mapping[str, Any] | InvalidReferenceError"]


def urls(path_or_dash: str, *, stdin: BinaryIO | TextIO | None = None) -> Iterator[SourceItem | RejectedItem]:
    """Yield one item for each URL of a list; `-` reads `stdin`, by default the process's.

    The list is one URL a line (blank lines and lines that begin with `#` are skipped), or CSV, TSV or JSON lines with
    a column of URL_COLUMNS. The extension tells which (.csv, .tsv, .jsonl, .ndjson), and otherwise the first line
    does. Columns named like SourceItem's fields fill them, all others that are not empty go into `metadata`. `tags`
    are separated by `;` or else `,`, or are a JSON list. Times without a time zone are taken as UTC.

    A row whose URL or value is malformed becomes a RejectedItem with an InvalidReferenceError that names the line, the
    column and the value. Repeated URLs are yielded again.

    Raises:
        SourceError: the list is missing or a folder (raised by the call), or cannot be read, is UTF-16 or has no
            column of URLs (raised by the first `next`).
    """
    if path_or_dash != "-":
        path = _expanded(path_or_dash)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder above may not be entered
            raise SourceError(f"{printable(path_or_dash)!r} is a folder; name a list of URLs, or use `ingest files`")
        if not os.path.exists(path):  # noqa: PTH110
            raise SourceError(f"the list {printable(path_or_dash)!r} does not exist; name a file, or - for stdin")
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
def _opened(path_or_dash: str, stdin: BinaryIO | TextIO | None) -> Iterator[TextIO]:
    """Open the list as text whose undecodable bytes stay recognisable, and leave stdin open afterwards."""
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
    if isinstance(binary, io.TextIOBase):  # a StringIO has no bytes behind it
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
    """Yield each row with the number of its first line, as the list's format has it."""
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
        return {column.strip().lower() for column in next(csv.reader([line], delimiter=delimiter), [])}
    except csv.Error:
        return set()


def _csv_rows(lines: Iterator[str], delimiter: str, first_line: int) -> Iterator[_Row]:
    """Yield the rows of a CSV as mappings; a row may have more or fewer fields than the header."""
    header: list[str] | None = None
    for at, fields in delimited_rows(lines, delimiter=delimiter, first_line=first_line):
        if isinstance(fields, csv.Error):
            yield at, InvalidReferenceError(f"the row is malformed ({fields}); look for a stray quote")
        elif header is None:
            header = _known(fields)
        elif any(map(str.strip, fields)):
            yield at, {column: value for column, value in zip(header, fields, strict=False) if column}


def _json_rows(lines: Iterator[str], first_line: int) -> Iterator[_Row]:
    for at, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_number, parse_float=_finite)
        except (ValueError, RecursionError) as exc:
            yield at, InvalidReferenceError(f"the line is not JSON ({exc or 'nested too deeply'})")
            continue
        if isinstance(row, dict):
            yield at, dict(zip(_known(list(row)), row.values(), strict=True))
        else:
            yield at, InvalidReferenceError("the line is not a JSON object, {...}")


def _known(columns: list[str]) -> list[str]:
    """Return column names with those that mean something to us in their own spelling, whatever case the list uses."""
    return [
        name.lower() if name.lower() in _MEANINGS or name.lower() in URL_COLUMNS else name
        for name in (column.strip() for column in columns)
    ]


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


# --- Rows -----------------------------------------------------------------------------------------


def _item(row: Mapping[str, Any]) -> SourceItem:
    """Return the record for one row; InvalidReferenceError names the column and the value that is wrong."""
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
        if column in _MEANINGS:
            values[column] = _value(column, value, _MEANINGS[column])
        else:
            metadata[_value("name", column, _text)] = _value(column, value, _storable)
    return SourceItem(source=SOURCE, metadata=metadata, **values)


def _value(column: str, raw: Any, meaning: Callable[[Any], Any]) -> Any:
    try:
        return meaning(raw)
    except ValueError as exc:
        shown = mask_credentials(printable(str(raw)))
        shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
        raise InvalidReferenceError(f"column {printable(column)}: '{shown}' {exc}") from exc


def _storable(value: Any) -> Any:
    """Return a value unchanged that PostgreSQL can keep; ValueError for what its text and jsonb refuse."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("holds a NUL character")
        if re.search("[\ud800-\udfff]", value):
            raise ValueError("is not valid UTF-8; save the list as UTF-8")
    elif isinstance(value, list):
        for each in value:
            _storable(each)
    elif isinstance(value, dict):
        for each in itertools.chain(value, value.values()):
            _storable(each)
    return value


def _text(value: Any) -> str:
    if isinstance(value, (list, dict, bool)):
        raise ValueError("is not text")
    return _storable(str(value))


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a URL")
    return clean_url(_storable(value))


def _moment(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("is not a date and time, such as 2024-05-31T18:30:00+02:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _degrees(limit: int) -> Callable[[Any], float]:
    def degrees(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not abs(number) <= limit:  # false for NaN, too
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
    return tuple(dict.fromkeys(tag for tag in (_text(each).strip() for each in value) if tag))


def _first(row: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    return next((row[column] for column in columns if column in row), None)


_MEANINGS: Mapping[str, Callable[[Any], Any]] = {
    "source_id": _text,
    "description": _text,
    "credit": _text,
    "credit_url": _url,
    "page_url": _url,
    "taken_at": _moment,
    "camera": _text,
    "country": _text,
    "city": _text,
    "latitude": _degrees(90),
    "longitude": _degrees(180),
    "tags": _tags,
}
