"""Reads delimited text row by row in constant memory, and resumes after malformed rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TextIO

MAX_ROW_CHARS = 1024 * 1024
"""Longest row, over any number of lines; the csv module itself limits fields to 131,072 characters."""


def bounded_lines(stream: TextIO, limit: int) -> Iterator[str]:
    """Yield the lines with their line ends, each cut to `limit` characters; a missing line end is added."""
    while line := stream.readline(limit):
        rest = line
        while len(rest) == limit and not rest.endswith(("\n", "\r")):
            rest = stream.readline(limit)
        yield line if line.endswith(("\n", "\r")) else f"{line}\n"


def delimited_rows(
    lines: Iterator[str], *, delimiter: str, first_line: int = 1, strict: bool = False
) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield each row, the header first, with the number of its first line; empty lines are skipped.

    With `strict`, every row must be as wide as the header, and a quoted field must end at its closing quote. (Blank
    fields after the last column are dropped if that column is not blank; otherwise the row may be shifted.) A malformed
    row is yielded as the error that says why. Lines swallowed by an unclosed quote are then read again, so that only
    the quote's own line is lost.
    """
    feed = _RewindableLines(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=strict)
    width = None
    while True:
        at = first_line + feed.start_row()
        try:
            fields = next(reader)
            if strict and len(fields) != width:
                fields = _fitted(fields, width)
        except StopIteration:
            return
        except csv.Error as exc:
            feed.rewind()
            yield at, exc
            continue
        if fields:
            width = len(fields) if width is None else width
            yield at, fields


class _RewindableLines:
    """Iterates over lines for the csv module, and can repeat all but the first line of a row."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self._row: list[str] = []
        self._row_chars = 0
        self._finished_lines = 0

    def start_row(self) -> int:
        """Start a row; return the number of lines before it."""
        self._finished_lines += len(self._row)
        self._row.clear()
        self._row_chars = 0
        return self._finished_lines

    def rewind(self) -> None:
        """Repeat the lines of the current row except the first."""
        self._again += reversed(self._row[1:])
        del self._row[1:]

    def __iter__(self) -> _RewindableLines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self._row.append(line)
        self._row_chars += len(line)
        if self._row_chars > MAX_ROW_CHARS and len(self._row) > 1:
            raise csv.Error(f"row longer than {MAX_ROW_CHARS:,} characters")
        return line


def _fitted(fields: list[str], width: int | None) -> list[str]:
    """Return a row cut to the width of the header; an empty list for a blank row."""
    if not any(map(str.strip, fields)):
        return []
    if width is None:
        return fields
    if len(fields) < width or not fields[width - 1].strip() or any(map(str.strip, fields[width:])):
        raise csv.Error(f"{len(fields)} fields, the header has {width}")
    return fields[:width]
