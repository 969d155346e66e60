"""Encodes flat images of any size in all formats and modes, as small files that take much memory to decode."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from tests.helpers import photo_files


def _saved(mode: str, kind: str, width: int, height: int, **options: Any) -> bytes:
    buffer = BytesIO()
    colours: Mapping[str, Any] = {"RGB": (200, 30, 90), "RGBA": (200, 30, 90, 40), "CMYK": (1, 99, 2, 3), "LA": (9, 99)}
    image = Image.new(mode, (width, height), colours.get(mode, 1))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _animated(mode: str, kind: str, width: int, height: int, **options: Any) -> bytes:
    frames = [Image.new(mode, (width, height), colour) for colour in (0, 1)]
    buffer = BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def _one_strip(mode: str, width: int, height: int, compression: str) -> bytes:
    usual, TiffImagePlugin.STRIP_SIZE = TiffImagePlugin.STRIP_SIZE, 2**31 - 1
    try:
        return _saved(mode, "TIFF", width, height, compression=compression)
    finally:
        TiffImagePlugin.STRIP_SIZE = usual


def _run_length_bmp(width: int, height: int) -> bytes:
    line = (b"\xff\x07" * (width // 255) + bytes([width % 255, 7]) * bool(width % 255) + b"\0\0") * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(line), 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(header) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(line), 0, 0, start) + header + palette + line


def _non_interleaved_jpeg(width: int, height: int) -> bytes:
    """Return a baseline JPEG whose first scan has one of the three components, so that libjpeg buffers all."""
    data = _saved("RGB", "JPEG", width, height, quality=25)
    at = data.index(b"\xff\xda")
    return data[:at] + b"\xff\xda\0\x08\x01\x01\x00\x00\x3f\x00" + data[at + 14 :]


def _noise(width: int, height: int) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise((width, height), 60)] * 3)


def _flat(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), (200, 30, 90, 40)[: len(mode)])


LARGE_IMAGES: Mapping[str, Callable[[int, int], bytes]] = {
    "jpeg": partial(_saved, "RGB", "JPEG", quality=25),
    "jpeg grey": partial(_saved, "L", "JPEG", quality=25),
    "jpeg cmyk": partial(_saved, "CMYK", "JPEG", quality=25),
    "jpeg progressive": partial(_saved, "RGB", "JPEG", quality=25, progressive=True),
    "jpeg progressive 4:4:4": partial(_saved, "RGB", "JPEG", quality=25, progressive=True, subsampling=0),
    "jpeg progressive cmyk": partial(_saved, "CMYK", "JPEG", quality=25, progressive=True),
    "jpeg one component a scan": _non_interleaved_jpeg,
    "png bits": partial(_saved, "1", "PNG"),
    "png grey": partial(_saved, "L", "PNG"),
    "png grey alpha": partial(_saved, "LA", "PNG"),
    "png grey 16": partial(_saved, "I;16", "PNG"),
    "png palette": partial(_saved, "P", "PNG"),
    "png palette transparent": partial(_saved, "P", "PNG", transparency=1),
    "png rgb": partial(_saved, "RGB", "PNG"),
    "png rgb transparent": partial(_saved, "RGB", "PNG", transparency=(1, 2, 3)),
    "png rgba": partial(_saved, "RGBA", "PNG"),
    "png animated": partial(_animated, "RGB", "PNG", disposal=1, loop=0),
    "gif": partial(_saved, "P", "GIF"),
    "gif transparent": partial(_saved, "P", "GIF", transparency=1),
    "gif animated": partial(_animated, "P", "GIF", disposal=2),
    "webp": partial(_saved, "RGB", "WEBP", method=0, quality=1),
    "webp alpha": partial(_saved, "RGBA", "WEBP", method=0, quality=1),
    "webp lossless": partial(_saved, "RGB", "WEBP", method=0, lossless=True),
    "webp lossless alpha": partial(_saved, "RGBA", "WEBP", method=0, lossless=True),
    "webp animated": partial(_animated, "RGB", "WEBP", method=0, lossless=True),
    "bmp": partial(_saved, "RGB", "BMP"),
    "bmp palette": partial(_saved, "P", "BMP"),
    "bmp run length": _run_length_bmp,
    **{
        f"tiff {mode}": partial(_saved, mode, "TIFF", compression="tiff_lzw")
        for mode in ("1", "L", "LA", "P", "I;16", "RGB", "RGBA", "CMYK", "LAB", "I", "F")
    },
    "tiff raw": partial(_saved, "RGB", "TIFF"),
    "tiff jpeg": partial(_saved, "RGB", "TIFF", compression="jpeg", quality=25),
    "tiff ycbcr": partial(_saved, "YCbCr", "TIFF", compression="jpeg", quality=25),
    "tiff F one strip": partial(_one_strip, "F", compression="tiff_lzw"),
    "tiff RGB one strip": partial(_one_strip, "RGB", compression="tiff_lzw"),
    "tiff RGB one jpeg strip": partial(_one_strip, "RGB", compression="jpeg"),
    "avif": partial(_saved, "RGB", "AVIF", speed=10, quality=1),
    "avif 4:4:4": partial(_saved, "RGB", "AVIF", speed=10, quality=1, subsampling="4:4:4"),
    "avif alpha": partial(_saved, "RGBA", "AVIF", speed=10, quality=1, subsampling="4:4:4"),
    "avif animated": partial(_animated, "RGB", "AVIF", speed=10, quality=1),
    "heic": lambda width, height: photo_files.heic(_flat(width, height)),
    "heic 4:4:4": lambda width, height: photo_files.heic(_flat(width, height), chroma=444),
    "heic alpha": lambda width, height: photo_files.heic(_flat(width, height, "RGBA")),
    "heic 12 bits": lambda width, height: photo_files.deep_heic(
        np.full((height, width, 3), 30_000, np.uint16), twelve=True
    ),
    "heic grid": lambda width, height: photo_files.grid_heic(
        _flat(512, 512), math.ceil(width / 512), math.ceil(height / 512)
    ),
    "jpeg xl": lambda width, height: photo_files.jpeg_xl(_flat(width, height), effort=7),
    "jpeg xl lossless": lambda width, height: photo_files.jpeg_xl(_flat(width, height), lossless=True, effort=7),
    "raw preview": lambda width, height: photo_files.raf(_flat(width, height), (width, height)),
    "raw sensor data": lambda width, height: photo_files.dng(_noise(width, height), preview=None),
}
"""Functions of width and height, by kind."""
