"""Decodes and embeds the images that visitors upload or name by URL, within limits; none is stored."""

from __future__ import annotations

import numpy as np
from PIL import Image
from werkzeug.datastructures import FileStorage

from searchdb.errors import InvalidReferenceError, TooManyBytesError
from searchdb.media.decode import decode
from searchdb.records import FetchedImage, SourceItem, clean_url

from ..backend import backend


def decode_query_image(data: bytes) -> Image.Image:
    """Decode an image to RGB, at least as large as the model needs; waits until the model is loaded.

    Raises:
        ImageError: the data is not an image, or the image is too large.
        ModelError: the model cannot be loaded.
        ServiceUnavailable: too many other images are being decoded, or the model is not loaded in time.
    """
    settings = backend().settings
    if len(data) > settings.max_image_bytes:
        raise TooManyBytesError(settings.max_image_bytes, len(data))
    fetched = FetchedImage(item=SourceItem(image="", source="query"), data=data)
    model = backend().model()
    model.wait()
    with backend().slots.decodes:
        needed = model.embedder.shortest_edge
        return decode(fetched, max_pixels=settings.max_image_pixels, needed=needed).pixels


def read_upload(upload: FileStorage) -> Image.Image:
    """Decode an uploaded file to RGB.

    Raises:
        ImageError: the file is not an image, or the image is too large.
        ModelError: the model cannot be loaded.
    """
    return decode_query_image(upload.stream.read(backend().settings.max_image_bytes + 1))


def fetch_query_image(url: str) -> Image.Image:
    """Return the image at a URL as RGB; private addresses are refused unless the settings allow them.

    Raises:
        ImageError: the URL is malformed, cannot be fetched, or does not lead to an image.
        ModelError: the model cannot be loaded.
    """
    try:
        item = SourceItem(image=clean_url(url), source="query")
    except ValueError as exc:
        raise InvalidReferenceError(f"the URL of the image {exc}") from exc
    return decode_query_image(backend().fetcher.fetch(item).data)


def embed_query_image(query_image: Image.Image) -> np.ndarray:
    """Return the unit vector of an RGB image, float32 of shape (512,).

    Raises:
        ModelError: the model cannot be loaded.
    """
    return backend().model().embedder.embed_images([query_image])[0]
