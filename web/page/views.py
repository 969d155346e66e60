"""The pages: the box with its results, and one picture with all that is known of it."""

from __future__ import annotations

from dataclasses import replace

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from PIL import Image

from searchdb.errors import FileUnreadableError, InvalidReferenceError, NotAnImageError
from searchdb.records import StoredImage

from ..backend import backend
from ..files.images import NOT_SHOWN_BY_BROWSERS, is_url, open_picture
from ..files.uploads import picture_at, picture_of_upload, vector_of
from ..problems import about
from ..vector_param import to_text
from .filter_panel import choices
from .search_request import SearchRequest
from .search_results import as_sql, find, search, similar_to, trail_of
from .tiles import alt_of, format_datetime, host_of, make_tiles, name_of, shape_of, thumbnail_url

blueprint = Blueprint("pages", __name__)

SAMPLE_SIZE = 24
FORM_BYTES = 256 * 1024
"""What the fields beside an uploaded picture may take: the longest text, and a hundred filters."""
EXAMPLES = (
    "a dog sitting on a bench",
    "a boat at sunset",
    "red flowers in a meadow",
    "snow and mountains",
    "the city at night",
    "something that feels lonely",
)
"""What to ask, for those who do not know yet: things, places, light, and a mood."""


@blueprint.app_context_processor
def _limits() -> dict[str, object]:
    return {"largest_upload": backend().settings.max_image_bytes}


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Show the results of what the query string asks for; without it, what the collection has and what to ask."""
    ask = SearchRequest.from_args(request.args)
    searcher = backend().searcher
    count = searcher.count()
    if count == 0:
        return render_template("empty.html", ask=ask, count=count)
    offered = choices(ask, backend().facets())
    model = backend().model()
    if ask.empty:
        model.start()
        tiles = make_tiles(searcher.sample(SAMPLE_SIZE), ask=ask)
        return render_template("home.html", ask=ask, count=count, examples=EXAMPLES, tiles=tiles, choices=offered)
    model.wait()
    liked = None if ask.like is None else searcher.get(ask.like)
    results = find(searcher, ask)
    nearest = None
    if not results.hits:
        nearest = next(iter(search(searcher, replace(ask, page=1), count=1, threshold=-1)), None)
    return render_template(
        "results.html",
        ask=ask,
        count=count,
        results=results,
        liked=None if liked is None else make_tiles([liked], ask=ask)[0],
        nearest=nearest,
        choices=offered,
        sql=as_sql(ask) if results.hits else None,
    )


@blueprint.post("/search")
def search_by_picture() -> ResponseReturnValue:
    """Turn a picture that is uploaded, or named by its URL, into the address of a search; keep nothing of it."""
    request.max_content_length = backend().settings.max_image_bytes + FORM_BYTES
    ask = SearchRequest.from_args(request.form)
    with about("picture"):
        picture = _brought()
    vector = to_text(vector_of(picture), backend().model().embedder.identity)
    return redirect(url_for("pages.index", **replace(ask, vector=vector, page=1).args()), 303)


@blueprint.get("/random")
def surprise() -> ResponseReturnValue:
    """Lead to any picture."""
    found = backend().searcher.sample(1)
    target = url_for("pages.picture", image_id=found[0].id) if found else url_for("pages.index")
    return redirect(target, 303), {"Cache-Control": "no-store"}


@blueprint.get("/images/<id:image_id>")
def picture(image_id: int) -> ResponseReturnValue:
    """Show one picture, and where it came from a search, its place there."""
    ask = SearchRequest.from_args(request.args)
    searcher = backend().searcher
    image = searcher.get(image_id)
    loaded = backend().model().loaded
    mimetype, gone = None, None
    if not is_url(image):
        try:
            with (opened := open_picture(image)).file:
                mimetype = opened.mimetype
        except (FileUnreadableError, NotAnImageError) as exc:
            gone = str(exc)
    trail = trail_of(searcher, ask, image_id) if loaded else None
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
        day=format_datetime,
        trail=trail,
        sql=as_sql(ask) if trail and trail.hit else None,
        similar=similar_to(searcher, ask, image_id) if loaded else (),
        choices=choices(ask, backend().facets()),
    )


def _brought() -> Image.Image:
    """Return the RGB picture that a form brings.

    Raises:
        ImageError: it brings none, or none that can be read.
    """
    upload, url = request.files.get("picture"), request.form.get("url", "").strip()
    if upload is not None and upload.filename:
        return picture_of_upload(upload)
    if url:
        return picture_at(url)
    raise InvalidReferenceError("no picture was chosen, and none named by its address")


def _file_url(image: StoredImage) -> str:
    return url_for("images.file", image_id=image.id)
