"""Reads the metadata from XMP, whether it is in an image or a sidecar file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime

from searchdb.media.written import text
from searchdb.media.written.exif import stars
from searchdb.media.written.keywords import flat, united
from searchdb.media.written.times import is_plausible, xmp_time
from searchdb.media.written.xmp_packet import Properties, parse
from searchdb.records import WrittenMetadata

_TIMES = (
    ("DateTimeOriginal", "exif:DateTimeOriginal"),
    ("DateCreated", "photoshop:DateCreated"),
    ("DateTimeDigitized", "exif:DateTimeDigitized"),
    ("CreateDate", "xmp:CreateDate"),
)
"""The times of an image, the best first."""
_KEYWORDS = (
    ("dc:subject", "|"),
    ("lr:hierarchicalSubject", "|"),
    ("digiKam:TagsList", "/"),
    ("MicrosoftPhoto:LastKeywordXMP", "/"),
    ("MicrosoftPhoto_1:LastKeywordXMP", "/"),
)
"""Properties with keywords, and what separates the parts of a path in each. Only paths have a `|`, so that the flat
keywords may hold them too, as some programs write."""
_PLACES = ("Iptc4xmpExt:LocationCreated", "Iptc4xmpExt:LocationShown")
_PROPERTIES = frozenset(
    {
        *(name for _, name in _TIMES),
        *(name for name, _ in _KEYWORDS),
        *_PLACES,
        *("dc:title", "dc:description", "dc:creator", "dc:rights", "photoshop:Headline"),
        *("xmp:Rating", "MicrosoftPhoto:Rating", "MicrosoftPhoto_1:Rating", "xmp:Label"),
        *("photoshop:City", "photoshop:Country", "exif:GPSLatitude", "exif:GPSLongitude", "tiff:Make", "tiff:Model"),
        *("exif:UserComment", "tiff:ImageDescription", "tiff:Artist", "tiff:Copyright"),
    }
)
_COORDINATE = re.compile(
    r"(?P<sign>[+-])?(?P<degrees>\d{1,3}(\.\d+)?)(,(?P<minutes>\d{1,3}(\.\d+)?))?(,(?P<seconds>\d{1,3}(\.\d+)?))?"
    r" ?(?P<side>[NSEW])?",
    re.ASCII | re.IGNORECASE,
)


def read_xmp(packet: bytes) -> WrittenMetadata:
    """Return what a packet says.

    Raises:
        MetadataError: it is too large, too deeply nested, or not well-formed XMP.
    """
    found = parse(packet, _PROPERTIES)
    taken_at, taken_at_from = _time_taken(found)
    latitude = _degrees(found.text("exif:GPSLatitude"), "NS", limit=90)
    longitude = _degrees(found.text("exif:GPSLongitude"), "EW", limit=180)
    located = latitude is not None and longitude is not None
    descriptions = map(found.text, ("dc:description", "tiff:ImageDescription", "exif:UserComment"))
    return WrittenMetadata(
        title=text.title(found.text("dc:title")) or text.title(found.text("photoshop:Headline")),
        description=next(filter(None, map(text.description, descriptions)), None),
        keywords=united(_keywords(found)),
        rating=_rating(found),
        label=text.name(found.text("xmp:Label")),
        creator=text.one_line(", ".join(found.texts("dc:creator"))) or text.one_line(found.text("tiff:Artist")),
        copyright=text.one_line(found.text("dc:rights", "tiff:Copyright")),
        taken_at=taken_at,
        taken_at_from=taken_at_from,
        camera=text.camera(found.text("tiff:Make"), found.text("tiff:Model")),
        country=text.name(_place(found, "photoshop:Country", "Iptc4xmpExt:CountryName")),
        city=text.name(_place(found, "photoshop:City", "Iptc4xmpExt:City")),
        latitude=latitude if located else None,
        longitude=longitude if located else None,
    )


def _keywords(found: Properties) -> Iterator[str]:
    for name, separator in _KEYWORDS:
        texts = found.texts(name)
        if not found.is_array(name):  # some programs write them as one text
            texts = [keyword for each in texts for keyword in re.split("[;,]", each)]
        yield from flat(texts, separator)


def _time_taken(found: Properties) -> tuple[datetime | None, str | None]:
    for name, source in _TIMES:
        moment = xmp_time(found.text(source).strip())
        if moment is not None and is_plausible(moment):
            return moment, name
    return None, None


def _rating(found: Properties) -> int | None:
    """Return -1 to 5; a fraction is rounded, half a star up."""
    value = _number(found.text("xmp:Rating"))
    if value is not None and -1 <= value <= 5:
        return math.floor(value + 0.5)
    percent = _number(found.text("MicrosoftPhoto:Rating", "MicrosoftPhoto_1:Rating"))
    return stars(percent) if percent is not None and 0 <= percent <= 100 else None


def _number(text: str) -> float | None:
    written = text.strip().replace(",", ".")
    return float(written) if re.fullmatch(r"[+-]?\d{1,6}(\.\d{1,20})?", written, re.ASCII) else None


def _place(found: Properties, simple: str, field: str) -> str:
    return found.text(simple) or next(filter(None, (found.field(place, field) for place in _PLACES)), "")


def _degrees(written: str, sides: str, *, limit: int) -> float | None:
    """Return "48,51.5N", "48,51,30N" or "48.858" as signed degrees; None if they are not within the limit."""
    match = _COORDINATE.fullmatch(written.strip())
    if match is None:
        return None
    side = (match["side"] or sides[0]).upper()
    value = float(match["degrees"]) + float(match["minutes"] or 0) / 60 + float(match["seconds"] or 0) / 3600
    if side not in sides or value > limit:
        return None
    return -value if side == sides[1] or match["sign"] == "-" else value
