"""Reads delimited text row by row in constant memory, and resumes after malformed rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from typing import TextIO

MAX_ROW_CHARS = 1024 * 1024
"""Longest row, over any number of lines; the csv module itself limits fields to 131,072 characters."""
MAX_SWALLOWED_ROWS = 5
"""Lines that are rows of their own, after which a quote before them counts as unclosed."""
MAX_LINES_AGAIN = 50
"""Lines of a row among those that an unclosed quote has swallowed and that are read again: without this limit, a list
with an unclosed quote in each row would take quadratic time."""

UNCLOSED = "a quote is not closed"
_TEXT_AFTER_QUOTE = "expected after"
"""Part of the csv module's message for text after a closing quote."""
_TOO_LONG = f"row longer than {MAX_ROW_CHARS:,} characters"


def bounded_lines(stream: TextIO, limit: int) -> Iterator[str]:
    """Yield the lines with their line ends, each cut to `limit` characters; a missing line end is added."""
    while line := stream.readline(limit):
        rest = line
        while len(rest) == limit and not rest.endswith(("\n", "\r")):
            rest = stream.readline(limit)
        yield line if line.endswith(("\n", "\r")) else f"{line}\n"


def delimited_rows(
    lines: Iterator[str],
    *,
    delimiter: str,
    first_line: int = 1,
    exact_width: bool = False,
    looks_like_row: Callable[[str], bool] | None = None,
) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield each row, the header first, with the number of its first line; empty lines are skipped.

    A quoted field must end at its closing quote, apart from blanks. A row may have more fields than the header only if
    they are blank; they are dropped. With `exact_width`, it may not have fewer either. (Blank fields after the last
    column are then dropped only if that column is not blank; otherwise the row may be shifted.)

    A malformed row is yielded as the error that says why. Lines swallowed by an unclosed quote are then read again, so
    that only the quote's own line is lost. A later quote may seem to close it; `looks_like_row` recognises a line that
    is a row of its own, and a row all of whose further lines are such lines is malformed.
    """
    feed = _RewindableLines(lines, looks_like_row)
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    blanks_after_quotes = re.compile(rf'"[ \t]+(?=[\r\n{delimiter}])' if delimiter != "\t" else '" +(?=[\r\n\t])')
    width: int | None = None
    while True:
        at = first_line + feed.start_row()
        try:
            try:
                fields = next(reader)
            except csv.Error as exc:
                if _TEXT_AFTER_QUOTE not in str(exc):
                    raise
                fields = _only_row([blanks_after_quotes.sub('"', line) for line in feed.row], delimiter, exc)
            if feed.swallowed:
                raise csv.Error(UNCLOSED)
            if feed.row_chars > MAX_ROW_CHARS:
                raise csv.Error(_TOO_LONG)
            fields = _fitted(fields, width, exact=exact_width)
        except StopIteration:
            return
        except csv.Error as exc:
            unclosed = feed.rewind() or str(exc) == "unexpected end of data"
            yield at, csv.Error(UNCLOSED) if unclosed and str(exc) != _TOO_LONG else exc
            continue
        if fields:
            width = _width(fields, exact=exact_width) if width is None else width
            yield at, fields


class _RewindableLines:
    """Iterates over lines for the csv module, and can repeat all but the first line of a row."""

    def __init__(self, lines: Iterator[str], looks_like_row: Callable[[str], bool] | None) -> None:
        self._lines = lines
        self._looks_like_row = looks_like_row
        self._again: list[str] = []
        self.row: list[str] = []
        """The lines of the current row so far."""
        self.row_chars = 0
        self._finished_lines = 0
        self._only_rows = False

    def start_row(self) -> int:
        """Start a row; return the number of lines before it."""
        self._finished_lines += len(self.row)
        self.row.clear()
        self.row_chars = 0
        self._only_rows = self._looks_like_row is not None
        return self._finished_lines

    def rewind(self) -> bool:
        """Repeat the lines of the current row except the first; return whether there are any."""
        swallowed = self.row[1:]
        self._again += reversed(swallowed)
        del self.row[1:]
        return bool(swallowed)

    @property
    def swallowed(self) -> bool:
        """Whether the current row has several lines, and all but the first are rows of their own."""
        return self._only_rows and len(self.row) > 1

    def __iter__(self) -> _RewindableLines:
        return self

    def __next__(self) -> str:
        again = bool(self._again)
        line = self._again.pop() if again else next(self._lines)
        if self.row and self._only_rows and self._looks_like_row is not None:
            self._only_rows = self._looks_like_row(line)
        self.row.append(line)
        self.row_chars += len(line)
        lines = len(self.row)
        if (again and lines > MAX_LINES_AGAIN) or (self.swallowed and lines > MAX_SWALLOWED_ROWS):
            raise csv.Error(UNCLOSED)
        if self.row_chars > MAX_ROW_CHARS and len(self.row) > 1:
            raise csv.Error(_TOO_LONG)
        return line


def _only_row(lines: list[str], delimiter: str, error: csv.Error) -> list[str]:
    """Return the fields of lines that are exactly one row; otherwise raise the error."""
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error:
        rows = []
    if len(rows) != 1:
        raise error
    return rows[0]


def _width(header: list[str], *, exact: bool) -> int:
    """Return the number of columns: spreadsheets write blank names after the last column."""
    width = len(header)
    while not exact and width > 1 and not header[width - 1].strip():
        width -= 1
    return width


def _fitted(fields: list[str], width: int | None, *, exact: bool) -> list[str]:
    """Return a row cut to the width of the header; an empty list for a blank row of another width."""
    if width is None or len(fields) == width:
        return fields
    if not any(map(str.strip, fields)):
        return []
    misfit = exact and (len(fields) < width or not fields[width - 1].strip())
    if misfit or any(map(str.strip, fields[width:])):
        raise csv.Error(f"{len(fields)} fields, the header has {width}")
    return fields[:width]
