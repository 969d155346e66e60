"""Runs a page's search, and tells what lies around: the pages before and after, a picture's neighbours, its likes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flask import url_for

from searchdb.errors import ModelError
from searchdb.records import Hit
from searchdb.search.searcher import MAX_HITS, Searcher
from searchdb.search.to_sql import search_to_sql

from ..backend import backend
from .search_request import PAGE_SIZE, SearchRequest
from .tiles import Tile, make_tiles

log = logging.getLogger(__name__)

SIMILAR_SIZE = 12
WEAK_RELEVANCE = 0.3
"""Where not one hit is more relevant, nothing here seems to look much like what was asked for."""


@dataclass(frozen=True, kw_only=True)
class SearchResults:
    """One page of hits, best first, and where the pages around it are.

    `weak` when not even the best hit is relevant. Else `weaker` is the place on this page from which on hits are no
    longer, None where that lies elsewhere.
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
    """The search that a picture was opened from: the hit that it is there, and its neighbours."""

    hit: Hit | None
    back_url: str
    previous_url: str | None
    next_url: str | None


def find(searcher: Searcher, ask: SearchRequest) -> SearchResults:
    """Return the page of hits that is asked for."""
    # One hit more on either side tells whether there is a next page, and whether the weaker matches begin here.
    before, found = _with_neighbours(searcher, ask)
    hits = found[before : before + PAGE_SIZE]
    top = found[:1] if ask.page == 1 else search(searcher, ask, count=1)
    return SearchResults(
        tiles=make_tiles(hits, ask=ask, best=top[0].similarity if top else None),
        hits=hits,
        first=ask.offset + 1,
        weak=bool(top) and _weak(top[0]),
        weaker=_weaker(found, before),
        url=_index_url(ask),
        previous_url=_index_url(replace(ask, page=ask.page - 1)) if ask.page > 1 else None,
        next_url=_index_url(replace(ask, page=ask.page + 1)) if len(found) > before + PAGE_SIZE else None,
    )


def search(
    searcher: Searcher, ask: SearchRequest, *, count: int, offset: int = 0, threshold: float | None = None
) -> Sequence[Hit]:
    """Return hits of what is asked for, those of any relevance where a `threshold` is given."""
    return searcher.search(
        ask.query(backend().model().embedder.identity),
        filters=ask.filters,
        threshold=ask.least if threshold is None else threshold,
        min_relevance=ask.min_relevance or 0.0 if threshold is None else 0.0,
        count=count,
        offset=offset,
    )


def as_sql(ask: SearchRequest) -> str:
    """Return the SQL that gives the hits up to the end of this page."""
    query = ask.query(backend().model().embedder.identity)
    return search_to_sql(query, ask.filters, threshold=ask.least, count=ask.offset + PAGE_SIZE)


def trail_of(searcher: Searcher, ask: SearchRequest, image_id: int) -> Trail | None:
    """Run the search again that the picture was opened from; its vectors are cached, so that this is one index scan."""
    if ask.empty:
        return None
    try:
        before, found = _with_neighbours(searcher, ask)
    except ModelError as exc:  # the picture can be shown all the same
        log.warning("%s", exc)
        return None
    ids = [hit.id for hit in found]
    at = ids.index(image_id) if image_id in ids else None

    def neighbour(step: int) -> str | None:
        if at is None or not 0 <= at + step < len(ids):
            return None
        page = ask.page + (at + step - before) // PAGE_SIZE
        return url_for("pages.picture", image_id=ids[at + step], **ask.args(page=page))

    return Trail(
        hit=None if at is None else found[at],
        back_url=url_for("pages.index", **ask.args(), _anchor=f"picture-{image_id}"),
        previous_url=neighbour(-1),
        next_url=neighbour(1),
    )


def similar_to(searcher: Searcher, ask: SearchRequest, image_id: int) -> Sequence[Tile]:
    """Return the pictures most like one, within the filters of the search that it was opened from."""
    like = SearchRequest(like=image_id, filters=ask.filters)
    try:
        hits = search(searcher, like, count=SIMILAR_SIZE)
    except ModelError as exc:
        log.warning("%s", exc)
        return ()
    return make_tiles(hits, ask=like, best=hits[0].similarity if hits else None)


def _with_neighbours(searcher: Searcher, ask: SearchRequest) -> tuple[int, Sequence[Hit]]:
    """Return the hits of a page with the one before and the one after it, and how many come before: 0 or 1."""
    before = 1 if ask.page > 1 else 0
    offset = ask.offset - before
    count = min(before + PAGE_SIZE + 1, MAX_HITS - offset)
    return before, search(searcher, ask, count=count, offset=offset)


def _weaker(found: Sequence[Hit], before: int) -> int | None:
    """Return the place on the page where relevance drops for good, which it does only where order follows the text."""
    if any(hit.parts for hit in found):
        return None
    place = next((place for place, hit in enumerate(found) if _weak(hit)), 0)
    shown = before <= place < before + PAGE_SIZE
    return place - before if place > 0 and shown else None


def _weak(hit: Hit) -> bool:
    return hit.relevance is not None and hit.relevance < WEAK_RELEVANCE


def _index_url(ask: SearchRequest) -> str:
    return url_for("pages.index", **ask.args())
