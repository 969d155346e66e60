"""Reads the orientation, time, camera and place from an image's EXIF."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import ExifTags, ImageFile

FIRST_YEAR = 1826
"""The year of the oldest surviving photograph: scans may be dated as early, and clocks that are not set are earlier."""
CLOCKS_DIFFER = timedelta(days=1)
"""How far a time may lie in the future: a camera's local time is read as UTC, which it may be 14 hours ahead of."""

_TAGS = ExifTags.Base
_TIMES = (
    ("DateTimeOriginal", _TAGS.DateTimeOriginal, _TAGS.OffsetTimeOriginal, _TAGS.SubsecTimeOriginal),
    ("DateTimeDigitized", _TAGS.DateTimeDigitized, _TAGS.OffsetTimeDigitized, _TAGS.SubsecTimeDigitized),
    ("DateTime", _TAGS.DateTime, _TAGS.OffsetTime, _TAGS.SubsecTime),
)
"""The times of an image, the best first, each with the tags of its offset from UTC and its fraction of a second."""
_TIME = re.compile(r"(\d{4}[:/-]\d\d?[:/-]\d\d?)[ T](\d\d?:\d\d?:\d\d?)(?:\.(\d+))? ?(Z\b|[+-]\d\d:?\d\d\b)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Exif:
    """The EXIF values that are used; None where a value is missing or implausible.

    `taken_at_from` is the name of the tag that `taken_at` comes from.
    """

    orientation: int = 1
    taken_at: datetime | None = None
    taken_at_from: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_exif(image: ImageFile.ImageFile) -> Exif:
    """Return the EXIF of a loaded image; malformed EXIF is ignored, because the image itself is usable."""
    try:
        exif = image.getexif()
        shot = exif.get_ifd(ExifTags.IFD.Exif)
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        times = {**shot, _TAGS.DateTime: exif.get(_TAGS.DateTime)}
    except Exception:  # noqa: BLE001 - cameras and editors write malformed blocks, on which Pillow raises many errors
        return Exif()
    orientation = exif.get(ExifTags.Base.Orientation)
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), limit=90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), limit=180)
    located = latitude is not None and longitude is not None
    taken_at, taken_at_from = _time_taken(times, gps)
    return Exif(
        orientation=orientation if isinstance(orientation, int) else 1,
        taken_at=taken_at,
        taken_at_from=taken_at_from,
        camera=_camera(_text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model))),
        latitude=latitude if located else None,
        longitude=longitude if located else None,
    )


def _text(value: Any) -> str:
    """Return an EXIF string on one line, without the padding (NULs and spaces) that cameras add."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    shown = value.split("\0", 1)[0].encode("utf-8", "replace").decode()
    return " ".join("".join(c if c.isprintable() else " " for c in shown).split())


def _camera(make: str, model: str) -> str | None:
    """Return "Make Model", without the make if the model already begins with its first word."""
    if make and model and model.lower().split()[0] == make.lower().split()[0]:
        return model
    return " ".join(filter(None, (make, model))) or None


def is_plausible(moment: datetime) -> bool:
    """Whether an image may have been taken at this moment: not before photography, nor in the future."""
    return moment.year >= FIRST_YEAR and moment <= datetime.now(UTC) + CLOCKS_DIFFER


def _time_taken(tags: Mapping[int, Any], gps: Mapping[int, Any]) -> tuple[datetime | None, str | None]:
    """Return the best plausible time and the name of its tag: GPS's, which is UTC, if the camera's clock gives none."""
    for name, time, offset, fraction in _TIMES:
        moment = _parse_time(tags.get(time), tags.get(offset), tags.get(fraction))
        if moment is not None and is_plausible(moment):
            return moment, name
    moment = _gps_time(gps.get(ExifTags.GPS.GPSDateStamp), gps.get(ExifTags.GPS.GPSTimeStamp))
    return (moment, "GPSDateStamp") if moment is not None and is_plausible(moment) else (None, None)


def _parse_time(taken: Any, offset: Any, fraction: Any) -> datetime | None:
    """Return EXIF's "2024:05:31 18:30:00", "+02:00" and "250" (ms) as an aware time; without an offset it is UTC.

    Some programs write ISO 8601 instead, "2024-05-31T18:30:00.25+02:00", whose own fraction and offset then count.
    """
    written = _TIME.match(_text(taken))
    if written is None:
        return None
    date, time, own_fraction, own_offset = written.groups()
    digits = own_fraction or _text(fraction)
    microseconds = int(f"{digits:0<6}"[:6]) if digits.isascii() and digits.isdigit() else 0
    for zone in (own_offset or _text(offset), ""):
        try:
            day = re.sub("[/-]", ":", date)
            moment = datetime.strptime(f"{day} {time}{zone}", f"%Y:%m:%d %H:%M:%S{'%z' if zone else ''}")
            moment = moment.replace(microsecond=microseconds)
            return moment.astimezone(UTC) if zone else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # 0000:00:00, or a malformed offset
            continue
    return None


def _gps_time(date: Any, time: Any) -> datetime | None:
    """Return GPS's "2024:05:31" and hours, minutes and seconds as an aware time."""
    try:
        hours, minutes, seconds = (float(part) for part in time)
        day = datetime.strptime(_text(date)[:10], "%Y:%m:%d").replace(tzinfo=UTC)
        into_day = timedelta(hours=hours, minutes=minutes, seconds=seconds)
        return day + into_day if timedelta(0) <= into_day < timedelta(days=1) else None
    except (TypeError, ValueError, ArithmeticError):
        return None


def _degrees(parts: Any, reference: Any, *, limit: int) -> float | None:
    """Return degrees, minutes and seconds as signed degrees; None if they are not numbers within the limit."""
    try:
        degrees, minutes, seconds = (float(part) for part in parts)
    except (TypeError, ValueError, ArithmeticError):
        return None
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value) or not 0 <= value <= limit:
        return None
    return -value if _text(reference).upper().startswith(("S", "W")) else value
