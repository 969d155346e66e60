"""Endpoints for single images: look up, add, remove, and random images."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from flask import Response, current_app, url_for
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from werkzeug.datastructures import FileStorage

from searchdb.index.rebuild import BackgroundRebuilder, rebuild_if_stale
from searchdb.ingest.adder import SOURCE, Adder, Addition
from searchdb.records import SourceItem

from ..backend import backend
from ..files.uploads import MEMORY_WAIT_S, hold_file, read_file
from ..problems import image_field
from ..slots import waiting_time
from .openapi import TOKEN, example, operation_id, request_body, responses
from .parsing import JSON, authorised, body_type, checked, read_form, read_json
from .requests import AddBody, ImagePath, Metadata, RandomParameters
from .responses import Image, RandomAnswer, image_response, json_response

blueprint = APIBlueprint("images", __name__, abp_tags=[Tag(name="Images")], operation_id_callback=operation_id)

REBUILDER = "searchdb.rebuilder"
"""Key of the BackgroundRebuilder in `app.extensions`."""
MAX_FILE_NAME_CHARACTERS = 200
"""Longest file name of an upload that is stored, for display."""


@blueprint.get(
    "/images/<image_id>",
    responses=responses(404, ok=Image),
    openapi_extensions=example("curl '{server}/api/images/1'"),
)
@checked
def get_image(path: ImagePath) -> Response:
    """Look up a stored image."""
    return json_response(image_response(backend().get(path.image_id)))


@blueprint.post(
    "/images",
    security=TOKEN,
    responses=responses(401, 403, body=True, ok=Image, created=Image),
    openapi_extensions={
        **request_body(AddBody, Metadata, "image"),
        **example(
            "curl '{server}/api/images' -H \"Authorization: Bearer $SEARCHDB_API_TOKEN\" \\\n"
            "  -F image=@boat.jpg -F description='A boat at sunset' -F tags=sea -F tags=evening"
        ),
    },
)
@authorised
@checked
def add_image() -> Response:
    """Add an image.

    Status 201: the image is stored, and searches find it from now on. Status 200: an image with the same bytes or the
    same URL was stored before; it is returned unchanged. Uploaded files are stored on this server; images at URLs are
    not copied.
    """
    adder = _adder()
    if body_type() == JSON:
        body = read_json(AddBody)
        with hold_file() as hold, image_field("url"), backend().slots.uploads:
            added = adder.add_url(_item(body, image=body.url, metadata=body.metadata), hold)
    else:
        body, (upload,) = read_form(Metadata, "image")
        metadata = {**_own_name(upload), **body.metadata}
        with hold_file() as hold, image_field("image"), backend().slots.uploads:
            added = adder.add(read_file(upload, hold), _item(body, image="", metadata=metadata))
    return _response(added)


@blueprint.delete(
    "/images/<image_id>",
    security=TOKEN,
    responses=responses(401, 403, 404, deleted=None),
    openapi_extensions=example(
        "curl -X DELETE '{server}/api/images/1' -H \"Authorization: Bearer $SEARCHDB_API_TOKEN\""
    ),
)
@authorised
@checked
def remove_image(path: ImagePath) -> Response:
    """Remove an image from the collection.

    An uploaded file is deleted with it. A file that was ingested from a folder is not deleted, and the next ingest of
    that folder adds it again.
    """
    removed = _adder().remove(path.image_id)
    if removed.sha256 is not None:
        backend().thumbnails.forget(removed.sha256)
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response


@blueprint.get(
    "/random",
    responses=responses(ok=RandomAnswer),
    openapi_extensions=example("curl '{server}/api/random?count=3'"),
)
@checked
def random_images(query: RandomParameters) -> Response:
    """Return random images."""
    images = backend().searcher.sample(query.count)
    return json_response(RandomAnswer(images=[image_response(each) for each in images]))


def _adder() -> Adder:
    settings = backend().settings
    model = backend().model()
    model.wait()
    return Adder(
        engine=backend().database().engine,
        embedder=model.embedder,
        fetcher=backend().fetcher,
        uploads=backend().uploads,
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        memory=backend().memory,
        timeout_s=waiting_time(MEMORY_WAIT_S),
        cancel=backend().stopping,
        decoding=backend().slots.decodes,
    )


def _item(body: Metadata, *, image: str, metadata: dict[str, Any]) -> SourceItem:
    values = body.model_dump(exclude={"url", "metadata"})
    return SourceItem(**{**values, "image": image, "source": SOURCE, "metadata": metadata})


def _own_name(upload: FileStorage) -> dict[str, str]:
    """Return the client's file name as metadata, without folders and unprintable characters."""
    name = (upload.filename or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in name if character.isprintable()).strip()[:MAX_FILE_NAME_CHARACTERS]
    return {"name": name} if name.strip(".") else {}


def _response(added: Addition) -> Response:
    response = json_response(image_response(added.image), 201 if added.created else 200)
    response.headers["Location"] = url_for(".get_image", image_id=added.image.id)
    if added.created:
        model, recall = backend().model(), backend().settings.recall
        rebuild = partial(rebuild_if_stale, cache=lambda: model.query_cache, target=recall)
        cast(BackgroundRebuilder, current_app.extensions[REBUILDER]).request(backend().database().engine, rebuild)
    return response
