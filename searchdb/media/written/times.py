"""Reads the times in EXIF, IPTC and XMP, and says which of them is best."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

FIRST_YEAR = 1826
"""The year of the oldest surviving photograph: scans may be dated as early, and clocks that are not set are earlier."""
CLOCKS_DIFFER = timedelta(days=1)
"""How far a time may lie in the future: a camera's local time is read as UTC, which it may be 14 hours ahead of."""

OF_TAKING = ("DateTimeOriginal", "DateCreated")
OF_DIGITIZING = ("DateTimeDigitized", "CreateDate")
"""The names of times that tell when an image was taken, or became a file: a scan has both. All others are weaker."""

_TIME = re.compile(r"(\d{4}[:/-]\d\d?[:/-]\d\d?)[ T](\d\d?:\d\d?:\d\d?)(?:\.(\d+))? ?(Z\b|[+-]\d\d:?\d\d\b)?", re.ASCII)
_PARTIAL = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)(?:[T ](?P<hour>\d\d):(?P<minute>\d\d)"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?)?)?)?",
    re.ASCII,
)


def is_plausible(moment: datetime) -> bool:
    """Whether an image may have been taken at this moment: not before photography, nor in the future."""
    return moment.year >= FIRST_YEAR and moment <= datetime.now(UTC) + CLOCKS_DIFFER


def weakness(field: str | None) -> int:
    """Return how little the time in this field says about when the image was taken; 0 is best."""
    return 0 if field in OF_TAKING else 1 if field in OF_DIGITIZING else 2


def exif_time(taken: str, offset: str = "", fraction: str = "") -> datetime | None:
    """Return EXIF's "2024:05:31 18:30:00", "+02:00" and "250" (ms) as an aware time; without an offset it is UTC.

    Some programs write ISO 8601 instead, "2024-05-31T18:30:00.25+02:00", whose own fraction and offset then count.
    """
    written = _TIME.match(taken)
    if written is None:
        return None
    date, time, own_fraction, own_offset = written.groups()
    digits = own_fraction or fraction
    microseconds = int(f"{digits:0<6}"[:6]) if digits.isascii() and digits.isdigit() else 0
    for zone in (own_offset or offset, ""):
        try:
            day = re.sub("[/-]", ":", date)
            moment = datetime.strptime(f"{day} {time}{zone}", f"%Y:%m:%d %H:%M:%S{'%z' if zone else ''}")
            moment = moment.replace(microsecond=microseconds)
            return moment.astimezone(UTC) if zone else moment.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # 0000:00:00, or a malformed offset
            continue
    return None


def xmp_time(text: str) -> datetime | None:
    """Return ISO 8601 as XMP has it, also without seconds, time, day or month, as an aware time.

    What is missing is the first: "1965" is the 1st of January 1965. Without a zone it is UTC.
    """
    whole = exif_time(text)
    if whole is not None:
        return whole
    found = _PARTIAL.fullmatch(text)
    if found is None:
        return None
    part = found.groupdict()
    date = f"{part['year']}:{part['month'] or '01'}:{part['day'] or '01'}"
    return exif_time(f"{date} {part['hour'] or '00'}:{part['minute'] or '00'}:00", part["zone"] or "")


def iptc_time(date: str, time: str) -> datetime | None:
    """Return IPTC's "20240531" and "183000+0200" as an aware time; an unknown month or day is "00"."""
    if not re.fullmatch(r"\d{8}", date, re.ASCII):
        return None
    day = ":".join(part if int(part) else "01" for part in (date[4:6], date[6:]))
    clock = re.fullmatch(r"(\d\d)(\d\d)(\d\d)([+-]\d{4})?", time, re.ASCII)
    hours, zone = (":".join(clock.groups()[:3]), clock[4] or "") if clock else ("00:00:00", "")
    return exif_time(f"{date[:4]}:{day} {hours}", zone)
