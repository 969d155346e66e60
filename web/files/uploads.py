"""Decodes and embeds the images that visitors upload or name by URL, within limits; none is stored."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image
from werkzeug.datastructures import FileStorage

from searchdb.errors import InvalidReferenceError, TooManyBytesError
from searchdb.media.decode import decode
from searchdb.media.memory import Hold
from searchdb.records import DecodedImage, FetchedImage, SourceItem, clean_url

from ..backend import backend
from ..slots import waiting_time

MEMORY_WAIT_S = 10.0
"""Longest wait for memory, in seconds: a decoding of 100 megapixels takes one to four."""
VISITOR_CPU_S = 5
"""Processor time in seconds for a costly image; an honest one takes less. By the helper's factor, 20 seconds in all."""


def hold_file() -> Hold:
    """Return a hold on the memory for the files of all requests, to be taken before a file is read."""
    return Hold(backend().files_memory, timeout_s=waiting_time(MEMORY_WAIT_S))


def read_file(upload: FileStorage, hold: Hold) -> bytes:
    """Return the bytes of an uploaded file, at most one more than are allowed.

    Raises:
        MemoryBusyError: other requests hold too many bytes of files.
    """
    longest = backend().settings.max_image_bytes + 1
    size = upload.stream.seek(0, os.SEEK_END)
    upload.stream.seek(0)
    hold.take(min(size, longest))
    return upload.stream.read(longest)


def decode_for_visitor(fetched: FetchedImage, *, needed: int) -> DecodedImage:
    """Return what `decode` returns, within the limits of a request; the caller holds the slot for it.

    Raises:
        ImageError: the data is not an image, or the image is too large or costly.
        MemoryBusyError: other images hold the memory for decoding.
    """
    return decode(
        fetched,
        max_pixels=backend().settings.max_image_pixels,
        needed=needed,
        memory=backend().memory,
        timeout_s=waiting_time(MEMORY_WAIT_S),
        cpu_s=VISITOR_CPU_S,
        cancel=backend().stopping,
    )


def decode_query_image(data: bytes) -> Image.Image:
    """Decode an image to RGB and scale it for the model; waits until the model is loaded.

    Raises:
        ImageError: the data is not an image, or the image is too large.
        MemoryBusyError: other images hold the memory for decoding.
        ModelError: the model cannot be loaded.
        ServiceUnavailable: too many other images are being decoded, or the model is not loaded in time.
    """
    longest = backend().settings.max_image_bytes
    if len(data) > longest:
        raise TooManyBytesError(longest, len(data))
    fetched = FetchedImage(item=SourceItem(image="", source="query"), data=data)
    model = backend().model()
    model.wait()
    with backend().slots.decodes:
        decoded = decode_for_visitor(fetched, needed=model.embedder.shortest_edge)
        return model.embedder.resize(decoded.pixels)  # as ingest does; it may wait for the model, and now is small


def read_upload(upload: FileStorage) -> Image.Image:
    """Decode an uploaded file to RGB, scaled for the model.

    Raises:
        ImageError: the file is not an image, or the image is too large.
        MemoryBusyError: other images hold the memory.
        ModelError: the model cannot be loaded.
    """
    with hold_file() as hold:
        return decode_query_image(read_file(upload, hold))


def fetch_query_image(url: str) -> Image.Image:
    """Return the image at a URL as RGB, scaled for the model.

    Private addresses are refused unless the settings allow them.

    Raises:
        ImageError: the URL is malformed, cannot be fetched, or does not lead to an image.
        ModelError: the model cannot be loaded.
    """
    try:
        item = SourceItem(image=clean_url(url), source="query")
    except ValueError as exc:
        raise InvalidReferenceError(f"the URL of the image {exc}") from exc
    with hold_file() as hold:
        return decode_query_image(backend().fetcher.fetch(item, hold).data)


def embed_query_image(query_image: Image.Image) -> np.ndarray:
    """Return the unit vector of an RGB image, float32 of shape (dimension,).

    Raises:
        ModelError: the model cannot be loaded.
    """
    return backend().model().embedder.embed_images([query_image])[0]
