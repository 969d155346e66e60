"""Serves the HTML pages: the start page, search results, and one image with its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from PIL import Image
from werkzeug.datastructures import MultiDict

from searchdb.errors import FileUnreadableError, InvalidReferenceError, NotAnImageError
from searchdb.records import StoredImage
from searchdb.search.filter_table import MAX_VALUE_CHARACTERS
from searchdb.search.filters import Filters
from searchdb.search.searcher import Searcher

from ..backend import backend
from ..files.images import NOT_SHOWN_BY_BROWSERS, format_shown, open_image_file
from ..files.links import Links, host_of, is_url, name_of
from ..files.recent_query_images import RecentImage
from ..files.uploads import embed_query_image, fetch_query_image, read_upload
from ..problems import image_field
from ..search_url import checked_search_url
from ..vector_param import placeholder, to_text
from .filter_panel import filter_panel
from .moments import video_on_page
from .search_request import SearchRequest
from .search_results import search, search_page, search_trail, similar_tiles, sql_of_search
from .tiles import Tile, alt_of, format_datetime, make_tiles, shape_of

blueprint = Blueprint("pages", __name__)

SAMPLE_SIZE = 24
SHOWN_EXAMPLES = 3
"""Liked or disliked images that the search box shows; of more it shows the number."""
FORM_BYTES = 256 * 1024
"""Size limit of the form fields besides an uploaded image: enough for the longest text and a hundred filters."""
EXAMPLES = (
    "a dog sitting on a bench",
    "a boat at sunset",
    "red flowers in a meadow",
    "snow and mountains",
    "the city at night",
    "something that feels lonely",
)
"""Example searches on the start page: things, places, light and a mood."""


@blueprint.app_context_processor
def _limits() -> dict[str, object]:
    return {"largest_upload": backend().settings.max_image_bytes}


@blueprint.get("/")
def index() -> ResponseReturnValue:
    """Show the results of a search, or without one the start page with sample images and example searches."""
    search_request = _with_current_vector(_search_request(request.args))
    searcher = backend().searcher
    count = searcher.count()
    if count.rows == 0:
        return render_template("empty.html", search=search_request, count=count)
    panel = filter_panel(search_request, backend().facets())
    model = backend().model()
    if search_request.empty:
        model.start()
        tiles = make_tiles(searcher.sample(SAMPLE_SIZE, one_per_video=True), search_request=search_request)
        return render_template(
            "home.html", search=search_request, count=count, examples=EXAMPLES, tiles=tiles, filter_panel=panel
        )
    if search_request.needs_model:
        model.wait()
    results = search_page(searcher, search_request)
    nearest = None
    if not results.hits:
        nearest = next(iter(search(searcher, replace(search_request, page=1), count=1, threshold=-1)), None)
    return render_template(
        "results.html",
        search=search_request,
        count=count,
        results=results,
        liked=_examples(searcher, search_request, search_request.like),
        disliked=_examples(searcher, search_request, search_request.unlike),
        nearest=nearest,
        filter_panel=panel,
        sql=sql_of_search(searcher, search_request) if results.hits else None,
    )


@blueprint.post("/search")
def search_by_image() -> ResponseReturnValue:
    """Redirect an uploaded image, or an image URL, to the search by its vector; the image is not stored."""
    has_file = request.mimetype == "multipart/form-data"  # any other form is read into memory as a whole
    request.max_content_length = FORM_BYTES + (backend().settings.max_image_bytes if has_file else 0)
    longest = placeholder(backend().dimension())
    search_request = replace(_search_request(request.form, vector=longest), vector=None)
    with image_field("image"):
        query_image = _image_of_form()
    model = backend().model().embedder.identity
    vector = to_text(embed_query_image(query_image), model)
    backend().check_model()  # the address must not have a vector of a model that the collection was switched from
    if backend().model_will_change:  # before the browser asks for that address, perhaps
        backend().recent_query_images.keep(vector, RecentImage(pixels=query_image, model=model))
    return redirect(url_for("pages.index", **replace(search_request, vector=vector, page=1).args()), 303)


@blueprint.get("/random")
def surprise() -> ResponseReturnValue:
    """Redirect to a random image."""
    sample = backend().searcher.sample(1)
    target = url_for("pages.image", image_id=sample[0].id) if sample else url_for("pages.index")
    return redirect(target, 303), {"Cache-Control": "no-store"}


@blueprint.get("/images/<id:image_id>")
def image(image_id: int) -> ResponseReturnValue:
    """Show one image, or a video from one of its frames on; and, if it was opened from a search, its place in that."""
    search_request = _with_current_vector(_search_request(request.args))
    searcher = backend().searcher
    image = searcher.get(image_id)
    usable = backend().model().usable or not search_request.needs_model
    mimetype, gone = None, None
    if not is_url(image):
        try:
            with (opened := open_image_file(image)).file:
                mimetype = opened.mimetype
        except (FileUnreadableError, NotAnImageError) as exc:
            gone = str(exc)
    name, file_url, unshown = name_of(image), _file_url(image), mimetype in NOT_SHOWN_BY_BROWSERS
    trail = search_trail(searcher, search_request, image) if usable else None
    return render_template(
        "image.html",
        search=search_request,
        image=image,
        name=name,
        alt=alt_of(image),
        shape=shape_of(image.width, image.height),
        gone=gone,
        shown_url=Links().preview(image) if unshown else file_url,
        file_url=file_url,
        unshown=format_shown(mimetype, name) if unshown and mimetype else None,
        host=host_of(image),
        folder_url=_folder_url(image),
        format_datetime=format_datetime,
        trail=trail,
        sql=sql_of_search(searcher, search_request) if trail and trail.hit else None,
        video=video_on_page(searcher, search_request, image, compared=usable),
        preview_url=Links().thumbnail(image),
        similar=similar_tiles(searcher, search_request, image_id),
        filter_panel=filter_panel(search_request, backend().facets()),
    )


def _search_request(arguments: MultiDict[str, str], **changes: str) -> SearchRequest:
    """Return the search that a URL or a form describes, with changes, as long as it fits into a URL.

    Raises:
        QueryError: it is malformed, or too long.
        ImageNotFoundError: an id in `like` or `unlike` is out of range.
    """
    search_request = replace(SearchRequest.from_args(arguments), **changes)
    checked_search_url(url_for("pages.index", **search_request.args()))
    return search_request


def _with_current_vector(search_request: SearchRequest) -> SearchRequest:
    """Return the search by the present model's vector, if the collection has just been switched and the image is kept.

    Raises:
        ServiceUnavailable, ModelError: as `BackgroundModel.wait`.
    """
    recent = backend().recent_query_images.get(search_request.vector or "")
    if recent is None:
        return search_request
    model = backend().model()
    model.wait()
    if model.embedder.identity.weights_sha256 == recent.model.weights_sha256:
        return search_request
    return replace(search_request, vector=to_text(embed_query_image(recent.pixels), model.embedder.identity))


def _examples(searcher: Searcher, search_request: SearchRequest, ids: Sequence[int]) -> Sequence[Tile]:
    """Return the first of the images that are liked or disliked."""
    images = [searcher.get(each) for each in ids[:SHOWN_EXAMPLES]]
    return make_tiles(images, search_request=search_request)


def _image_of_form() -> Image.Image:
    """Return the RGB image that was uploaded, or is at the URL in the form.

    Raises:
        ImageError: the form has no image, or it cannot be read.
    """
    upload, url = request.files.get("image"), request.form.get("url", "").strip()
    if upload is not None and upload.filename:
        return read_upload(upload)
    if url:
        return fetch_query_image(url)
    raise InvalidReferenceError("no image was chosen, and no URL was given")


def _folder_url(image: StoredImage) -> str | None:
    """Return the URL of the others in the same folder, the most similar first; None where a filter cannot name it."""
    if not image.folder or len(image.folder) > MAX_VALUE_CHARACTERS:
        return None
    others = SearchRequest(like=(image.id,), threshold=-1.0, filters=Filters(folder=image.folder))
    return url_for("pages.index", **others.args())


def _file_url(image: StoredImage) -> str:
    return url_for("images.file", image_id=image.id)
