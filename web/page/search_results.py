"""Runs the search of a results page; finds an image's neighbours in the results, and similar images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flask import url_for

from searchdb.errors import ModelError
from searchdb.records import Hit, ModelIdentity, StoredImage
from searchdb.search.searcher import MAX_HITS, Searcher
from searchdb.search.to_sql import search_to_sql

from ..backend import backend
from ..files.frames import is_frame
from .search_request import PAGE_SIZE, SearchRequest
from .tiles import Tile, make_tiles

log = logging.getLogger(__name__)

SIMILAR_SIZE = 12
WEAK_RELEVANCE = 0.3
"""Relevance below which a hit is a weak match; if the best hit is weak, the page says so."""


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """One page of hits, best first, and the URLs of the pages around it.

    `first` is the rank of the first hit. `weak` is set if even the best hit has a low relevance. Otherwise `weaker` is
    the position on this page from which on all hits have a low relevance, None if there is none on this page.
    """

    tiles: Sequence[Tile]
    hits: Sequence[Hit]
    first: int
    weak: bool
    weaker: int | None
    url: str
    previous_url: str | None
    next_url: str | None

    @property
    def last(self) -> int:
        """Rank of the last hit on this page."""
        return self.first + len(self.hits) - 1


@dataclass(frozen=True, kw_only=True)
class Trail:
    """The search that an image was opened from: the image's hit, and the URLs of its neighbours."""

    hit: Hit | None
    back_url: str
    previous_url: str | None
    next_url: str | None


def search_page(searcher: Searcher, search_request: SearchRequest) -> SearchResults:
    """Return the requested page of hits."""
    # One more hit on either side shows whether there is a next page, and whether the weaker matches begin on this page.
    before, hits_around = _with_neighbours(searcher, search_request)
    hits = hits_around[before : before + PAGE_SIZE]
    best = hits_around[:1] if search_request.page == 1 else search(searcher, search_request, count=1)
    return SearchResults(
        tiles=make_tiles(hits, search_request=search_request, best=best[0].similarity if best else None),
        hits=hits,
        first=search_request.offset + 1,
        weak=bool(best) and _weak(best[0]),
        weaker=_weaker(hits_around, before),
        url=_index_url(search_request),
        previous_url=_index_url(replace(search_request, page=search_request.page - 1))
        if search_request.page > 1
        else None,
        next_url=_index_url(replace(search_request, page=search_request.page + 1))
        if len(hits_around) > before + PAGE_SIZE
        else None,
    )


def search(
    searcher: Searcher, search_request: SearchRequest, *, count: int, offset: int = 0, threshold: float | None = None
) -> Sequence[Hit]:
    """Return the hits of a search; `threshold` replaces the requested threshold and drops the minimum relevance."""
    return searcher.search(
        search_request.query(_identity),
        filters=search_request.filters,
        threshold=search_request.least if threshold is None else threshold,
        min_relevance=search_request.min_relevance or 0.0 if threshold is None else 0.0,
        count=count,
        offset=offset,
        one_per_video=True,
    )


def sql_of_search(searcher: Searcher, search_request: SearchRequest) -> str:
    """Return the SQL that returns the hits up to the end of this page."""
    query = search_request.query(_identity)
    return search_to_sql(
        query,
        search_request.filters,
        weights=searcher.weights(query),
        threshold=search_request.least,
        count=search_request.offset + PAGE_SIZE,
        one_per_video=searcher.has_videos(),
        dimension=searcher.dimension(),
    )


def _identity() -> ModelIdentity:
    return backend().model().embedder.identity


def search_trail(searcher: Searcher, search_request: SearchRequest, image: StoredImage) -> Trail | None:
    """Repeat the search that an image was opened from; the vectors are cached, so this costs one index scan.

    Any frame of a video has the place of the video's best one.
    """
    if search_request.empty:
        return None
    try:
        before, hits_around = _with_neighbours(searcher, search_request)
    except ModelError as exc:  # the image can be shown without its neighbours
        log.warning("%s", exc)
        return None
    ids = [hit.id for hit in hits_around]
    at = next((place for place, hit in enumerate(hits_around) if _is_hit(image, hit)), None)

    def neighbour(step: int) -> str | None:
        if at is None or not 0 <= at + step < len(ids):
            return None
        page = search_request.page + (at + step - before) // PAGE_SIZE
        return url_for("pages.image", image_id=ids[at + step], **search_request.args(page=page))

    return Trail(
        hit=hits_around[at] if at is not None and ids[at] == image.id else None,
        back_url=url_for(
            "pages.index", **search_request.args(), _anchor=f"image-{image.id if at is None else ids[at]}"
        ),
        previous_url=neighbour(-1),
        next_url=neighbour(1),
    )


def _is_hit(image: StoredImage, hit: Hit) -> bool:
    return hit.id == image.id or (is_frame(image) and hit.video == image.video)


def similar_tiles(searcher: Searcher, search_request: SearchRequest, image_id: int) -> Sequence[Tile]:
    """Return the images most similar to one, within the filters of the search that it was opened from."""
    like = SearchRequest(like=(image_id,), filters=search_request.filters)
    try:
        hits = search(searcher, like, count=SIMILAR_SIZE)
    except ModelError as exc:
        log.warning("%s", exc)
        return ()
    return make_tiles(hits, search_request=like, best=hits[0].similarity if hits else None)


def _with_neighbours(searcher: Searcher, search_request: SearchRequest) -> tuple[int, Sequence[Hit]]:
    """Return how many hits precede the page (0 or 1), and its hits with the ones before and after it."""
    before = 1 if search_request.page > 1 else 0
    offset = search_request.offset - before
    count = min(before + PAGE_SIZE + 1, MAX_HITS - offset)
    return before, search(searcher, search_request, count=count, offset=offset)


def _weaker(hits_around: Sequence[Hit], before: int) -> int | None:
    """Return the position from which on all matches are weak; None for combined queries.

    Combined queries are not ordered by the relevance to their text. Those of a text alone nearly are.
    """
    if any(hit.parts for hit in hits_around):
        return None
    place = max((place + 1 for place, hit in enumerate(hits_around) if not _weak(hit)), default=0)
    shown = before <= place < min(before + PAGE_SIZE, len(hits_around))
    return place - before if place > 0 and shown else None


def _weak(hit: Hit) -> bool:
    return hit.relevance is not None and hit.relevance < WEAK_RELEVANCE


def _index_url(search_request: SearchRequest) -> str:
    return url_for("pages.index", **search_request.args())
