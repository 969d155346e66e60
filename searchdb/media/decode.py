"""Decodes bytes to one upright RGB image, with its checksum, size and EXIF data."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import threading
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from io import BytesIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from searchdb.errors import (
    DamagedImageError,
    DecodeError,
    EmptyFileError,
    MemoryBusyError,
    NotAnImageError,
    TooManyPixelsError,
    TooMuchMemoryError,
)
from searchdb.media.decode_memory import decoding_bytes
from searchdb.media.exif import read_exif
from searchdb.media.memory import RETURNED_BYTES, MemoryBudget, return_free_memory
from searchdb.media.pixels import mean_colour, reduction, to_rgb
from searchdb.records import DecodedImage, FetchedImage

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""Supported formats, recognised by content and never by name. Of an animation or a multi-image file the first image is
read."""

READABLE = f"searchdb reads {', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
"""The end of the message about any other format: a failure with another list comes from another version."""

SNIFFED_BYTES = 1024
"""Enough for an XML declaration and a comment before `<svg` or `<html`."""

_REDUCED_FACTOR = 1.5
"""Smallest result of libjpeg's reduced decoding, as a multiple of the size needed. The demo model's vectors then stay
within a cosine of 0.9995 of those of full decoding; at 1.1, some fell to 0.98."""

_LONGEST_REASON = 160
"""Maximum length in characters. Pillow quotes file content in some messages; this keeps them on one line."""

_READERS: Mapping[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # also MPO: its first image is a complete JPEG
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

_SIGNATURES = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WEBP", re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL)),
    ("BMP", re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL)),  # including the reserved zeros: text may begin with "BM"
    ("TIFF", re.compile(rb"MM\0\*|II\*\0|MM\*\0|II\0\*|MM\0\+|II\+\0")),
    ("AVIF", re.compile(rb"\0\0..ftyp(avi[fs]|m[is]f1.{4}(.{4}){0,15}avif)", re.DOTALL)),
)

_LOOKALIKES = (
    ("SVG", re.compile(rb"(?s)\s*(\xef\xbb\xbf)?(<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE svg.*?>|\s)*+<svg[\s>]")),
    ("HTML", re.compile(rb"(?si)\s*(\xef\xbb\xbf)?(<\?xml.*?\?>|<!--.*?-->|\s)*+<(!doctype html|html|head|body)")),
    ("XML", re.compile(rb"\s*<\?xml")),
    ("JSON", re.compile(rb'\s*[\[{]\s*["{\[]')),
    ("a PDF", re.compile(rb"%PDF-")),
    ("PostScript", re.compile(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("a zip archive", re.compile(rb"PK\x03\x04|PK\x05\x06")),
    ("a gzip archive", re.compile(rb"\x1f\x8b")),
    ("a Photoshop file", re.compile(rb"8BPS")),
    ("an icon", re.compile(rb"\0\0[\x01\x02]\0.\0", re.DOTALL)),
    ("HEIC", re.compile(rb"\0\0..ftyp(hei|hev|mif1|msf1)", re.DOTALL)),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("JPEG XL", re.compile(rb"\0\0\0\x0cJXL |\xff\x0a")),
    ("a video", re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]", re.DOTALL)),
    ("text", re.compile(rb"[\t\n\r\x20-\x7e]+\Z")),
)

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

_PILLOW_MODULES = r"PIL\."
_PILLOW_IS_SILENT = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)
_PILLOW_LOGGER = logging.getLogger("PIL")
_process_settings = threading.Lock()


def decode(
    fetched: FetchedImage,
    *,
    max_pixels: int,
    needed: int | None = None,
    memory: MemoryBudget | None = None,
    timeout_s: float | None = None,
) -> DecodedImage:
    """Return the image upright, in RGB, 8 bits a channel, fully loaded.

    `needed` is the length in pixels that the shorter side must have at least. A JPEG much larger than that is decoded
    at a half, a quarter or an eighth of its size, which takes a third of the time. Any image that then still has more
    than WHOLE_PIXELS is reduced while it is converted. `width` and `height` are always those of the full image.

    What the decoding takes is reserved in `memory` before pixels are allocated, for which it waits up to `timeout_s`
    seconds, or without limit.

    EXIF orientation is applied and transparency is laid over white. 16- and 32-bit grey is scaled to 8 bits.
    ICC profiles are ignored, as CLIP's own preprocessing ignores them. Dates without a time zone are taken as UTC.

    Raises:
        EmptyFileError: there are no bytes.
        NotAnImageError: the content is in none of FORMATS.
        TooManyPixelsError: the header declares more than `max_pixels` (width times height); nothing was decoded.
        TooMuchMemoryError: decoding takes more than the whole of `memory`; nothing was decoded.
        MemoryBusyError: others held so much of `memory` that `timeout_s` passed.
        DamagedImageError: the data is truncated or corrupt.
    """
    data = fetched.data
    if not data:
        raise EmptyFileError
    name = format_of(data)
    if name == "WEBP":  # its reader allocates the whole canvas on opening
        _check_pixels(_webp_size(data), max_pixels)
    _prepare_pillow(max_pixels)
    try:
        with _READERS[name](BytesIO(data)) as image:
            _check_pixels(image.size, max_pixels)
            width, height = image.size
            if needed is not None:
                least = math.ceil(_REDUCED_FACTOR * needed)
                image.draft(None, (least, least))  # no effect on other formats and on small images
            with _reserved(image, needed, len(data), memory, timeout_s):
                image.load()
                exif = read_exif(image)
                pixels = to_rgb(image, factor=reduction(image.size, needed))
    except (DecodeError, MemoryBusyError):
        raise
    # On hostile bytes Pillow's parsers raise many exceptions (OSError, SyntaxError, struct.error, zlib.error,
    # MemoryError, RecursionError, ...); all mean that the image cannot be decoded.
    except Exception as exc:
        raise DamagedImageError(_explain(name, exc)) from exc
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


# --- Before Pillow --------------------------------------------------------------------------------


def format_of(data: bytes) -> str:
    """Return the format in FORMATS of the content (MPO counts as JPEG); its first SNIFFED_BYTES are enough.

    Raises:
        NotAnImageError: it is in none of them; the message says what it looks like instead.
    """
    head = data[:SNIFFED_BYTES]
    for name, signature in _SIGNATURES:
        if signature.match(head):
            return name
    looks = next(
        (f"looks like {name}" for name, pattern in _LOOKALIKES if pattern.match(head)), "is in no known format"
    )
    raise NotAnImageError(f"the content {looks}; {READABLE}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the canvas size that a WebP header declares; (0, 0) if the header is truncated."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(width, height, max_pixels)


def _prepare_pillow(max_pixels: int) -> None:
    """Adjust Pillow's process-wide settings to ours; safe to call from any thread at any time.

    Pillow's pixel limit is raised to ours but not removed, because it also guards tiles and canvases. Its warnings and
    log lines say nothing that a DecodeError does not; where warnings are errors, they would reject readable images.
    `warnings.catch_warnings` is not thread-safe.
    """
    with _process_settings:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels
        if warnings.filters[:1] != [_PILLOW_IS_SILENT]:
            warnings.filterwarnings("ignore", module=_PILLOW_MODULES)
        if _PILLOW_LOGGER.level == logging.NOTSET:
            _PILLOW_LOGGER.setLevel(logging.CRITICAL)


def _explain(name: str, exc: Exception) -> str:
    """Return a one-line message for an exception that Pillow raised while reading an image of this format."""
    if isinstance(exc, MemoryError):
        return f"the {name} data needs more memory than is available"
    reason = " ".join(str(exc).split()).encode("ascii", "backslashreplace").decode()[:_LONGEST_REASON]
    if isinstance(exc, EOFError) or re.search(r"truncated|ended|end of|not enough|too short", reason, re.IGNORECASE):
        return f"the image data ends early ({name}: {reason or 'nothing left to read'})"
    return f"the image data is corrupt ({name}: {reason or type(exc).__name__})"
