"""Tells the model of the collection, and embeds texts or images with it for other programs."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from searchdb.media.memory import Hold

from .. import work_limit
from ..backend import backend
from ..background_model import BackgroundModel
from ..errors import model_label
from ..files.uploads import decode_query_image, hold_file, read_file
from ..problems import image_field
from .openapi import example, operation_id, request_body, responses
from .parsing import JSON, body_type, checked, invalid, read_form, read_json
from .requests import MAX_IMAGES, EmbeddingsBody, Nothing
from .responses import EmbeddingsAnswer, ModelAnswer, json_response

_SPACE = re.compile(r"\s")

blueprint = APIBlueprint("embedding", __name__, abp_tags=[Tag(name="Embeddings")], operation_id_callback=operation_id)


@blueprint.get(
    "/model",
    responses=responses(ok=ModelAnswer),
    openapi_extensions=example("curl '{server}/api/model'"),
)
@checked
def model() -> Response:
    """Look up the model, whose vectors searches compare, and how many numbers they have.

    Both change when the collection is switched to another model.
    """
    return json_response(ModelAnswer(model=model_label(backend().model().name), dimension=backend().dimension()))


@blueprint.post(
    "/embeddings",
    responses=responses(body=True, ok=EmbeddingsAnswer),
    openapi_extensions={
        **request_body(EmbeddingsBody, Nothing, "images", most=MAX_IMAGES),
        **example(
            "curl '{server}/api/embeddings' -H 'Content-Type: application/json' \\\n"
            '  -d \'{"texts": ["a boat at sunset", "snow"]}\''
        ),
    },
)
@checked
def embed() -> Response:
    """Embed texts or images.

    Give either `texts` or `images`. Nothing is stored.
    """
    with hold_file() as hold:
        return _embed(hold)


def _embed(hold: Hold) -> Response:
    texts: list[str] | None = None
    if body_type() == JSON:
        body = read_json(EmbeddingsBody, hold)
        if (body.texts is None) == (body.images is None):
            raise invalid("body", "must have either texts or images")
        texts, files, count = body.texts, _decoded(body.images or ()), len(body.images or ())
    else:
        _, uploads = read_form(Nothing, "images", most=MAX_IMAGES)
        files, count = (read_file(upload, hold) for upload in uploads), len(uploads)
    work_limit.reserve(count)  # all of them before the first is decoded
    used = backend().model()
    used.wait()
    with backend().slots.embeddings:
        vectors = used.query_cache.compute(texts).tolist() if texts is not None else _embedded(files, used)
    # model_construct skips the validation of every number: they come from the model.
    identity = used.embedder.identity
    answer = EmbeddingsAnswer.model_construct(
        model=model_label(identity.name), dimension=identity.dimension, embeddings=vectors
    )
    return json_response(answer)


def _embedded(files: Iterable[bytes], model: BackgroundModel) -> list[list[float]]:
    vectors = []
    for number, data in enumerate(files):
        with image_field(f"images.{number}"):
            query_image = decode_query_image(data)
        vectors += model.embedder.embed_images([query_image]).tolist()
    return vectors


def _decoded(texts: Iterable[str]) -> Iterator[bytes]:
    for number, text in enumerate(texts):
        try:
            yield base64.b64decode("".join(text.split()) if _SPACE.search(text) else text, validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"images.{number}", "is not base64") from None
