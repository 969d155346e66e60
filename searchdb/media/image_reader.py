"""Reads the first image of a file with Pillow, or with a library that Pillow does not include."""

from __future__ import annotations

import importlib
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
    WebPImagePlugin,
)

from searchdb.errors import DamagedImageError, SearchDBError, TooManyPixelsError
from searchdb.media.libtiff import silence_libtiff
from searchdb.media.pixels import reduction, to_rgb
from searchdb.media.tiff_reader import open_tiff
from searchdb.media.written.exif import Exif
from searchdb.media.written.file_metadata import read_file_metadata

_REDUCED_FACTOR = 1.5
"""Smallest result of libjpeg's reduced decoding, as a multiple of the size needed. The demo model's vectors then stay
within a cosine of 0.9995 of those of full decoding; at 1.1, some fell to 0.98."""

_LONGEST_REASON = 160
"""Maximum length in characters. Pillow quotes file content in some messages; this keeps them on one line."""


def _open_heif(file: BytesIO) -> ImageFile.ImageFile:
    from searchdb.media.heif_reader import open_heif  # loads libheif, which many collections do not need

    return open_heif(file)


def _open_raw(file: BytesIO) -> ImageFile.ImageFile:
    from searchdb.media.raw_reader import open_raw

    return open_raw(file)


def _open_jpeg_xl(file: BytesIO) -> ImageFile.ImageFile:
    from searchdb.media.jpeg_xl_reader import open_jpeg_xl

    return open_jpeg_xl(file)


_READERS: Mapping[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,  # also MPO: its first image is a complete JPEG
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": open_tiff,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIC": _open_heif,
    "JPEG XL": _open_jpeg_xl,
    "RAW": _open_raw,
}
_LIBRARIES = {"HEIC": ("pi_heif",), "RAW": ("rawpy",), "JPEG XL": ("pillow_jxl",)}
"""What is imported when the first file of a format is opened."""

_PILLOW_MODULES = r"PIL\."
_PILLOW_IS_SILENT = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)
_PILLOW_LOGGER = logging.getLogger("PIL")
_process_settings = threading.Lock()


def load_libraries(name: str) -> None:
    """Import what opening a file of this format would import, as before a limit of memory is set."""
    for module in _LIBRARIES.get(name, ()):
        importlib.import_module(module)


@contextmanager
def open_image(name: str, data: bytes, *, max_pixels: int) -> Generator[ImageFile.ImageFile]:
    """Open an image of a format of `searchdb.media.formats`; nothing is decoded yet.

    Errors of Pillow within the block are translated.

    Raises:
        TooManyPixelsError: the header declares more than `max_pixels`.
        DamagedImageError: the data is truncated or corrupt.
    """
    prepare_pillow(max_pixels)
    try:
        with _READERS[name](BytesIO(data)) as image:
            check_pixels(image.size, max_pixels)
            yield image
    except SearchDBError:
        raise
    # On hostile bytes Pillow's parsers raise many exceptions (OSError, SyntaxError, struct.error, zlib.error,
    # MemoryError, RecursionError, ...); all mean that the image cannot be decoded.
    except Exception as exc:
        raise DamagedImageError(_explain(name, exc)) from exc


def reduce_while_loading(image: ImageFile.ImageFile, needed: int | None) -> None:
    """Let a JPEG be decoded at a half, a quarter or an eighth, while its shorter side stays above `needed` pixels."""
    if needed is not None:
        least = math.ceil(_REDUCED_FACTOR * needed)
        image.draft(None, (least, least))  # no effect on other formats and on small images


def load(image: ImageFile.ImageFile, needed: int | None) -> tuple[Image.Image, Exif]:
    """Decode an opened image; return it in RGB, as it is stored or reduced to what is needed, and its metadata."""
    image.load()
    exif = read_file_metadata(image)
    return to_rgb(image, factor=reduction(image.size, needed)), exif


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise TooManyPixelsError if width times height is above the limit."""
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(width, height, max_pixels)


def prepare_pillow(max_pixels: int) -> None:
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
        silence_libtiff()


def _explain(name: str, exc: Exception) -> str:
    """Return a one-line message for an exception that Pillow raised while reading an image of this format."""
    if isinstance(exc, MemoryError):
        return f"the {name} data needs more memory than is available"
    first = exc.__cause__ if isinstance(exc, SyntaxError) and exc.__cause__ is not None else exc  # as Pillow wraps it
    said = f"{type(first).__name__} {first}" if isinstance(first, LookupError) else str(exc)  # that is only a key
    reason = " ".join(said.split()).encode("ascii", "backslashreplace").decode()[:_LONGEST_REASON]
    if isinstance(exc, EOFError) or re.search(r"truncated|ended|end of|not enough|too short", reason, re.IGNORECASE):
        return f"the image data ends early ({name}: {reason or 'nothing left to read'})"
    return f"the image data is corrupt ({name}: {reason or type(exc).__name__})"
