"""Turns stored pictures into what pages show of them: a name, a line of text, links, and a place in the grid."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from urllib.parse import urlsplit

from flask import url_for

from searchdb.records import Hit, StoredImage, mask_credentials

from ..files.images import is_url
from .search_request import SearchRequest

NARROWEST, WIDEST, STEP = 50, 250, 5
"""Width over height in percent, as the stylesheet has classes for (`r50`, `r55`, ...): a page whose content security
policy allows no style attributes can say it in no other way. A cell crops its picture by at most half a step, or
more where a picture is narrower or wider than that."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One cell of the grid.

    `like` is where the pictures like it are; `colour` stands in its place until it comes. `bar` is a hit's relevance in
    percent, or where it has none its similarity in percent of the best hit's; None outside of a search.
    """

    id: int
    href: str
    like: str
    thumbnail: str
    caption: str
    alt: str
    shape: str
    width: int
    height: int
    colour: str | None = None
    similarity: float | None = None
    bar: int | None = None


def make_tiles(images: Sequence[StoredImage], *, ask: SearchRequest, best: float | None = None) -> list[Tile]:
    """Return the cells of a grid.

    Args:
        images: the pictures; hits have their similarity shown.
        ask: the search that they come from, so that the way back is known on their own pages.
        best: the best hit's similarity, whose bar is full.
    """
    return [_tile(image, ask, best) for image in images]


def name_of(image: StoredImage) -> str:
    """Return what a picture is called in public: its file's own name, never its folder; of a URL all but a password."""
    name = mask_credentials(image.image) if is_url(image) else PurePath(image.image).name
    return _printable(name) or "picture"


def alt_of(image: StoredImage) -> str:
    """Return the text that stands for a picture where it cannot be seen."""
    if image.description:
        return _printable(image.description)
    return f"Picture tagged {', '.join(image.tags[:6])}" if image.tags else name_of(image)


def thumbnail_url(image: StoredImage) -> str:
    """Return the thumbnail's URL, with its version so that browsers keep it."""
    return url_for("images.thumbnail", image_id=image.id, v=thumbnail_version(image))


def thumbnail_version(image: StoredImage) -> str | None:
    """Return what tells a file's thumbnails from those of its earlier contents; None for a URL picture's."""
    return None if is_url(image) else image.sha256.hex()[:8]


def host_of(image: StoredImage) -> str | None:
    """Return the host that a URL picture is on, None for a file."""
    try:
        return urlsplit(image.image).hostname if is_url(image) else None
    except ValueError:  # not from ingest, which keeps no malformed URL, but anybody with SQL may write one
        return None


def format_datetime(moment: datetime) -> str:
    """Return a date and time for people. Pictures mostly carry no time zone, so none is shown."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B} {moment.year}, {moment:%H:%M}"


def shape_of(width: int, height: int) -> str:
    """Return the class of a cell for a picture of this size."""
    percent = 100 * width / max(height, 1)
    return f"r{min(max(round(percent / STEP) * STEP, NARROWEST), WIDEST)}"


def _tile(image: StoredImage, ask: SearchRequest, best: float | None) -> Tile:
    similarity = image.similarity if isinstance(image, Hit) else None
    bar = None
    if similarity is not None and best is not None:
        bar = round(100 * min(max(similarity / best, 0.0), 1.0)) if best > 0 else 0
    if isinstance(image, Hit) and image.relevance is not None:
        bar = round(100 * image.relevance)
    return Tile(
        id=image.id,
        href=url_for("pages.picture", image_id=image.id, **ask.args()),
        like=url_for("pages.index", **ask.elsewhere(like=image.id)),
        thumbnail=thumbnail_url(image),
        caption=_printable(image.description or "") or name_of(image),
        alt=alt_of(image),
        shape=shape_of(image.width, image.height),
        width=max(image.width, 1),
        height=max(image.height, 1),
        colour=image.colour,
        similarity=similarity,
        bar=bar,
    )


def _printable(text: str) -> str:
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).split())
