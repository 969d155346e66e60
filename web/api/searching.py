"""Search endpoints: by text, by a stored image, by an image in the request, or by a combination."""

from __future__ import annotations

from typing import Any

import numpy as np
from flask import Response, url_for
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from searchdb.search.filter_table import PUBLIC_FILTERS
from searchdb.search.filters import Filters
from searchdb.search.searcher import MAX_HITS, Query

from ..backend import backend
from ..background_model import BackgroundModel
from ..files.uploads import embed_query_image, fetch_query_image, read_upload
from ..problems import image_field
from ..search_url import checked_search_url
from ..vector_param import from_text, placeholder, to_text
from .openapi import example, operation_id, request_body, responses
from .parsing import JSON, body_type, checked, read_form, read_json
from .requests import Narrowing, SearchBody, SearchParameters
from .responses import Links, SearchAnswer, hit_response, json_response

blueprint = APIBlueprint("searching", __name__, abp_tags=[Tag(name="Searching")], operation_id_callback=operation_id)


@blueprint.get(
    "/search",
    responses=responses(404, ok=SearchAnswer),
    openapi_extensions=example("curl '{server}/api/search?q=a+boat+at+sunset&not=people&country=Chile&count=3'"),
)
@checked
def search(query: SearchParameters) -> Response:
    """Search by text, by stored images, or by both.

    At least one of `q`, `like` and `vector` is required; several are combined, and `text_weight` shifts the balance.
    Repeat a filter, `like` or `unlike` to give it several values: `tag=sea&tag=night`, `like=12&like=31`.
    Each frame of a video is a hit; `one_per_video=true` returns only the best one of each video.
    """
    checked_search_url(_url(query, query.vector, MAX_HITS))
    vector = None if query.vector is None else from_text(query.vector, _ready().embedder.identity)
    return _page(query, vector, query.vector)


@blueprint.post(
    "/search",
    responses=responses(404, body=True, ok=SearchAnswer),
    openapi_extensions={
        **request_body(SearchBody, Narrowing, "image"),
        **example("curl '{server}/api/search' -F image=@holiday.jpg -F q='the same in winter' -F count=3"),
    },
)
@checked
def search_by_image() -> Response:
    """Search by an image, optionally combined with text.

    The image is not stored. The response's `vector` replaces it in further searches, and `next` contains it, so the
    image need not be sent again.
    """
    model = _ready().embedder.identity
    if body_type() == JSON:
        body = read_json(SearchBody)
        checked_search_url(_url(body, placeholder(model), MAX_HITS))
        with image_field("url"):
            query_image = fetch_query_image(body.url)
    else:
        body, (upload,) = read_form(Narrowing, "image")
        checked_search_url(_url(body, placeholder(model), MAX_HITS))
        with image_field("image"):
            query_image = read_upload(upload)
    text = to_text(embed_query_image(query_image), model)
    # The text rounds the vector: search by the rounded one, as the next page does.
    return _page(body, from_text(text, model), text)


def _page(query: Narrowing, vector: np.ndarray | None, text: str | None) -> Response:
    # Stored images can be compared without the model, even if it is not available.
    needs_model = query.q is not None or query.exclude is not None or vector is not None
    searcher = backend().searcher_with(_ready()) if needs_model else backend().searcher
    end = query.offset + query.count
    hits = searcher.search(
        Query(
            text=query.q,
            vector=vector,
            like=query.like,
            unlike=query.unlike,
            exclude=query.exclude,
            text_weight=query.text_weight,
        ),
        filters=Filters(**{row.name: getattr(query, row.name) for row in PUBLIC_FILTERS}),
        threshold=query.threshold,
        min_relevance=query.min_relevance,
        # One more than shown, to know whether there is a next page.
        count=query.count + 1 if end < MAX_HITS else query.count,
        offset=query.offset,
        one_per_video=query.one_per_video,
    )
    shown, links = hits[: query.count], Links()
    more = len(hits) > query.count
    answer = SearchAnswer(
        hits=[hit_response(hit, links) for hit in shown],
        count=len(shown),
        offset=query.offset,
        next=_url(query, text, end) if more else None,
        vector=text,
    )
    return json_response(answer)


def _url(query: Narrowing, vector: str | None, offset: int) -> str:
    parameters: dict[str, Any] = query.model_dump(by_alias=True, exclude_defaults=True, exclude={"url"})
    if query.one_per_video:
        parameters["one_per_video"] = "true"
    return url_for(".search", **{**parameters, "vector": vector, "offset": offset})


def _ready() -> BackgroundModel:
    """Return the model once it is loaded."""
    model = backend().model()
    model.wait()
    return model
