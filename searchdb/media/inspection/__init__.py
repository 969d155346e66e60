"""Inspects a file's structure before anything is decoded: its size in pixels, and what decoding it will cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from searchdb.media.inspection.avif import inspect_avif
from searchdb.media.inspection.heif import inspect_heif
from searchdb.media.inspection.jpeg import inspect_jpeg
from searchdb.media.inspection.jpeg_xl import inspect_jpeg_xl
from searchdb.media.inspection.png import inspect_png
from searchdb.media.inspection.raw import inspect_raw
from searchdb.media.inspection.record import Inspection
from searchdb.media.inspection.simple_formats import inspect_bmp, inspect_gif, inspect_webp
from searchdb.media.inspection.tiff import inspect_tiff

_INSPECTORS: Mapping[str, Callable[[bytes], Inspection]] = {
    "JPEG": inspect_jpeg,
    "PNG": inspect_png,
    "GIF": inspect_gif,
    "WEBP": inspect_webp,
    "BMP": inspect_bmp,
    "TIFF": inspect_tiff,
    "AVIF": inspect_avif,
    "HEIC": inspect_heif,
    "JPEG XL": inspect_jpeg_xl,
    "RAW": inspect_raw,
}


def inspect(name: str, data: bytes) -> Inspection:
    """Return what the structure of a file in a format of `searchdb.media.formats` tells.

    Takes milliseconds for ordinary files, and well under a second for any. Damage is not reported: it is left to the
    decoder.

    Raises:
        DecodeTooCostlyError: it has more parts of a kind than an honest file, each of which costs time.
    """
    return _INSPECTORS[name](data)
