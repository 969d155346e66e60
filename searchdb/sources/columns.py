"""Converts a row of a list of URLs, a mapping from column names to values, to a SourceItem."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from searchdb.errors import InvalidReferenceError
from searchdb.records import SourceItem, clean_url, mask_credentials
from searchdb.sources import printable

SOURCE = "urls"

URL_COLUMNS = ("url", "image_url", "image")
"""Names of columns with the URL; the first one that exists is used, the others are metadata."""

RATING = "rating"
"""Column of stars. It is metadata where its values are none, such as 87 or PG-13: it has many meanings."""

_SHOWN_CHARS = 80
"""Maximum number of characters of an invalid value that a message quotes."""


def item_from_row(row: Mapping[str, Any]) -> SourceItem:
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
        if column == RATING and (rating := rating_of(value)) is not None:
            values[RATING] = rating
        elif column in CONVERTERS:
            values[column] = _value(column, value, CONVERTERS[column])
        else:
            metadata[_value("name", column, _text)] = _value(column, value, storable_value)
    return SourceItem(source=SOURCE, metadata=metadata, **values)


def url_of(row: Mapping[str, Any]) -> str:
    """Return the URL of a row as it is written; empty if there is none."""
    return str(next((row[column] for column in URL_COLUMNS if column in row), None) or "")


def normalised_names(columns: Sequence[str]) -> list[str]:
    """Return the column names stripped, and the known ones in lower case."""
    return [
        name.lower() if name.lower() in (*CONVERTERS, *URL_COLUMNS, RATING) else name
        for name in (column.strip() for column in columns)
    ]


def _value(column: str, raw: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(raw)
    except ValueError as exc:
        shown = mask_credentials(printable(str(raw)))
        shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[:_SHOWN_CHARS]}..."
        raise InvalidReferenceError(f"column {printable(column)}: '{shown}' {exc}") from exc


def storable_value(value: Any) -> Any:
    """Return the value unchanged; ValueError if PostgreSQL's text and jsonb cannot store it."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("holds a NUL character")
        if re.search("[\ud800-\udfff]", value):
            raise ValueError("is not valid UTF-8; save the list as UTF-8")
    elif isinstance(value, list):
        for element in cast("list[Any]", value):
            storable_value(element)
    elif isinstance(value, dict):
        for key, element in cast("dict[str, Any]", value).items():
            storable_value(key)
            storable_value(element)
    return cast("Any", value)


def _text(value: Any) -> str:
    if isinstance(value, (list, dict, bool)):
        raise ValueError("is not text")
    return storable_value(str(value))


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not a URL")
    return clean_url(storable_value(value))


def _time(value: Any) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise ValueError("is not a date and time, such as 2024-05-31T18:30:00+02:00") from None
    if not 1 < time.year < 9999:  # in another time zone it could leave the range of Python's calendar
        raise ValueError("is not in the years 2 to 9998")
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _degrees(limit: int) -> Callable[[Any], float]:
    def degrees(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= limit:  # also refuses NaN
            raise ValueError(f"is not a number between -{limit} and {limit}")
        return number

    return degrees


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
    if isinstance(value, str):
        value = value.split(";" if ";" in value else ",")
    if not isinstance(value, list):
        raise ValueError("is not a list of tags")
    tags = (_text(tag).strip() for tag in cast("list[Any]", value))
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def rating_of(value: Any) -> int | None:
    """Return a number of stars, or -1 for rejected; None for a value of another kind."""
    return int(float(value)) if re.fullmatch(r"-1|[0-5](\.0)?", str(value)) else None


CONVERTERS: Mapping[str, Callable[[Any], Any]] = {
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
"""Converts the value of each column to that of a field of SourceItem; ValueError says what is wrong with it."""
