"""Reads what a video's container says of it: date, place, camera, title and texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from searchdb.media.written import text
from searchdb.media.written.keywords import united
from searchdb.media.written.times import is_plausible
from searchdb.records import WrittenMetadata

CREATION_TIME = "creation_time"
"""The container's tag of when it was recorded, or written by an editor; in UTC."""
FIRST_YEAR = 1980
"""Earlier times are those of clocks that are not set: the zeros of QuickTime (1904) and of Unix (1970)."""

_QUICKTIME, _ANDROID = "com.apple.quicktime.", "com.android."
_PLACE = re.compile(r"([+-]\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)([+-]\d+(?:\.\d+)?)?(CRS\w*)?/?")
_TIMES = ((f"{_QUICKTIME}creationdate", "creationdate"), (CREATION_TIME, CREATION_TIME), ("date_recorded",) * 2)


def written_in(tags: Mapping[str, str]) -> WrittenMetadata:
    """Return what the tags of a container say; their names are in lower case."""
    taken_at, taken_at_from = _time(tags)
    latitude, longitude = _place(tags)
    return WrittenMetadata(
        title=_first(tags, text.title, "title"),
        description=_first(tags, text.description, "description", "synopsis", "comment"),
        keywords=united(re.split("[,;]", _first(tags, str, "keywords") or "")),
        creator=_first(tags, text.one_line, "artist", "author", "director"),
        copyright=_first(tags, text.one_line, "copyright"),
        taken_at=taken_at,
        taken_at_from=taken_at_from,
        camera=text.camera(_first(tags, str, "make", "manufacturer") or "", _first(tags, str, "model") or ""),
        latitude=latitude,
        longitude=longitude,
    )


def _first(tags: Mapping[str, str], clean: Callable[[str], str | None], *names: str) -> str | None:
    """Return the first of these tags of which something is left after cleaning.

    QuickTime and Android put a prefix before some names.
    """
    found = (clean(tags.get(prefix + name, "")) for name in names for prefix in ("", _QUICKTIME, _ANDROID))
    return next(filter(None, found), None)


def _time(tags: Mapping[str, str]) -> tuple[datetime | None, str | None]:
    """Return the first plausible time and the name of its tag; one without an offset is UTC."""
    for tag, name in _TIMES:
        try:
            moment = datetime.fromisoformat(tags.get(tag, "").strip())
            moment = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).astimezone(UTC)
        except (ValueError, OverflowError):
            continue
        if moment.year >= FIRST_YEAR and is_plausible(moment):
            return moment, name
    return None, None


def _place(tags: Mapping[str, str]) -> tuple[float | None, float | None]:
    """Return the latitude and longitude of ISO 6709, such as `+41.9028+012.4964+020.000/`, in degrees."""
    named = (f"{_QUICKTIME}location.iso6709", "location", "location-eng")
    for name in named:
        found = _PLACE.fullmatch(tags.get(name, "").strip())
        if found is None:
            continue
        latitude, longitude = float(found[1]), float(found[2])
        if abs(latitude) <= 90 and abs(longitude) <= 180 and (latitude or longitude):
            return latitude, longitude
    return None, None
