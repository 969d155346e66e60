"""Turns stored images into the cells of a page's grid: caption, alternative text, links and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flask import url_for

from searchdb.clock import clock
from searchdb.records import Hit, StoredImage

from ..files.frames import duration_of, is_frame, time_of
from ..files.links import Links, name_of, printable
from .search_request import SearchRequest

NARROWEST, WIDEST, STEP = 50, 250, 5
"""Smallest and largest ratio of width to height, and the step between ratios, in percent. The stylesheet has a class
for each ratio (`r50`, `r55`, ...), because the content security policy forbids style attributes. A cell crops its image
by at most half a step, or by more if the image is outside the limits."""


UNKNOWN_SIDE = 400
"""Width and height, in pixels, for which the page leaves room until an image of unknown size is loaded."""


@dataclass(frozen=True, kw_only=True)
class TileTime:
    """What the cell of a frame shows of its video.

    `time` is the frame's place in it, `length` the whole, None if unknown; `more` is the number of its other frames.
    """

    time: str
    length: str | None
    more: int


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One cell of the grid.

    `like` is the URL of the search for similar images. `shape` is the CSS class for the aspect ratio. `colour` fills
    the cell until the thumbnail has loaded. `bar` is a hit's relevance in percent, or without one its similarity in
    percent of the best hit's; None outside a search. `video` is set for a frame.
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
    video: TileTime | None = None


def make_tiles(
    images: Sequence[StoredImage], *, search_request: SearchRequest, best: float | None = None
) -> list[Tile]:
    """Return the cells of a grid.

    Args:
        images: stored images; hits are shown with their similarity.
        search_request: the search that they come from; the images' pages link back to it.
        best: similarity of the best hit, whose bar has full length.
    """
    links = Links()
    return [_tile(image, search_request, best, links) for image in images]


def alt_of(image: StoredImage) -> str:
    """Return the alternative text of an image."""
    if image.description:
        return printable(image.description)
    what = "Frame of a video" if is_frame(image) else "Image"
    return f"{what} tagged {', '.join(image.tags[:6])}" if image.tags else name_of(image)


def format_datetime(moment: datetime) -> str:
    """Return a UTC date and time as text. No time zone is shown, because most images have none."""
    moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B} {moment.year}, {moment:%H:%M}"


def shape_of(width: int | None, height: int | None) -> str:
    """Return the CSS class for the aspect ratio of an image of this size, a square if that is unknown."""
    if width is None or height is None:
        return "r100"
    percent = 100 * width / max(height, 1)
    return f"r{min(max(round(percent / STEP) * STEP, NARROWEST), WIDEST)}"


def _tile(image: StoredImage, search_request: SearchRequest, best: float | None, links: Links) -> Tile:
    similarity = image.similarity if isinstance(image, Hit) else None
    bar = None
    if similarity is not None and best is not None:
        bar = round(100 * min(max(similarity / best, 0.0), 1.0)) if best > 0 else 0
    if isinstance(image, Hit) and image.relevance is not None:
        bar = round(100 * image.relevance)
    return Tile(
        id=image.id,
        href=url_for("pages.image", image_id=image.id, **search_request.args()),
        like=url_for("pages.index", **search_request.elsewhere(like=(image.id,))),
        thumbnail=links.thumbnail(image),
        caption=printable(image.description or "") or name_of(image),
        alt=alt_of(image),
        shape=shape_of(image.width, image.height),
        width=max(image.width or UNKNOWN_SIDE, 1),
        height=max(image.height or UNKNOWN_SIDE, 1),
        colour=image.colour,
        similarity=similarity,
        bar=bar,
        video=_tile_time(image) if is_frame(image) else None,
    )


def _tile_time(image: StoredImage) -> TileTime:
    length = duration_of(image)
    moments = image.moments if isinstance(image, Hit) else None
    return TileTime(
        time=clock(time_of(image), whole=True),
        length=None if length is None else clock(length, whole=True),
        more=(moments or 1) - 1,
    )
