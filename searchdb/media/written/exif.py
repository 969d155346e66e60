"""Reads the orientation and the metadata from an image's EXIF."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import ExifTags, Image

from searchdb.media.written import text
from searchdb.media.written.keywords import united
from searchdb.media.written.text import MAX_ENCODED_BYTES, exif_text
from searchdb.media.written.times import exif_time, is_plausible
from searchdb.records import WrittenMetadata

_TAGS = ExifTags.Base
_RATING, _RATING_PERCENT = 0x4746, 0x4749
_XP_TITLE, _XP_COMMENT, _XP_AUTHOR, _XP_KEYWORDS, _XP_SUBJECT = range(0x9C9B, 0x9CA0)
"""Windows' own tags, in UTF-16."""
_OF_IMAGE = (
    *(_TAGS.Orientation, _TAGS.Make, _TAGS.Model, _TAGS.DateTime, _TAGS.ImageDescription, _TAGS.Artist),
    *(_TAGS.Copyright, _RATING, _RATING_PERCENT, _XP_TITLE, _XP_COMMENT, _XP_AUTHOR, _XP_KEYWORDS, _XP_SUBJECT),
)
"""Tags in the first directory. The rest of what is read is in the EXIF directory."""
_TIMES = (
    ("DateTimeOriginal", _TAGS.DateTimeOriginal, _TAGS.OffsetTimeOriginal, _TAGS.SubsecTimeOriginal),
    ("DateTimeDigitized", _TAGS.DateTimeDigitized, _TAGS.OffsetTimeDigitized, _TAGS.SubsecTimeDigitized),
    ("DateTime", _TAGS.DateTime, _TAGS.OffsetTime, _TAGS.SubsecTime),
)
"""The times of an image, the best first, each with the tags of its offset from UTC and its fraction of a second."""
_PERCENT_OF_STARS = (0, 1, 25, 50, 75, 99)
"""What Windows writes for 0 to 5 stars; other values count as the highest of these that they reach."""


SIDEWAYS = (5, 6, 7, 8)
"""Orientations of images whose width and height change places when they are turned upright."""


@dataclass(frozen=True, kw_only=True)
class Exif:
    """What EXIF says: how the image is to be turned (1 to 8), and its metadata."""

    orientation: int = 1
    written: WrittenMetadata = field(default_factory=WrittenMetadata)


def read_exif(image: Image.Image) -> Exif:
    """Return the EXIF of an opened image; malformed EXIF is ignored, because the image itself is usable.

    Of a PNG without EXIF, this decodes the pixels, behind which there may be some.
    """
    try:
        exif = image.getexif()
        shot = exif.get_ifd(ExifTags.IFD.Exif)
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        tags = {**shot, **{tag: exif.get(tag) for tag in _OF_IMAGE}}
    except Exception:  # noqa: BLE001 - cameras and editors write malformed blocks, on which Pillow raises many errors
        return Exif()
    return Exif(orientation=_orientation(tags), written=_written(tags, gps, exif.endian or "<"))


def undecoded_tag(image: Image.Image, tag: int) -> bytes | None:
    """Return the bytes of a tag of the first directory, whatever type it declares; None if it is not there."""
    try:
        directory: Any = getattr(image.getexif(), "_info", None)  # which Pillow fills before it decodes any value
    except Exception:  # noqa: BLE001 - as above
        return None
    return getattr(directory, "_tagdata", {}).get(tag)


def _orientation(tags: Mapping[int, Any]) -> int:
    value = tags.get(_TAGS.Orientation)
    return value if isinstance(value, int) else 1


def _written(tags: Mapping[int, Any], gps: Mapping[int, Any], order: str) -> WrittenMetadata:
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), limit=90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), limit=180)
    located = latitude is not None and longitude is not None
    taken_at, taken_at_from = _time_taken(tags, gps)
    described = (
        exif_text(tags.get(_TAGS.ImageDescription)),
        _windows(tags.get(_XP_COMMENT)),
        _windows(tags.get(_XP_SUBJECT)),
        _user_comment(tags.get(_TAGS.UserComment), order),
    )
    creators = exif_text(tags.get(_TAGS.Artist)), _windows(tags.get(_XP_AUTHOR))
    return WrittenMetadata(
        title=text.title(_windows(tags.get(_XP_TITLE))),
        description=next(filter(None, map(text.description, described)), None),
        keywords=united(_windows(tags.get(_XP_KEYWORDS)).split(";")),
        rating=_rating(tags.get(_RATING), tags.get(_RATING_PERCENT)),
        creator=next(filter(None, map(text.one_line, creators)), None),
        copyright=_copyright(tags.get(_TAGS.Copyright)),
        taken_at=taken_at,
        taken_at_from=taken_at_from,
        camera=text.camera(exif_text(tags.get(_TAGS.Make)), exif_text(tags.get(_TAGS.Model))),
        latitude=latitude if located else None,
        longitude=longitude if located else None,
    )


def stars(percent: float) -> int:
    """Return the stars of a rating of 0 to 100, as Windows rates."""
    return sum(percent >= least for least in _PERCENT_OF_STARS[1:])


def _rating(rating: Any, percent: Any) -> int | None:
    if isinstance(rating, int) and 0 <= rating <= 5:
        return rating
    return stars(percent) if isinstance(percent, int) and 0 <= percent <= 100 else None


def _windows(value: Any) -> str:
    if not isinstance(value, bytes):
        return ""
    return value[:MAX_ENCODED_BYTES].decode("utf-16-le", "replace").split("\0", 1)[0]


def _copyright(value: Any) -> str | None:
    """Return the photographer's and the editor's notice, which a NUL separates."""
    whole = text.decoded(value) if isinstance(value, bytes) else text.redecoded(value) if isinstance(value, str) else ""
    parts = whole.split("\0")
    return text.one_line(", ".join(filter(None, map(text.one_line, parts[:2]))))


# --- The comment ----------------------------------------------------------------------------------


def _user_comment(value: Any, order: str) -> str:
    """Return the text of a UserComment, whose first 8 bytes name its character set."""
    if isinstance(value, str):
        return exif_text(value)
    if not isinstance(value, bytes):
        return ""
    code, raw = value[:8], value[8 : 8 + MAX_ENCODED_BYTES]
    if code.startswith(b"UNICODE"):
        return _utf_16(raw, order).split("\0", 1)[0]
    if code.startswith(b"JIS"):
        return _japanese(raw).split("\0", 1)[0]
    if code.startswith(b"ASCII") or code == bytes(8):
        return exif_text(raw)
    # Some programs leave the code out. Text has no control characters, which most other data has.
    return exif_text(value) if not re.search(rb"[\0-\x08\x0e-\x1f]", value.rstrip(b"\0")) else ""


def _utf_16(raw: bytes, order: str) -> str:
    """Return UTF-16 in the byte order that makes more sense: programs disagree on which it should be."""
    raw = raw[: len(raw) // 2 * 2]  # some end with a single NUL
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", "replace")
    little, big = raw.decode("utf-16-le", "replace"), raw.decode("utf-16-be", "replace")
    return min((big, little) if order == ">" else (little, big), key=_strangeness)


def _strangeness(read: str) -> tuple[int, int]:
    """Return how many characters do not exist, and minus how many are ASCII's: in the wrong order those are Chinese."""
    unused = sum(unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") for character in read.rstrip("\0"))
    return unused, -sum("\x20" <= character < "\x7f" for character in read)


def _japanese(raw: bytes) -> str:
    for charset in ("iso2022_jp", "shift_jis", "euc_jp"):
        try:
            return raw.decode(charset)
        except UnicodeDecodeError:
            continue
    return ""


# --- Time and place -------------------------------------------------------------------------------


def _time_taken(tags: Mapping[int, Any], gps: Mapping[int, Any]) -> tuple[datetime | None, str | None]:
    """Return the best plausible time and the name of its tag: GPS's, which is UTC, if the camera's clock gives none."""
    for name, time, offset, fraction in _TIMES:
        moment = exif_time(*(_field(tags.get(tag)) for tag in (time, offset, fraction)))
        if moment is not None and is_plausible(moment):
            return moment, name
    moment = _gps_time(gps.get(ExifTags.GPS.GPSDateStamp), gps.get(ExifTags.GPS.GPSTimeStamp))
    return (moment, "GPSDateStamp") if moment is not None and is_plausible(moment) else (None, None)


def _field(value: Any) -> str:
    return text.name(exif_text(value)) or ""


def _gps_time(date: Any, time: Any) -> datetime | None:
    """Return GPS's "2024:05:31" and hours, minutes and seconds as an aware time."""
    try:
        hours, minutes, seconds = (float(part) for part in time)
        day = datetime.strptime(_field(date)[:10], "%Y:%m:%d").replace(tzinfo=UTC)
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
    return -value if _field(reference).upper().startswith(("S", "W")) else value
