"""Describes the video of a frame for the frame's page: the player, and the strip of the video's moments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flask import url_for

from searchdb.clock import clock, time_fragment
from searchdb.errors import ModelError
from searchdb.records import StoredImage
from searchdb.search.moments import Moment
from searchdb.search.searcher import Searcher

from ..backend import backend, raise_if_switched
from ..files.frames import codec_of, duration_of, time_of
from ..files.links import Links
from .search_request import SearchRequest

log = logging.getLogger(__name__)

STRIP_SIZE = 36
"""Moments on a page: a few screens of the strip, and fewer thumbnails than a page of results. Of more, those around the
shown one are listed with the best; each leads to the ones around itself."""
BEST_MARKED = 3
"""Moments that are marked as the best for a search; of fewer than twice as many only the best one."""


@dataclass(frozen=True, kw_only=True)
class StripMoment:
    """One moment of the strip: its page and picture, and whether it is the shown one or one of the best."""

    id: int
    href: str
    thumbnail: str
    time: str
    current: bool
    best: bool


@dataclass(frozen=True, kw_only=True)
class VideoOnPage:
    """The video of a frame: where it starts, its length, and its moments in time order.

    `count` is the number of all its moments. `similarity` is that of the shown one to the search, if there is one.
    """

    start: str
    time: str
    length: str | None
    codec: str | None
    count: int
    moments: Sequence[StripMoment]
    similarity: float | None


def video_on_page(
    searcher: Searcher, search_request: SearchRequest, image: StoredImage, *, compared: bool
) -> VideoOnPage | None:
    """Return what the page of a frame shows of its video, None for an image.

    Args:
        searcher: of the collection.
        search_request: the search that the frame was opened from.
        image: a stored image.
        compared: whether the moments may be compared with the search, which needs the model.
    """
    if image.video is None:
        return None
    moments = _moments(searcher, search_request if compared else SearchRequest(), image.video)
    best = _best(moments)
    links = Links()
    length = duration_of(image)
    return VideoOnPage(
        start=time_fragment(time_of(image)),
        time=clock(time_of(image)),
        length=None if length is None else clock(length),
        codec=codec_of(image),
        count=len(moments),
        moments=[
            StripMoment(
                id=each.id,
                href=url_for("pages.image", image_id=each.id, **search_request.args()),
                thumbnail=links.frame_thumbnail(each.id, image.sha256, each.time),
                time=clock(each.time),
                current=each.id == image.id,
                best=each.id in best,
            )
            for each in _around(moments, image.id, best)
        ],
        similarity=next((each.similarity for each in moments if each.id == image.id), None),
    )


def _moments(searcher: Searcher, search_request: SearchRequest, video: str) -> list[Moment]:
    if search_request.empty:
        return searcher.moments(video)
    try:
        return searcher.moments(video, search_request.query(backend().model().embedder))
    except ModelError as exc:  # they can be shown without marks
        raise_if_switched(exc)
        log.warning("%s", exc)
        return searcher.moments(video)


def _best(moments: Sequence[Moment]) -> set[int]:
    """Return the ids of the moments to mark: none without a search."""
    compared = [(-each.similarity, each.id) for each in moments if each.similarity is not None]
    if len(compared) < 2:
        return set()
    marked = BEST_MARKED if len(compared) >= 2 * BEST_MARKED else 1
    return {number for _, number in sorted(compared)[:marked]}


def _around(moments: Sequence[Moment], shown: int, best: set[int]) -> list[Moment]:
    """Return the moments around the shown one, and the best ones, in time order."""
    at = next((place for place, each in enumerate(moments) if each.id == shown), 0)
    first = max(min(at - STRIP_SIZE // 2, len(moments) - STRIP_SIZE), 0)
    return [each for place, each in enumerate(moments) if first <= place < first + STRIP_SIZE or each.id in best]
