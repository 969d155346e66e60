"""Reads the orientation, time, camera and place from an image's EXIF."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from PIL import ExifTags, ImageFile


@dataclass(frozen=True, kw_only=True)
class Exif:
    """The EXIF values that are used; None where a value is missing or implausible."""

    orientation: int = 1
    taken_at: datetime | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None


def read_exif(image: ImageFile.ImageFile) -> Exif:
    """Return the EXIF of a loaded image; malformed EXIF is ignored, because the image itself is usable."""
    try:
        exif = image.getexif()
        shot = exif.get_ifd(ExifTags.IFD.Exif)
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # noqa: BLE001 - cameras and editors write malformed blocks, on which Pillow raises many errors
        return Exif()
    orientation = exif.get(ExifTags.Base.Orientation)
    latitude = _degrees(gps.get(ExifTags.GPS.GPSLatitude), gps.get(ExifTags.GPS.GPSLatitudeRef), limit=90)
    longitude = _degrees(gps.get(ExifTags.GPS.GPSLongitude), gps.get(ExifTags.GPS.GPSLongitudeRef), limit=180)
    located = latitude is not None and longitude is not None
    return Exif(
        orientation=orientation if isinstance(orientation, int) else 1,
        taken_at=_parse_time(shot.get(ExifTags.Base.DateTimeOriginal), shot.get(ExifTags.Base.OffsetTimeOriginal)),
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


def _parse_time(taken: Any, offset: Any) -> datetime | None:
    """Return EXIF's "2024:05:31 18:30:00" and "+02:00" as an aware time; without an offset it is taken as UTC."""
    for zone in (_text(offset), ""):
        try:
            moment = datetime.strptime(_text(taken)[:19] + zone, "%Y:%m:%d %H:%M:%S%z" if zone else "%Y:%m:%d %H:%M:%S")
            return moment.astimezone(UTC) if zone else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # 0000:00:00, blanks, or a malformed offset
            continue
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
