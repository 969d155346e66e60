"""Turns a photo of the Unsplash dataset into a SourceItem, with the URL of a small rendition to fetch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import SourceItem, clean_url, mask_credentials
from searchdb.sources import printable

SOURCE = "unsplash"

DEFAULT_RENDITION = "w=640&fm=jpg&q=80&fit=max"
"""Query parameters for Unsplash's image server: a tenth of the original's bytes, sharp enough for the page."""
MIN_SHORT_SIDE = 224
"""CLIP's input size in pixels; a smaller rendition would be scaled up."""

_SHOWN_CHARS = 80
"""Maximum number of characters of an invalid URL that a message quotes."""

METADATA_COLUMNS = (
    "blur_hash",
    "stats_views",
    "stats_downloads",
    "photo_width",
    "photo_height",
    "photo_featured",
    "photo_location_name",
    "ai_primary_landmark_name",
    "exif_camera_make",
    "exif_camera_model",
    "exif_iso",
    "exif_aperture_value",
    "exif_focal_length",
    "exif_exposure_time",
)
"""Columns whose non-empty values go into `metadata`, under the dataset's own names."""

Rendition = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Photo:
    """The columns of `unsplash_photos` that a SourceItem is made of, and the photo's keywords, best first."""

    photo_id: str
    photo_url: str | None
    photo_image_url: str | None
    photo_submitted_at: datetime | None
    photo_featured: bool | None
    photo_width: int | None
    photo_height: int | None
    photo_description: str | None
    photographer_username: str | None
    photographer_first_name: str | None
    photographer_last_name: str | None
    exif_camera_make: str | None
    exif_camera_model: str | None
    exif_iso: int | None
    exif_aperture_value: str | None
    exif_focal_length: str | None
    exif_exposure_time: str | None
    photo_location_name: str | None
    photo_location_latitude: float | None
    photo_location_longitude: float | None
    photo_location_country: str | None
    photo_location_city: str | None
    stats_views: int | None
    stats_downloads: int | None
    ai_description: str | None
    ai_primary_landmark_name: str | None
    blur_hash: str | None
    keywords: Sequence[str] = ()

    @classmethod
    def from_row(cls, row: Mapping[Any, Any], keywords: Sequence[str]) -> Self:
        """Make a Photo from a row that has at least these columns."""
        return cls(keywords=keywords, **{f.name: row[f.name] for f in fields(cls) if f.name != "keywords"})


def photo_item(photo: Photo, rendition: Rendition) -> SourceItem:
    """Return the SourceItem of a photo; malformed values other than its URL are omitted.

    Raises:
        InvalidReferenceError: the photo has no usable photo_image_url.
    """
    url = _text(photo.photo_image_url)
    if url is None:
        raise InvalidReferenceError("column photo_image_url is empty")
    try:
        image = clean_url(url)
    except ValueError as exc:
        shown = mask_credentials(printable(url))[:_SHOWN_CHARS]
        raise InvalidReferenceError(f"column photo_image_url: '{shown}' {exc}") from exc
    username = (_text(photo.photographer_username) or "").lstrip("@")
    names = (_text(photo.photographer_first_name), _text(photo.photographer_last_name))
    latitude, longitude = photo.photo_location_latitude, photo.photo_location_longitude
    located = latitude is not None and longitude is not None and abs(latitude) <= 90 and abs(longitude) <= 180
    return SourceItem(
        image=image,
        source=SOURCE,
        rendition=_rendition_url(image, rendition, width=photo.photo_width, height=photo.photo_height),
        source_id=photo.photo_id,
        description=_text(photo.photo_description) or _text(photo.ai_description),
        credit=" ".join(filter(None, names)) or username or None,
        credit_url=_url(f"https://unsplash.com/@{quote(username, safe='')}") if username else None,
        page_url=_url(photo.photo_url or ""),
        taken_at=photo.photo_submitted_at,
        camera=_camera(_text(photo.exif_camera_make), _text(photo.exif_camera_model)),
        country=_text(photo.photo_location_country),
        city=_text(photo.photo_location_city),
        latitude=latitude if located else None,
        longitude=longitude if located else None,
        tags=tuple(photo.keywords),
        metadata={name: value for name in METADATA_COLUMNS if (value := getattr(photo, name)) is not None},
    )


def _text(value: str | None) -> str | None:
    return (value or "").strip() or None


def _url(text: str) -> str | None:
    try:
        return clean_url(text)
    except ValueError:
        return None


def _camera(make: str | None, model: str | None) -> str | None:
    """Return "Make Model", without the make if the model already begins with its first word."""
    if make and model and model.lower().split()[0] == make.lower().split()[0]:
        return model
    return " ".join(filter(None, (make, model))) or None


# --- Renditions -----------------------------------------------------------------------------------


def parse_rendition(query: str | None) -> Rendition:
    """Return the parameters of a query string such as DEFAULT_RENDITION; an empty mapping means the original.

    Raises:
        SourceError: it is not a query string, or its `w` or `h` is not a number of pixels.
    """
    if not query or not query.strip():
        return {}
    try:
        parameters = dict(parse_qsl(query.strip().removeprefix("?"), strict_parsing=True, keep_blank_values=True))
    except ValueError as exc:
        raise SourceError(
            f"the rendition {printable(query)!r} is not a query string ({exc}); write it like {DEFAULT_RENDITION!r}"
        ) from exc
    for side in ("w", "h"):
        if side in parameters and not re.fullmatch("0*[1-9][0-9]{0,5}", parameters[side]):
            raise SourceError(
                f"the rendition {printable(query)!r} has {side}={printable(parameters[side])}; give it in whole pixels"
            )
    return parameters


def _rendition_url(image: str, rendition: Rendition, *, width: int | None, height: int | None) -> str | None:
    """Return the URL of the rendition; None for the original or if the URL would be too long."""
    if not rendition:
        return None
    base, _, query = image.partition("?")
    asked = dict(rendition)
    for side, pixels in (("w", width), ("h", height)):
        if side in asked and width and height and min(width, height) > 0 and pixels:
            least = -(-MIN_SHORT_SIDE * pixels // min(width, height))
            asked[side] = str(min(max(int(asked[side]), least), pixels))
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name not in asked]
    return _url(f"{base}?{urlencode([*kept, *asked.items()])}")
