"""Reads vectors and metadata from texts: JSON lines, CSV, TSV and the output of PostgreSQL's COPY."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from searchdb.batches import batched
from searchdb.errors import SourceError
from searchdb.sources import printable
from searchdb.sources.delimited import bounded_lines, delimited_rows
from searchdb.sources.json_lines import json_objects
from searchdb.vector_files.names import vector_column
from searchdb.vector_files.nesting import MAX_NESTING, is_deep
from searchdb.vector_files.records import BATCH_ROWS, Layout, RowBatch
from searchdb.vector_files.units import parsed

MAX_LINE_CHARS = 1024 * 1024
"""Longest line in characters: a vector of 2,000 numbers takes 50,000."""
_HEAD_BYTES = 256 * 1024
"""What is looked at to tell COPY's text from other texts with tabs."""
_VECTOR = re.compile(r"(?i)\s*[\[{][-+.,\s\denaifty]*\d[-+.,\s\denaifty]*[\]}]\s*")
"""A vector as pgvector writes it, `[1,2,3]`, or an array as PostgreSQL does, `{1,2,3}`."""
_HEAD_ROWS = 100
"""Rows in which the column of vectors is looked for."""
_LEAST_NUMBERS = 8
"""Numbers from which a list is taken for a vector; shorter ones may be places or sizes."""
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED = re.compile(r"\\(N|x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_NULL = "\\N"

_Row = tuple[int, "dict[str, Any] | str"]
"""The number of a row's first line, and its values by column, or the reason why it cannot be read."""


def jsonl_batches(path: Path, layout: Layout) -> Iterator[RowBatch]:
    """Yield the objects of a file with one a line, which have a list of numbers.

    Raises:
        SourceError: it cannot be read, or no object of the first batch has a list of numbers.
    """
    return _batches(_read(path, _json_rows), path, layout)


def delimited_batches(path: Path, layout: Layout, *, delimiters: Sequence[str]) -> Iterator[RowBatch]:
    """Yield the rows of CSV or TSV; the first line names the columns unless it holds a vector.

    Raises:
        SourceError: it cannot be read, or has no column of vectors.
    """

    def rows(lines: Iterator[str]) -> Iterator[_Row]:
        head = next(lines, "")
        delimiter = max(delimiters, key=_outside_lists(head).count)
        read = delimited_rows(itertools.chain([head], lines), delimiter=delimiter)
        return _named_rows(read, path.name)

    return _batches(_read(path, rows), path, layout)


def copy_batches(path: Path, layout: Layout) -> Iterator[RowBatch]:
    r"""Yield the rows of COPY's text format: fields between tabs, `\N` for null, backslashes before special characters.

    The first line names the columns (COPY ... WITH (HEADER)) unless it holds a vector.

    Raises:
        SourceError: it cannot be read, or has no column of vectors.
    """

    def rows(lines: Iterator[str]) -> Iterator[_Row]:
        return _named_rows(_copy_rows(lines), path.name)

    return _batches(_read(path, rows), path, layout)


def looks_like_copy(path: Path) -> bool:
    r"""Whether a text with tabs is COPY's: it has a field `\N`, or no header and no quote at the start of a field."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        head = file.read(_HEAD_BYTES)
    first = head.partition("\n")[0].rstrip("\r")
    if re.search(r"(^|\t)\\N(\t|\r?\n|$)", head, re.MULTILINE):
        return True
    return any(map(_VECTOR.fullmatch, first.split("\t"))) and not re.search(r'(^|\t)"', head, re.MULTILINE)


def sidecar_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a text without vectors: JSON lines, CSV or TSV by the extension, else a reference on each line.

    A malformed row has no values.

    Raises:
        SourceError: it cannot be read.
    """
    suffix = path.suffix.lower()

    def lines_of(lines: Iterator[str]) -> Iterator[_Row]:
        return ((at, {"path": line.strip()}) for at, line in enumerate(lines, 1))

    def fields_of(lines: Iterator[str]) -> Iterator[_Row]:
        return _named_rows(delimited_rows(lines, delimiter="," if suffix == ".csv" else "\t"), path.name)

    read = {".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": fields_of, ".tsv": fields_of}.get(suffix, lines_of)
    for _, row in _read(path, read):
        yield row if isinstance(row, dict) else {}


# --- Rows -----------------------------------------------------------------------------------------


def _read(path: Path, rows: Callable[[Iterator[str]], Iterator[_Row]]) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from rows(bounded_lines(file, MAX_LINE_CHARS))
    except OSError as exc:
        raise SourceError(f"{printable(str(path))} cannot be read: {exc.strerror or exc}") from exc


def _json_rows(lines: Iterator[str]) -> Iterator[_Row]:
    for at, row in json_objects(lines):
        yield at, f"the line is nested more than {MAX_NESTING} deep" if isinstance(row, dict) and is_deep(row) else row


def _copy_rows(lines: Iterator[str]) -> Iterator[tuple[int, list[str | None] | csv.Error]]:
    width: int | None = None
    for at, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if text == "\\.":  # the end of the data, in a dump
            return
        if not text:
            continue
        fields = [None if field == _NULL else _unescaped(field) for field in text.split("\t")]
        width = width or len(fields)
        if len(fields) != width:
            yield at, csv.Error(f"{len(fields)} fields, the first row has {width}")
        else:
            yield at, fields


def _unescaped(field: str) -> str:
    if "\\" not in field:
        return field

    def character(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        return chr(int(code, 8)) if code[0] in "01234567" else _ESCAPES.get(code, code)

    return _ESCAPED.sub(character, field)


def _named_rows(rows: Iterable[tuple[int, Sequence[str | None] | csv.Error]], name: str) -> Iterator[_Row]:
    """Yield rows with the names of their columns: those of the first row, or else `column 1` and so on."""
    header: list[str] | None = None
    for at, fields in rows:
        if isinstance(fields, csv.Error):
            if header is None:
                raise SourceError(f"line {at:,} of {name} is malformed ({fields})")
            yield at, f"the row is malformed ({fields})"
            continue
        if header is None:
            has_vector = any(field is not None and _VECTOR.fullmatch(field) for field in fields)
            header = (
                [f"column {n}" for n in range(1, len(fields) + 1)]
                if has_vector
                else [(field or "").strip() or f"column {n}" for n, field in enumerate(fields, 1)]
            )
            if len(set(header)) < len(header):
                raise SourceError(f"line {at:,} of {name} names a column twice; rename one of them")
            if not has_vector:
                continue
        yield at, dict(zip(header, fields, strict=False))


def _outside_lists(line: str) -> str:
    """Return a line without the vectors in it, whose commas separate no columns."""
    return re.sub(r'\[[^\]]*\]|\{[^}]*\}|"(?:[^"]|"")*(?:"|$)', "", line)


# --- Batches --------------------------------------------------------------------------------------


def _batches(rows: Iterator[_Row], path: Path, layout: Layout) -> Iterator[RowBatch]:
    head = list(itertools.islice(rows, _HEAD_ROWS))
    names = list(dict.fromkeys(name for _, row in head if isinstance(row, dict) for name in row))
    vector: str | None = None
    if names:
        usable = [each for each in names if _holds_vectors(row.get(each) for _, row in head if isinstance(row, dict))]
        vector = vector_column(usable, dict.fromkeys(names, ""), layout.vector, path.name)
    first = 0
    for batch in batched(_compact(itertools.chain(head, rows), vector), BATCH_ROWS):
        read = [row if isinstance(row, dict) else {} for _, row in batch]
        names = [name for name in dict.fromkeys(name for row in read for name in row) if name != vector]
        yield RowBatch(
            name=path.name,
            unit="line",
            numbers=[at for at, _ in batch],
            indexes=range(first, first + len(batch)),
            vectors=[None if vector is None else row.get(vector) for row in read],
            columns={name: [row.get(name) for row in read] for name in names},
            malformed={n: row for n, (_, row) in enumerate(batch) if isinstance(row, str)},
        )
        first += len(batch)


def _compact(rows: Iterable[_Row], vector: str | None) -> Iterator[_Row]:
    """Yield the rows with their vectors as arrays: a list of Python's numbers takes four times the memory."""
    for at, row in rows:
        if vector is not None and isinstance(row, dict) and not isinstance(numbers := parsed(row.get(vector)), str):
            row[vector] = numbers
        yield at, row


def _holds_vectors(values: Iterable[Any]) -> bool:
    """Whether one of the values is a long list of numbers, or the text of one."""
    return any(_is_vector(value) for value in values)


def _is_vector(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_VECTOR.fullmatch(value)) and value.count(",") + 1 >= _LEAST_NUMBERS
    if not isinstance(value, list):
        return False
    numbers = cast("list[Any]", value)
    return len(numbers) >= _LEAST_NUMBERS and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in numbers
    )
