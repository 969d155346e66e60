"""Reads the metadata from the JSON that Google Takeout puts beside each photo."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from searchdb.errors import MetadataError
from searchdb.media.written import text
from searchdb.media.written.keywords import united
from searchdb.media.written.times import is_plausible
from searchdb.records import WrittenMetadata

MAX_JSON_BYTES = 1_000_000
"""Larger files are not read: those of Takeout have 1 to 20 kB."""
FAVOURITE_RATING = 5
"""Google has no other rating than its star, which says that the photo is among the best."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MARKS = frozenset({"photoTakenTime", "creationTime", "geoData", "geoDataExif", "people", "googlePhotosOrigin"})
"""Fields of which the JSON of a photo has one at least."""


def read_takeout(data: bytes) -> WrittenMetadata:
    """Return what the JSON says. Its `title` is the file's name, and is not read.

    Raises:
        MetadataError: it is too large, or not JSON of Google Takeout.
    """
    if len(data) > MAX_JSON_BYTES:
        raise MetadataError(f"the JSON is {len(data):,} bytes, the limit is {MAX_JSON_BYTES:,}")
    try:
        read: Any = json.loads(data.decode("utf-8-sig"))
    except RecursionError as exc:
        raise MetadataError("the JSON is nested too deeply") from exc
    except ValueError as exc:
        raise MetadataError(f"the file is not JSON in UTF-8 ({exc})") from exc
    fields = _mapping(read)
    if not fields.keys() & _MARKS:
        raise MetadataError("the JSON is not the metadata that Google Takeout writes of a photo")
    taken_at = _time(_mapping(fields.get("photoTakenTime")).get("timestamp"))
    # geoData is what Google shows, which people may have corrected; geoDataExif is what the file had.
    latitude, longitude = _place(fields.get("geoData")) or _place(fields.get("geoDataExif")) or (None, None)
    people = fields.get("people")
    names = [_mapping(each).get("name") for each in cast("list[Any]", people)] if isinstance(people, list) else []
    described = fields.get("description")
    return WrittenMetadata(
        description=text.description(described) if isinstance(described, str) else None,
        keywords=united(name for name in names if isinstance(name, str)),
        rating=FAVOURITE_RATING if fields.get("favorited") is True else None,
        taken_at=taken_at,
        taken_at_from=None if taken_at is None else "photoTakenTime",
        latitude=latitude,
        longitude=longitude,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _time(seconds: Any) -> datetime | None:
    try:
        moment = _EPOCH + timedelta(seconds=float(seconds))
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if is_plausible(moment) else None


def _place(value: Any) -> tuple[float, float] | None:
    """Return latitude and longitude; 0, 0 means none."""
    place = _mapping(value)
    latitude, longitude = (_degrees(place.get(name)) for name in ("latitude", "longitude"))
    if not abs(latitude) <= 90 or not abs(longitude) <= 180 or latitude == longitude == 0:  # refuses NaN, too
        return None
    return latitude, longitude


def _degrees(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
