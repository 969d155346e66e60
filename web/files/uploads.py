"""Pictures that visitors bring, to search by or to embed: read within limits, and kept nowhere."""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image
from werkzeug.datastructures import FileStorage

from searchdb.errors import InvalidReferenceError, TooManyBytesError
from searchdb.media.decode import decode
from searchdb.records import FetchedImage, SourceItem, clean_url

from ..backend import backend

DECODED_AT_ONCE = 3
"""Pictures decoded at the same time: a large one takes hundreds of MB meanwhile."""

decoding = threading.BoundedSemaphore(DECODED_AT_ONCE)
"""Held by whatever decodes a picture for a visitor."""


def picture_in(data: bytes) -> Image.Image:
    """Return the RGB picture that encoded bytes hold, as large as the model needs it; waits for that to be loaded.

    Raises:
        ImageError: they hold none, or it is too large.
        ModelError: the model cannot be loaded.
    """
    settings = backend().settings
    if len(data) > settings.max_image_bytes:
        raise TooManyBytesError(settings.max_image_bytes, len(data))
    fetched = FetchedImage(item=SourceItem(image="", source="query"), data=data)
    model = backend().model()
    model.wait()
    with decoding:
        needed = model.embedder.shortest_edge
        return decode(fetched, max_pixels=settings.max_image_pixels, needed=needed).pixels


def picture_of_upload(upload: FileStorage) -> Image.Image:
    """Return the RGB picture of an uploaded file.

    Raises:
        ImageError: it holds none, or it is too large.
    """
    return picture_in(upload.stream.read(backend().settings.max_image_bytes + 1))


def picture_at(url: str) -> Image.Image:
    """Return the RGB picture at a URL; private addresses are refused unless the settings allow them.

    Raises:
        ImageError: there is no such URL, or it cannot be fetched, or holds no picture.
    """
    try:
        item = SourceItem(image=clean_url(url), source="query")
    except ValueError as exc:
        raise InvalidReferenceError(f"the URL of the picture {exc}") from exc
    return picture_in(backend().fetcher.fetch(item).data)


def vector_of(picture: Image.Image) -> np.ndarray:
    """Return the unit vector of an RGB picture, float32 of shape (512,).

    Raises:
        ModelError: the model cannot be loaded.
    """
    return backend().model().embedder.embed_images([picture])[0]
