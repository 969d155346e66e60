"""The pages: the box with its results, and one picture with all that is known of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, render_template, request, url_for
from flask.typing import ResponseReturnValue

from searchdb.errors import FileUnreadableError, ModelError, NotAPictureError
from searchdb.records import Hit, StoredImage
from searchdb.search import MAX_HITS, Query, Searcher
from web.asking import PAGE_SIZE, Ask
from web.collection import collection
from web.images import NOT_SHOWN_BY_BROWSERS, is_url, open_picture
from web.tiles import Tile, alt_of, day_of, host_of, make_tiles, name_of, shape_of, thumbnail_url

blueprint = Blueprint("pages", __name__)
log = logging.getLogger(__name__)

SAMPLE_SIZE = 24
SIMILAR_SIZE = 10
WEAK_RELEVANCE = 0.3
"""Where not one hit is more relevant, nothing here seems to look much like what was asked for."""
EXAMPLES = (
    "a dog sitting on a bench",
    "a boat at sunset",
    "red flowers in a meadow",
    "snow and mountains",
    "the city at night",
    "something that feels lonely",
)
"""What to ask, for those who do not know yet: things, places, light, and a mood."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """One page of hits, best first, and where the pages around it are."""

    tiles: Sequence[Tile]
    hits: Sequence[Hit]
    first: int
    weak: bool
    previous_url: str | None
    next_url: str | None

    @property
    def last(self) -> int:
        """Rank of the last hit on this page."""
        return self.first + len(self.hits) - 1


@dataclass(frozen=True, kw_only=True)
class Trail:
    """The search that a picture was opened from: the hit that it is there, and its neighbours on that page."""

    hit: Hit | None
    back_url: str
    previous_url: str | None
    next_url: str | None


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Show the results of what the query string asks for; without it, what the collection has and what to ask."""
    ask = Ask.from_args(request.args)
    searcher = collection().searcher
    count = searcher.count()
    if count == 0:
        return render_template("empty.html", ask=ask, count=count)
    model = collection().model()
    if ask.empty:
        model.start()
        tiles = make_tiles(searcher.sample(SAMPLE_SIZE), link={})
        facets = collection().facets()
        return render_template("home.html", ask=ask, count=count, examples=EXAMPLES, tiles=tiles, facets=facets)
    model.wait()
    liked = None if ask.like is None else searcher.get(ask.like)
    results = _results(searcher, ask)
    nearest = None
    if not results.hits:
        nearest = next(iter(searcher.search(ask.query, filters=ask.filters, threshold=-1, count=1)), None)
    return render_template(
        "results.html",
        ask=ask,
        count=count,
        results=results,
        liked=None if liked is None else make_tiles([liked], link={})[0],
        nearest=nearest,
        facets=collection().facets(),
    )


@blueprint.get("/images/<id:image_id>")
def picture(image_id: int) -> ResponseReturnValue:
    """Show one picture, and where it came from a search, its place there."""
    ask = Ask.from_args(request.args)
    searcher = collection().searcher
    image = searcher.get(image_id)
    loaded = collection().model().loaded
    mimetype, gone = None, None
    if not is_url(image):
        try:
            with (opened := open_picture(image)).file:
                mimetype = opened.mimetype
        except (FileUnreadableError, NotAPictureError) as exc:
            gone = str(exc)
    return render_template(
        "picture.html",
        ask=ask,
        image=image,
        name=name_of(image),
        alt=alt_of(image),
        shape=shape_of(image.width, image.height),
        gone=gone,
        shown_url=thumbnail_url(image) if mimetype in NOT_SHOWN_BY_BROWSERS else _file_url(image),
        file_url=_file_url(image),
        host=host_of(image),
        day=day_of,
        trail=_trail(searcher, ask, image_id) if loaded else None,
        similar=_similar(searcher, image_id) if loaded else (),
    )


def _file_url(image: StoredImage) -> str:
    return url_for("images.file", image_id=image.id)


def _results(searcher: Searcher, ask: Ask) -> Results:
    # One hit more than is shown tells whether there is a next page.
    count = min(PAGE_SIZE + 1, MAX_HITS - ask.offset)
    found = _search(searcher, ask, count=count, offset=ask.offset)
    hits = found[:PAGE_SIZE]
    top = hits if ask.page == 1 else _search(searcher, ask, count=1)
    best = top[0].similarity if top else None
    more = len(found) > PAGE_SIZE
    return Results(
        tiles=make_tiles(hits, link=ask.args(), best=best),
        hits=hits,
        first=ask.offset + 1,
        weak=bool(top) and top[0].relevance is not None and top[0].relevance < WEAK_RELEVANCE,
        previous_url=_index_url(ask, page=ask.page - 1) if ask.page > 1 else None,
        next_url=_index_url(ask, page=ask.page + 1) if more else None,
    )


def _search(searcher: Searcher, ask: Ask, *, count: int, offset: int = 0) -> list[Hit]:
    return searcher.search(
        ask.query,
        filters=ask.filters,
        threshold=ask.least,
        min_relevance=ask.min_relevance or 0.0,
        count=count,
        offset=offset,
    )


def _index_url(ask: Ask, *, page: int) -> str:
    return url_for("pages.index", **ask.args(page=page))


def _trail(searcher: Searcher, ask: Ask, image_id: int) -> Trail | None:
    """Run the search again that the picture was opened from; its vectors are cached, so that this is one index scan."""
    if ask.empty:
        return None
    try:
        hits = _search(searcher, ask, count=PAGE_SIZE, offset=ask.offset)
    except ModelError as exc:  # the picture can be shown all the same
        log.warning("%s", exc)
        return None
    ids = [hit.id for hit in hits]
    at = ids.index(image_id) if image_id in ids else None

    def neighbour(step: int) -> str | None:
        if at is None or not 0 <= at + step < len(ids):
            return None
        return url_for("pages.picture", image_id=ids[at + step], **ask.args())

    return Trail(
        hit=None if at is None else hits[at],
        back_url=url_for("pages.index", **ask.args(), _anchor=f"picture-{image_id}"),
        previous_url=neighbour(-1),
        next_url=neighbour(1),
    )


def _similar(searcher: Searcher, image_id: int) -> Sequence[Tile]:
    try:
        hits = searcher.search(Query(like=image_id), count=SIMILAR_SIZE)
    except ModelError as exc:
        log.warning("%s", exc)
        return ()
    ask = Ask(like=image_id)
    return make_tiles(hits, link=ask.args(), best=hits[0].similarity if hits else None)
