"""Writes rows as CSV, TSV or JSON lines, in UTF-8."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

import numpy as np

from searchdb.export.columns import ExportColumn
from searchdb.export.destination import Sink
from searchdb.export.rows import Row

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of a text that Excel, LibreOffice and Google Sheets take for a formula, or that hide one. A formula
in a description could send the sheet's cells to its author."""
_CRLF = "\r\n"


class CSVWriter:
    """Writes comma-separated values by RFC 4180: a header, lines that end with CRLF, quotes where they are needed.

    Missing values are empty. Times are in ISO 8601 and UTC, lists and JSON are JSON text, bytes hexadecimal. A text
    that a spreadsheet would take for a formula gets an apostrophe before it, unless `keep_formulas`.
    """

    delimiter, line_end = ",", _CRLF

    def __init__(self, sink: Sink, columns: Sequence[ExportColumn], *, keep_formulas: bool = False) -> None:
        self._names = [column.name for column in columns]
        self._csv = csv.writer(_Lines(sink, self.line_end), delimiter=self.delimiter, lineterminator=_CRLF)
        self._keep_formulas = keep_formulas
        self._csv.writerow(self._names)

    def write(self, row: Row) -> None:
        """Write one row."""
        self._csv.writerow([self._field(row[name]) for name in self._names])

    def close(self) -> None:
        """Write what is left."""

    def _field(self, value: Any) -> Any:
        if isinstance(value, str):
            return f"'{value}" if not self._keep_formulas and value.startswith(FORMULA_STARTS) else value
        return as_text(value)


class TSVWriter(CSVWriter):
    """Writes tab-separated values like CSVWriter, with lines that end with LF; a text with a tab is quoted."""

    delimiter, line_end = "\t", "\n"


class JSONLinesWriter:
    """Writes one JSON object a line, with all columns; times are in ISO 8601 and UTC, bytes hexadecimal.

    JSON has no NaN and no infinity: numbers that it lacks are null.
    """

    def __init__(self, sink: Sink, columns: Sequence[ExportColumn]) -> None:
        self._sink = sink
        self._names = [column.name for column in columns]

    def write(self, row: Row) -> None:
        """Write one row."""
        document = {name: _plain(row[name]) for name in self._names}
        document = {name: None if _lacking(value) else value for name, value in document.items()}
        self._sink.write(f"{json.dumps(document, ensure_ascii=False)}\n".encode())

    def close(self) -> None:
        """Write what is left."""


class _Lines:
    """What the csv module writes its rows to, each with _CRLF.

    The module quotes a text only if it has a character of the line's end: both must be quoted, whatever the end is.
    """

    def __init__(self, sink: Sink, end: str) -> None:
        self._sink = sink
        self._end = end

    def write(self, row: str, /) -> None:
        self._sink.write(f"{row.removesuffix(_CRLF)}{self._end}".encode())


def as_text(value: Any) -> Any:
    """Return a value as a table of texts has it: lists and JSON as JSON text, None and numbers as they are."""
    plain = _plain(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, list | dict) else plain


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return value.hex()
    if isinstance(value, np.ndarray):
        return cast("list[float]", value.tolist())
    return value


def _lacking(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def iso_utc(moment: datetime) -> str:
    """Return a time in ISO 8601 and UTC, or with its own offset at the ends of Python's calendar."""
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:
        return moment.isoformat()
