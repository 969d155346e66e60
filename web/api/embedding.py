"""Embeddings for other programs: texts or images to the unit vectors that the collection's own come from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from ..backend import backend
from ..errors import model_label
from ..files.uploads import decode_query_image
from ..problems import image_field
from .openapi import example, operation_id, request_body, responses
from .parsing import JSON, body_type, checked, invalid, read_form, read_json
from .requests import MAX_IMAGES, EmbeddingsBody, Nothing
from .responses import EmbeddingsAnswer, json_response

blueprint = APIBlueprint("embedding", __name__, abp_tags=[Tag(name="Embeddings")], operation_id_callback=operation_id)


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
    """Turn texts or images into vectors.

    Either `texts` or `images` is given. Nothing of it is kept.
    """
    texts: list[str] | None = None
    if body_type() == JSON:
        body = read_json(EmbeddingsBody)
        if (body.texts is None) == (body.images is None):
            raise invalid("body", "has either texts or images")
        texts, files = body.texts, _decoded(body.images or ())
    else:
        _, uploads = read_form(Nothing, "images", most=MAX_IMAGES)
        most = backend().settings.max_image_bytes
        files = (upload.stream.read(most + 1) for upload in uploads)
    model = backend().model()
    model.wait()
    if texts is not None:
        vectors = model.query_cache.compute(texts).tolist()
    else:
        vectors = []
        for number, data in enumerate(files):
            with image_field(f"images.{number}"):
                query_image = decode_query_image(data)
            vectors += model.embedder.embed_images([query_image]).tolist()
    # Not checked number by number: they come from the model.
    said = EmbeddingsAnswer.model_construct(model=model_label(model.embedder.identity.name), embeddings=vectors)
    return json_response(said)


def _decoded(texts: Iterable[str]) -> Iterator[bytes]:
    for number, text in enumerate(texts):
        try:
            yield base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise invalid(f"images.{number}", "is not base64") from None
