"""Defines the tables and columns of the Unsplash Lite files, and converts the text of a field to a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TypeAlias

MAX_KEY_BYTES = 1024
"""Longest value of an indexed column: a key may hold two, and PostgreSQL's b-tree rejects keys over 2,704 bytes."""

Value: TypeAlias = "str | int | float | bool | datetime | None"


class Kind(Enum):
    """The type of a column."""

    TEXT = "text"
    KEY = "text short enough for an index"
    INT = "4-byte integer"
    BIGINT = "8-byte integer"
    FLOAT = "8-byte float"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp, UTC"


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """One table of the dataset: its columns, and which of them are required.

    If `unique`, the required columns are the table's key.
    """

    columns: Mapping[str, Kind]
    required: tuple[str, ...]
    unique: bool = True


_T, _K, _I, _B, _F, _O, _M = Kind.TEXT, Kind.KEY, Kind.INT, Kind.BIGINT, Kind.FLOAT, Kind.BOOLEAN, Kind.TIMESTAMP
# fmt: off
FORMATS: Mapping[str, TableFormat] = {
    "photos": TableFormat(required=("photo_id",), columns={
        "photo_id": _K, "photo_url": _T, "photo_image_url": _T, "photo_submitted_at": _M, "photo_featured": _O,
        "photo_width": _I, "photo_height": _I, "photo_aspect_ratio": _F, "photo_description": _T,
        "photographer_username": _T, "photographer_first_name": _T, "photographer_last_name": _T,
        "exif_camera_make": _T, "exif_camera_model": _T, "exif_iso": _I, "exif_aperture_value": _T,
        "exif_focal_length": _T, "exif_exposure_time": _T, "photo_location_name": _T, "photo_location_latitude": _F,
        "photo_location_longitude": _F, "photo_location_country": _T, "photo_location_city": _T, "stats_views": _B,
        "stats_downloads": _B, "ai_description": _T, "ai_primary_landmark_name": _T,
        "ai_primary_landmark_latitude": _F, "ai_primary_landmark_longitude": _F, "ai_primary_landmark_confidence": _T,
        "blur_hash": _T,
    }),
    "keywords": TableFormat(required=("photo_id", "keyword"), columns={
        "photo_id": _K, "keyword": _K, "ai_service_1_confidence": _F, "ai_service_2_confidence": _F,
        "suggested_by_user": _O, "user_suggestion_source": _T, "suggested_by_ai_service_3": _O,
        "confirmed_by_ai_service_3": _O,
    }),
    "collections": TableFormat(required=("photo_id", "collection_id"), columns={
        "photo_id": _K, "collection_id": _K, "collection_title": _T, "photo_collected_at": _M, "collection_type": _T,
    }),
    "colors": TableFormat(required=("photo_id", "hex"), columns={
        "photo_id": _K, "hex": _K, "red": _I, "green": _I, "blue": _I, "keyword": _T, "coverage": _F, "score": _F,
    }),
    "conversions": TableFormat(required=("photo_id",), unique=False, columns={
        "converted_at": _M, "conversion_type": _T, "keyword": _K, "photo_id": _K, "anonymous_user_id": _T,
        "conversion_country": _T, "device_type": _T, "search_orientation_filter": _T, "search_ordering": _T,
    }),
}
# fmt: on

ALIASES = {"ai_coverage": "coverage", "ai_score": "score"}
"""Alternative column names, used by the dataset's own SQL."""


def _key(text: str) -> str | None:
    if len(text) * 4 > MAX_KEY_BYTES and len(text.encode()) > MAX_KEY_BYTES:
        raise ValueError(f"is longer than {MAX_KEY_BYTES:,} bytes, the limit for a column with an index")
    return None if text.isspace() else text


def _whole(bits: int) -> Callable[[str], int | None]:
    limit = 1 << (bits - 1)

    def whole(text: str) -> int | None:
        if text.isspace():
            return None
        try:
            number = int(text) if "_" not in text else limit
        except ValueError:
            number = limit
        if not -limit <= number < limit:
            raise ValueError(f"is not a whole number of {bits // 8} bytes")
        return number

    return whole


def _float(text: str) -> float | None:
    if text.isspace():
        return None
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("is not a number")
    return number


_BOOLEANS = {"": None, "t": True, "true": True, "f": False, "false": False}


def _boolean(text: str) -> bool | None:
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("is neither t nor f") from None


def _timestamp(text: str) -> datetime | None:
    if text.isspace():
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not a date and time, such as 2024-05-31 18:30:00.123") from None
    if not 1 < moment.year < 9999:  # in another time zone it could leave the range of Python's calendar
        raise ValueError("is not in the years 2 to 9998")
    return moment


CONVERTERS: Mapping[Kind, Callable[[str], Value]] = {
    Kind.TEXT: str,
    Kind.KEY: _key,
    Kind.INT: _whole(32),
    Kind.BIGINT: _whole(64),
    Kind.FLOAT: _float,
    Kind.BOOLEAN: _boolean,
    Kind.TIMESTAMP: _timestamp,
}
