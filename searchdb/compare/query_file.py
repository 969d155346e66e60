"""Reads queries to compare models by: plain texts, or CSV, TSV or JSON lines with the images that are right."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from searchdb.compare.records import ModelQuery
from searchdb.errors import QueriesError, QueryError
from searchdb.search.query import checked_text
from searchdb.sources import printable
from searchdb.sources.delimited import delimited_rows
from searchdb.sources.json_lines import json_objects

QUERY = "query"
"""Name of the column with the text."""
TRUTH = ("relevant", "image")
"""Names of columns with a right image, or a JSON list of them."""
MAX_BYTES = 64 * 1024 * 1024
"""Largest file: several times MAX_QUERIES with a hundred right images each."""
MAX_QUERIES = 10_000
"""Most queries: their vectors take 20 MB for each model, and a thousand are enough to find small differences."""
STREAM = "-"

_DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}
_JSON_LINES = (".jsonl", ".ndjson")
_SHOWN_PROBLEMS = 5
_SHOWN_CHARS = 80

_Row = tuple[int, "dict[str, Any] | str"]
"""The number of a line, and its values by column; or what is wrong with it."""


def read_queries(source: str | Path) -> list[ModelQuery]:
    """Return the queries of a file, or of standard input (`-`), each text once, in the order of the file.

    A text a line, or CSV, TSV or JSON lines with the column `query` and perhaps `relevant` or `image`: the id, path or
    URL of a stored image that is right, or a JSON list of them. Several rows may have the same text. The extension
    (.csv, .tsv, .jsonl, .ndjson) or else the first line decides.

    Raises:
        QueriesError: the file cannot be read, is not UTF-8, or has no query, too many of them, or lines that are wrong.
    """
    name = "standard input" if str(source) == STREAM else printable(Path(source).name)
    text = _decoded(_bytes_of(source, name), name)
    rows = _rows(text.splitlines(keepends=True), Path(source).suffix.lower(), name)
    return checked_queries(_queries(rows, name), name)


def checked_queries(queries: Iterable[ModelQuery], name: str) -> list[ModelQuery]:
    """Return the queries with each text once, its right images together.

    Raises:
        QueriesError: there are none or more than MAX_QUERIES, or a text is empty or too long.
    """
    found: dict[str, ModelQuery] = {}
    for query in queries:
        try:
            text = checked_text(query.text, QUERY).strip()
        except QueryError as exc:
            raise QueriesError(f"{name}: {exc}") from exc
        former = found.get(text, ModelQuery(text=text, file=query.file))
        lines = query.lines or (0,) * len(query.relevant)
        found[text] = replace(former, relevant=(*former.relevant, *query.relevant), lines=(*former.lines, *lines))
    if not found:
        raise QueriesError(f"{name} has no query: write a text on each line, or CSV, TSV or JSON lines with `{QUERY}`")
    if len(found) > MAX_QUERIES:
        raise QueriesError(f"{name} has {len(found):,} queries, the limit is {MAX_QUERIES:,}: take some of them")
    return list(found.values())


def _queries(rows: Iterator[_Row], name: str) -> Iterator[ModelQuery]:
    wrong: list[tuple[int, str]] = []
    for line, row in rows:
        try:
            if isinstance(row, str):
                raise ValueError(row)
            references = [each for column in TRUTH for each in _references(row.get(column))]
            text = row.get(QUERY)
            if not isinstance(text, str):
                raise ValueError(f"`{QUERY}` is no text" if QUERY in row else f"it has no `{QUERY}`")
            lines = [line] * len(references)
            query = ModelQuery(text=checked_text(text, QUERY), relevant=references, lines=lines, file=name)
        except (ValueError, QueryError) as exc:
            wrong.append((line, str(exc)))
        else:
            yield query
    if wrong:
        raise wrong_lines(name, wrong)


def wrong_lines(name: str, problems: Sequence[tuple[int, str]]) -> QueriesError:
    """Return the error for what is wrong with queries, by line; line 0 is that of no file."""
    shown = "; ".join(f"line {line:,}: {what}" if line else what for line, what in problems[:_SHOWN_PROBLEMS])
    more = f"; and {len(problems) - _SHOWN_PROBLEMS:,} more" if len(problems) > _SHOWN_PROBLEMS else ""
    return QueriesError(f"{name}, {shown}{more}", lines=tuple(line for line, _ in problems if line))


def _references(value: Any) -> list[int | str]:
    """Return the ids, paths and URLs in a field: one, or a list of them; ValueError if it has something else."""
    if isinstance(value, str):
        value = value.strip()
        if value.startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError("the list of right images is not JSON") from None
    if value is None or value == "":
        return []
    found: list[int | str] = []
    for each in cast("list[Any]", value) if isinstance(value, list) else [value]:
        if isinstance(each, bool) or not isinstance(each, int | str) or each == "":
            raise ValueError(f"{_shown(each)} is not the id, path or URL of an image")
        found.append(each)
    return found


def _shown(value: Any) -> str:
    text = printable(json.dumps(value, default=str))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


# --- Lines ----------------------------------------------------------------------------------------


def _bytes_of(source: str | Path, name: str) -> bytes:
    try:
        if str(source) == STREAM:
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with Path(source).expanduser().open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError: an unknown ~user; ValueError: a NUL in the name
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise QueriesError(f"the queries {printable(str(source))!r} cannot be read: {reason}") from exc
    if len(data) > MAX_BYTES:
        raise QueriesError(f"{name} is larger than {MAX_BYTES:,} bytes: take some of the queries")
    return data


def _decoded(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise QueriesError(f"{name} is UTF-16: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise QueriesError(f"{name}, line {line:,}: it is not UTF-8: save the file as UTF-8", lines=(line,)) from exc


def _rows(lines: Sequence[str], suffix: str, name: str) -> Iterator[_Row]:
    at, head = next(((at, line) for at, line in enumerate(lines, 1) if line.strip()), (1, ""))
    if suffix in _JSON_LINES or (suffix not in _DELIMITERS and head.lstrip().startswith("{")):
        return json_objects(lines)
    for delimiter in _DELIMITERS.get(suffix, ("\t", ",", ";")):
        columns = _columns(head, delimiter)
        # Without an extension, the one word "query" may be a text to search for.
        if QUERY in columns and (suffix in _DELIMITERS or columns & set(TRUTH)):
            return _delimited(lines[at - 1 :], delimiter, at)
    if suffix in _DELIMITERS and head:
        raise QueriesError(
            f"{name} has no column `{QUERY}`: its first line must name the columns. For a text on each line, without "
            "names, give the file another extension, such as .txt"
        )
    return ((number, {QUERY: line.strip()}) for number, line in enumerate(lines, 1) if line.strip())


def _columns(line: str, delimiter: str) -> set[str]:
    try:
        return {column.strip().lower() for column in next(csv.reader([line], delimiter=delimiter), list[str]())}
    except csv.Error:
        return set()


def _delimited(lines: Sequence[str], delimiter: str, first_line: int) -> Iterator[_Row]:
    header: list[str] = []
    for at, fields in delimited_rows(iter(lines), delimiter=delimiter, first_line=first_line):
        if isinstance(fields, csv.Error):
            yield at, f"the row is malformed ({fields})"
        elif not header:
            header += [column.strip().lower() for column in fields]
        elif any(map(str.strip, fields)):
            yield at, dict(zip(header, fields, strict=False))
