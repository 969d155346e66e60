"""Decodes bytes to one upright RGB image, with its checksum, size and EXIF data."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from contextlib import contextmanager

from PIL import Image, ImageFile

from searchdb.errors import EmptyFileError, TooMuchMemoryError
from searchdb.media.decode_memory import decoding_bytes
from searchdb.media.formats import format_of
from searchdb.media.helper import Task, load_in_helper
from searchdb.media.image_reader import check_pixels, load, open_image, reduce_while_loading
from searchdb.media.inspection import inspect
from searchdb.media.memory import RETURNED_BYTES, MemoryBudget, return_free_memory
from searchdb.media.pixels import mean_colour
from searchdb.records import DecodedImage, FetchedImage

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image of each EXIF orientation upright; 1 and unknown values need none."""
_SWAPS_SIDES = (5, 6, 7, 8)
"""Orientations whose correction swaps width and height."""


def decode(
    fetched: FetchedImage,
    *,
    max_pixels: int,
    needed: int | None = None,
    memory: MemoryBudget | None = None,
    timeout_s: float | None = None,
    cancel: threading.Event | None = None,
    cpu_s: int | None = None,
) -> DecodedImage:
    """Return the image upright, in RGB, 8 bits a channel, fully loaded.

    `needed` is the length in pixels that the shorter side must have at least. A JPEG much larger than that is decoded
    at a half, a quarter or an eighth of its size, which takes a third of the time. Any image that then still has more
    than WHOLE_PIXELS is reduced while it is converted. `width` and `height` are always those of the full image.

    What the decoding takes is reserved in `memory` before pixels are allocated, for which it waits up to `timeout_s`
    seconds, or without limit.

    What looks costly is decoded by a helper process, with limits of time and memory, which ends when `cancel` is set.
    `cpu_s` is its processor time in seconds, by default as `load_in_helper` sets it.

    EXIF orientation is applied and transparency is laid over white. 16- and 32-bit grey is scaled to 8 bits.
    ICC profiles are ignored, as CLIP's own preprocessing ignores them. Dates without a time zone are taken as UTC.

    Raises:
        EmptyFileError: there are no bytes.
        NotAnImageError: the content is in none of FORMATS.
        TooManyPixelsError: the header declares more than `max_pixels` (width times height); nothing was decoded.
        TooMuchMemoryError: decoding takes more than the whole of `memory`; nothing was decoded.
        MemoryBusyError: others held so much of `memory` that `timeout_s` passed.
        DecodeTooCostlyError: it takes more processor time or memory than an honest image.
        DecodeInterruptedError: `cancel` was set.
        DamagedImageError: the data is truncated or corrupt.
    """
    data = fetched.data
    if not data:
        raise EmptyFileError
    name = format_of(data)
    inspection = inspect(name, data)
    if name == "WEBP":  # its reader allocates the whole canvas on opening
        check_pixels((inspection.width, inspection.height), max_pixels)
    with open_image(name, data, max_pixels=max_pixels) as image:
        width, height = image.size
        reduce_while_loading(image, needed)
        with _reserved(image, needed, len(data), memory, timeout_s):
            if inspection.is_costly:
                task = Task(name=name, max_pixels=max_pixels, needed=needed)
                pixels, exif = load_in_helper(task, data, cancel=cancel, cpu_s=cpu_s)
            else:
                pixels, exif = load(image, needed)
    turn = _UPRIGHT.get(exif.orientation)
    if turn is not None:
        pixels = pixels.transpose(turn)
        if exif.orientation in _SWAPS_SIDES:
            width, height = height, width
    return DecodedImage(
        item=fetched.item,
        pixels=pixels,
        sha256=hashlib.sha256(data).digest(),
        byte_size=len(data),
        width=width,
        height=height,
        taken_at=exif.taken_at,
        taken_at_from=exif.taken_at_from,
        camera=exif.camera,
        latitude=exif.latitude,
        longitude=exif.longitude,
        colour=mean_colour(pixels),
    )


@contextmanager
def _reserved(
    image: ImageFile.ImageFile,
    needed: int | None,
    file_bytes: int,
    memory: MemoryBudget | None,
    timeout_s: float | None,
) -> Generator[None]:
    """Hold the memory for decoding an opened image, and return what was freed to the system at the end."""
    if memory is None:
        yield
        return
    size = decoding_bytes(image, needed, file_bytes)
    if size > memory.total:
        raise TooMuchMemoryError(str(image.format), *image.size, size=size, limit=memory.total)
    with memory.reserve(size, timeout_s=timeout_s):
        try:
            yield
        finally:
            image.close()
            if size >= RETURNED_BYTES:
                return_free_memory()
