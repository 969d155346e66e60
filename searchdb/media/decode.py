"""Decodes bytes to one upright RGB image, with its checksum, size and metadata."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from PIL import Image

from searchdb.errors import DamagedImageError, EmptyFileError, TooMuchMemoryError
from searchdb.media.decode_memory import (
    HEIF_BLOCK,
    OPENING_TAKES_MEMORY,
    decoding_bytes,
    helper_bytes,
    opening_bytes,
)
from searchdb.media.formats import format_of, require_reader
from searchdb.media.helper import Task, helper_turn, load_in_helper
from searchdb.media.image_reader import check_pixels, load, open_image, reduce_while_loading
from searchdb.media.inspection import Inspection, inspect
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
_PIXELS_A_BYTE = 4
"""What is assumed of an image whose size only its decoder knows: a RAW has 1 or 2 bytes a pixel, or a half of one."""
_UNKNOWN_PIXELS = 1_000_000
"""The least that is assumed of it."""


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
    It waits for other such processes only without `timeout_s`; what is decoded so for its format alone, as JPEG XL,
    waits up to `timeout_s`. `cpu_s` is its processor time in seconds, by default as `load_in_helper` sets it.

    EXIF orientation is applied and transparency is laid over white. 16- and 32-bit grey is scaled to 8 bits.
    ICC profiles are ignored, as CLIP's own preprocessing ignores them. Dates without a time zone are taken as UTC.
    Of a RAW file, the largest preview is decoded; `width` and `height` are those of the photograph.

    Raises:
        EmptyFileError: there are no bytes.
        NotAnImageError: the content is in none of FORMATS.
        ExtraMissingError: it is in one that an extra reads, which is not installed.
        OnlyPreviewError: only a small version of the image can be read.
        TooManyPixelsError: the header declares more than `max_pixels` (width times height); nothing was decoded.
        TooMuchMemoryError: decoding takes more than the whole of `memory`; nothing was decoded.
        MemoryBusyError: others held so much of `memory` that `timeout_s` passed.
        DecoderBusyError: `timeout_s` is given, and other costly images are being decoded.
        DecodeTooCostlyError: it takes more processor time or memory than an honest image.
        DecoderLostError: the helper process could not be started, was killed, or got no processor.
        DecodeInterruptedError: `cancel` was set.
        DamagedImageError: the data is truncated or corrupt.
    """
    data = fetched.data
    if not data:
        raise EmptyFileError
    name = format_of(data)
    require_reader(name)
    inspection = inspect(name, data)
    with ExitStack() as held:
        if inspection.is_costly:  # before memory is reserved: those that wait hold none
            wait_s = 0 if timeout_s is not None and inspection.is_opened_here else timeout_s
            held.enter_context(helper_turn(wait_s=wait_s, cancel=cancel))

        def reserve(size: tuple[int, int], decoding: int) -> int:
            """Reserve what decoding in this process or in a helper takes; return the helper's part of it."""
            there, here = helper_bytes(size, needed, len(data)) if inspection.is_costly else (0, 0)
            held.enter_context(_reserved(decoding + there + here, name, size, memory, timeout_s))
            return decoding + there

        inspected = _size_to_expect(inspection, len(data), max_pixels)
        limit, size = 0, inspected
        early = name in OPENING_TAKES_MEMORY or not inspection.is_opened_here
        if (early and name not in ("RAW", "HEIC")) or (name == "HEIC" and _is_larger(inspected, max_pixels)):
            check_pixels(inspected, max_pixels)  # of a RAW, a smaller preview may be decoded
        if early:
            opening = opening_bytes(name, inspected, needed, len(data), samples=inspection.samples)
            limit = reserve(inspected, opening)
        image = None
        if inspection.is_opened_here:
            image = held.enter_context(open_image(name, data, max_pixels=max_pixels))
            size = image.size
            reduce_while_loading(image, needed)
            if not early:
                coded = inspection.width * inspection.height
                limit = reserve(image.size, decoding_bytes(image, needed, len(data), coded_pixels=coded))
            elif size != inspected:
                raise DamagedImageError(f"the image data is corrupt ({name}: two parts of it tell different sizes)")
            held.callback(image.close)  # entered last: its pixels are freed before their memory is given back
        if image is None or inspection.is_costly:
            task = Task(name=name, max_pixels=max_pixels, needed=needed, memory_bytes=limit)
            pixels, exif, size = load_in_helper(task, data, cancel=cancel, cpu_s=cpu_s)
        else:
            pixels, exif = load(image, needed)
    width, height = _full_size(name, inspection, size)
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
        colour=mean_colour(pixels),
        written=exif.written,
    )


def _size_to_expect(inspection: Inspection, file_bytes: int, max_pixels: int) -> tuple[int, int]:
    """Return the size that an inspection found, or one that is assumed where only the decoder knows it."""
    if inspection.is_opened_here or (inspection.width and inspection.height):
        return inspection.width, inspection.height
    side = math.isqrt(min(max_pixels, max(_UNKNOWN_PIXELS, _PIXELS_A_BYTE * file_bytes)))
    return side, side


def _is_larger(coded: tuple[int, int], max_pixels: int) -> bool:
    """Whether a coded HEIC has more pixels than are allowed, without the edges of up to a block that are cut off."""
    return (coded[0] - HEIF_BLOCK) * (coded[1] - HEIF_BLOCK) > max_pixels and min(coded) > HEIF_BLOCK


def _full_size(name: str, inspection: Inspection, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the image, of which a RAW's preview of `size` may be a smaller version."""
    if name != "RAW":
        return size
    full = inspection.full_size or (inspection.width, inspection.height)
    if full[0] * full[1] < size[0] * size[1]:
        return size
    is_turned = (full[0] > full[1]) != (size[0] > size[1])
    return (full[1], full[0]) if is_turned else full


@contextmanager
def _reserved(
    size: int, name: str, pixels: tuple[int, int], memory: MemoryBudget | None, timeout_s: float | None
) -> Generator[None]:
    """Hold the memory for decoding an image, and return what was freed to the system at the end."""
    if memory is None:
        yield
        return
    if size > memory.total:
        raise TooMuchMemoryError(name, *pixels, size=size, limit=memory.total)
    with memory.reserve(size, timeout_s=timeout_s):
        try:
            yield
        finally:
            if size >= RETURNED_BYTES:
                return_free_memory()
