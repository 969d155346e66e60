"""Reads delimited text row by row in flat memory, and finds its way back to the rows after a malformed one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TextIO

MAX_ROW_CHARS = 1024 * 1024
"""Longest row, of any number of lines; the csv module itself stops at fields of 131,072 characters."""


def bounded_lines(stream: TextIO, limit: int) -> Iterator[str]:
    """Yield the lines with their ends, each cut to `limit` characters; one without an end gets one."""
    while line := stream.readline(limit):
        rest = line
        while len(rest) == limit and not rest.endswith(("\n", "\r")):
            rest = stream.readline(limit)
        yield line if line.endswith(("\n", "\r")) else f"{line}\n"


def delimited_rows(
    lines: Iterator[str], *, delimiter: str, first_line: int = 1, strict: bool = False
) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield each row, the header first, with the number of its first line; empty lines are left out.

    With `strict`, rows are as programs write them: each as wide as the first, and a quoted field ends at its closing
    quote. (Blank fields beyond one that is not blank are dropped; beyond a blank one they may as well be a shift.) A
    malformed row is yielded as the error that says why. What an opening quote without its end has swallowed is then
    read again, so that it costs its own line and no other.
    """
    feed = _Feed(lines)
    reader = csv.reader(feed, delimiter=delimiter, strict=strict)
    width = None
    while True:
        at = first_line + feed.next_row()
        try:
            fields = next(reader)
            if strict and len(fields) != width:
                fields = _fitted(fields, width)
        except StopIteration:
            return
        except csv.Error as exc:
            feed.give_back()
            yield at, exc
            continue
        if fields:
            width = len(fields) if width is None else width
            yield at, fields


class _Feed:
    """Hands lines to the csv module, and can hand all but the first line of a row again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: list[str] = []
        self._row: list[str] = []
        self._row_chars = 0
        self._finished_lines = 0

    def next_row(self) -> int:
        """Begin a row; return the number of lines before it."""
        self._finished_lines += len(self._row)
        self._row.clear()
        self._row_chars = 0
        return self._finished_lines

    def give_back(self) -> None:
        """Have the lines of the row at hand handed out again, without its first."""
        self._again += reversed(self._row[1:])
        del self._row[1:]

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self._row.append(line)
        self._row_chars += len(line)
        if self._row_chars > MAX_ROW_CHARS and len(self._row) > 1:
            raise csv.Error(f"row longer than {MAX_ROW_CHARS:,} characters")
        return line


def _fitted(fields: list[str], width: int | None) -> list[str]:
    """Return a row at the width of the header, empty where it is blank."""
    if not any(map(str.strip, fields)):
        return []
    if width is None:
        return fields
    if len(fields) < width or not fields[width - 1].strip() or any(map(str.strip, fields[width:])):
        raise csv.Error(f"{len(fields)} fields, the header has {width}")
    return fields[:width]
