"""Turns a row's other columns into what is stored of an image: fields by their usual names, and metadata."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, cast

from searchdb.errors import InvalidReferenceError
from searchdb.records import MAX_REFERENCE_BYTES
from searchdb.sources.columns import CONVERTERS, RATING, rating_of, storable_value
from searchdb.vector_files.nesting import MAX_NESTING, is_deep

_NAMES: Mapping[str, tuple[str, ...]] = {
    "description": ("description", "caption", "title", "alt_text", "alt", "text"),
    "tags": ("tags", "keywords"),
    "credit": ("credit", "photographer", "author", "artist"),
    "credit_url": ("credit_url",),
    "page_url": ("page_url",),
    "taken_at": ("taken_at", "date_taken"),
    "camera": ("camera",),
    "country": ("country",),
    "city": ("city",),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
    "source_id": ("source_id",),
    "rating": (RATING,),
    # img2dataset's width and height are those of the resized copy, and the original's are in other columns.
    "width": ("original_width", "width"),
    "height": ("original_height", "height"),
    "sha256": ("sha256",),
    "byte_size": ("byte_size", "file_size"),
    "colour": ("colour",),
}
"""Names of the columns for each field, the first that has a usable value counts; the others are metadata."""
_OF_EXPORTS = ("source", "rendition", "folder", "modified_at")
"""Columns of our own exports that mean what they say; in other files they may mean anything."""
_OF_FRAMES = frozenset({"video", "video_time"})
"""Columns of our own exports that say which frame of a video a row is of."""
_DROPPED = frozenset({
    "id", "rank", "similarity", "relevance", "parts", "embedding_model_id", "model", "ingested_at", "companion_state",
})  # fmt: skip
"""Columns of our own exports that every ingest sets itself."""
_NESTED = ("metadata", "meta", "attributes", "properties")
"""Columns of JSON objects whose keys count as columns."""
_TOO_DEEP = f"its metadata is nested more than {MAX_NESTING} deep"
_LARGEST_INTEGER = 2**31 - 1
_LARGEST_BIGINT = 2**63 - 1


def is_export(columns: Collection[str]) -> bool:
    """Whether the columns are those of an export by searchdb."""
    return {"image", "rendition", "source", "source_id", "sha256", "ingested_at"} <= set(columns)


def fields_of(row: Mapping[str, Any], *, exported: bool, is_frame: bool = False) -> dict[str, Any]:
    """Return the fields of `SourceItem`, the other columns of `images` that the row has, and `metadata`.

    What cannot be converted, such as a date in words, is metadata as it is. An export says when a file was changed, or
    that it is none: `modified_at` is among the fields, and may be None.

    Args:
        row: the values by column.
        exported: whether they are those of an export by searchdb.
        is_frame: whether it is one of a frame, whose video and time are known.

    Raises:
        InvalidReferenceError: a value is nested more than MAX_NESTING deep.
    """
    dropped = frozenset[str]()
    if exported:
        dropped = _DROPPED | _OF_FRAMES if is_frame else _DROPPED
    values = {name: value for name, value in _present(row.items(), strip=not exported) if name not in dropped}
    if is_deep(values):
        raise InvalidReferenceError(_TOO_DEEP)
    metadata: dict[str, Any] = {}
    for name in [each for each in values if each.lower() in _NESTED or each.startswith("column ")]:
        nested = _object(values[name])
        if nested is None:
            continue
        del values[name]
        if exported:
            metadata |= nested
        else:
            values = dict(_present(nested.items(), strip=True)) | values
    by_name = {name.lower(): name for name in reversed(values)}
    found: dict[str, Any] = {}
    for field, names in _NAMES.items():
        for name in (by_name[each] for each in names if each in by_name):
            try:
                found[field] = _CONVERT[field](values[name])
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue
            del values[name]
            break
    for field in ("latitude", "longitude"):  # one without the other is no place
        if field in found and not {"latitude", "longitude"} <= found.keys():
            metadata[field] = found.pop(field)
    for name in _OF_EXPORTS if exported else ():
        with suppress(ValueError, TypeError, OverflowError):
            if name in values:
                found[name] = _CONVERT[name](values[name])
                del values[name]
    if exported and "modified_at" in row:
        found.setdefault("modified_at", None)
    found["metadata"] = metadata | {name: _json_value(value) for name, value in values.items()}
    return found


def _present(items: Any, *, strip: bool) -> Iterator[tuple[str, Any]]:
    for name, given in items:
        value = given.strip() if isinstance(given, str) and (strip or not given.strip()) else given
        if value is None or (isinstance(value, str | list | dict | tuple) and not value):
            continue
        if isinstance(value, float) and math.isnan(value):  # what pandas has for nothing
            continue
        yield str(name), value


def _object(value: Any) -> dict[str, Any] | None:
    """Return an object, or the one that a text holds; None if it is no object.

    Raises:
        InvalidReferenceError: it is nested more than MAX_NESTING deep.
    """
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
        except RecursionError as exc:
            raise InvalidReferenceError(_TOO_DEEP) from exc
    if not isinstance(value, dict):
        return None
    if is_deep(found := cast("dict[str, Any]", value)):
        raise InvalidReferenceError(_TOO_DEEP)
    return found


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): _json_value(each) for name, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_json_value(each) for each in cast("list[Any]", value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):  # an array in PostgreSQL's notation
        value = next(csv.reader([value[1:-1]], escapechar="\\"), list[str]())
    return CONVERTERS["tags"](list(cast("tuple[Any]", value)) if isinstance(value, tuple) else value)


def _time(value: Any) -> datetime:
    return CONVERTERS["taken_at"](value.isoformat() if hasattr(value, "isoformat") else value)


def _rating(value: Any) -> int:
    rating = rating_of(value)
    if rating is None:
        raise ValueError("is no number of stars")
    return rating


def _pixels(value: Any) -> int:
    return _whole_number(value, 1, _LARGEST_INTEGER)


def _bytes(value: Any) -> int:
    return _whole_number(value, 0, _LARGEST_BIGINT)


def _whole_number(value: Any, least: int, most: int) -> int:
    number = int(float(value)) if not isinstance(value, int) else value
    if isinstance(value, bool) or not least <= number <= most or number != float(value):
        raise ValueError("is no such number")
    return number


def _sha256(value: Any) -> bytes:
    digest = value if isinstance(value, bytes) else bytes.fromhex(str(value).removeprefix("\\x"))
    if len(digest) != 32:
        raise ValueError("is no SHA-256")
    return digest


def _colour(value: Any) -> str:
    if not re.fullmatch("#[0-9a-f]{6}", str(value)):
        raise ValueError("is no colour")
    return str(value)


def _text(value: Any) -> str:
    if isinstance(value, list | dict | bool | bytes):
        raise ValueError("is not text")
    return storable_value(str(value))


def _indexed(value: Any) -> str:
    """Return a text that PostgreSQL's indexes hold."""
    text = _text(value)
    if len(text.encode()) > MAX_REFERENCE_BYTES:
        raise ValueError("is too long")
    return text


_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    **CONVERTERS,
    **dict.fromkeys(("description", "credit", "camera", "country", "city", "source_id"), _text),
    "tags": _tags,
    "taken_at": _time,
    "rating": _rating,
    "width": _pixels,
    "height": _pixels,
    "sha256": _sha256,
    "byte_size": _bytes,
    "colour": _colour,
    "source": _indexed,
    "folder": _indexed,
    "rendition": CONVERTERS["page_url"],
    "modified_at": _time,
}
