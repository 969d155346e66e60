"""Estimates the memory that decoding an opened image takes, from what its header says."""

from __future__ import annotations

import math
from typing import Any, cast

from PIL import ImageFile, JpegImagePlugin, TiffImagePlugin

from searchdb.media.pixels import STRIP_PIXELS, reduction

WEBP_BYTES_PER_PIXEL = 16
"""libwebp's canvas, its copy for the next frame, the bytes passed on, and Pillow's image, each in RGBA. The decoder's
own buffer is free again when the last two are made."""
AVIF_BYTES_PER_PIXEL = 15
"""Of 12 bits a channel: 6 for the planes, 3 for RGB, as much for its copy or 4 for Pillow's image, and dav1d's own
buffers. The header that Pillow reads does not tell the depth; of 8 bits, 9 to 11 were measured."""
AVIF_ALPHA_BYTES_PER_PIXEL = 4
"""2 for the plane of 12 bits, 1 for each copy."""
HEIF_BYTES_PER_PIXEL = 14
"""libheif's planes, the RGB that they become, its copy and Pillow's image: 8 to 9 were measured of 8 and of 10 bits."""
HEIF_ALPHA_BYTES_PER_PIXEL = 5
"""The plane, and a channel more in each copy."""
HEIF_BLOCK = 64
"""Pixels of a side of its largest block, of which coded images consist."""
JPEG_XL_BYTES_PER_PIXEL = 40
"""libjxl decodes in floating point."""
RAW_BYTES_PER_SAMPLE = 8
"""Of the sensor's data: LibRaw's copy of 2, as much for the half-sized image of four colours, and what is made of that.
An image of several samples a pixel is not halved."""
ROW_BYTES_PER_PIXEL = 24
"""Decoders hold up to three rows of up to 8 bytes a pixel: much only for an image that consists of one long row."""
STRIP_BYTES_PER_PIXEL = 40
"""Of the strip that is being converted: float32 grey is copied to NumPy and scaled, in four copies."""
METADATA_BYTES = 30_000_000
"""Of reading a block of XMP at its limits, before the pixels are converted."""
METADATA_FACTOR = 64
"""The same, as a multiple of the file's bytes."""
FIXED_BYTES = 8_000_000
"""Tables and buffers of decoders, and the allocator's rounding."""
HELPER_BYTES = 100_000_000
"""What a helper process takes besides the image: 40 MB for Python and Pillow, and room for libraries loaded later."""
_ANSWER_BYTES_PER_PIXEL = 6
"""RGB pixels, collected in parts and then joined, by the helper that sends them and by the process that reads them."""
OPENING_TAKES_MEMORY = frozenset({"WEBP", "GIF"})
"""Formats of which Pillow allocates a canvas on opening."""

_SMALL_MODES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
_COEFFICIENT_BYTES = 2
_GIF_BYTES_PER_PIXEL = 2
"""The frame and what is under it, in its palette's indices or grey."""
_OPENING_BYTES_PER_PIXEL = {
    "WEBP": WEBP_BYTES_PER_PIXEL,
    "GIF": _GIF_BYTES_PER_PIXEL,
    "HEIC": HEIF_BYTES_PER_PIXEL + HEIF_ALPHA_BYTES_PER_PIXEL,
    "JPEG XL": JPEG_XL_BYTES_PER_PIXEL,
    "RAW": RAW_BYTES_PER_SAMPLE,
}
_SIMPLE_TIFF = frozenset({"raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "tiff_raw_16"})
"""Compressions that decode into the strip. The others have buffers of about its size."""
_JPEG_TIFF = frozenset({"jpeg", "tiff_jpeg"})


def decoding_bytes(image: ImageFile.ImageFile, needed: int | None, file_bytes: int, *, coded_pixels: int = 0) -> int:
    """Return an upper bound of the bytes that it takes to load an opened image and to convert it to RGB.

    Call it after `draft`. `needed` is as in `decode`; `file_bytes` is the size of the file, which may consist of
    metadata that is copied; `coded_pixels` those of a HEIC before it is cropped.
    """
    return _with_conversion(_loading_bytes(image, coded_pixels), image.size, needed, file_bytes)


def opening_bytes(name: str, size: tuple[int, int], needed: int | None, file_bytes: int, *, samples: int = 1) -> int:
    """Return the same for its size in pixels, before a file is opened.

    That is for the formats of OPENING_TAKES_MEMORY, and for what only a helper opens. `samples` are those of a pixel.
    """
    loading = size[0] * size[1] * samples * _OPENING_BYTES_PER_PIXEL[name]
    return _with_conversion(loading, size, needed, file_bytes)


def helper_bytes(size: tuple[int, int], needed: int | None, file_bytes: int) -> tuple[int, int]:
    """Return what decoding an image takes beyond that in a helper, and in the process that waits for its answer."""
    answer = _ANSWER_BYTES_PER_PIXEL * _result_pixels(size, needed)
    return HELPER_BYTES + 2 * file_bytes + answer, answer


def _result_pixels(size: tuple[int, int], needed: int | None) -> int:
    factor = reduction(size, needed)
    return math.ceil(size[0] / factor) * math.ceil(size[1] / factor)


def _with_conversion(loading: int, size: tuple[int, int], needed: int | None, file_bytes: int) -> int:
    width, height = size
    pixels = width * height
    reduced = 4 * _result_pixels(size, needed)
    turned = reduced  # by the EXIF orientation, which is known only after loading
    strip = STRIP_BYTES_PER_PIXEL * min(pixels, STRIP_PIXELS)
    rows = ROW_BYTES_PER_PIXEL * width
    metadata = min(METADATA_BYTES, METADATA_FACTOR * file_bytes)
    return FIXED_BYTES + file_bytes + loading + max(metadata, reduced + turned + strip) + rows


def _loading_bytes(image: ImageFile.ImageFile, coded_pixels: int) -> int:
    """Return the bytes of Pillow's image and of the decoder's buffers that grow with it."""
    pixels = image.size[0] * image.size[1]
    core = pixels * _SMALL_MODES.get(image.mode, 4)
    if image.format == "AVIF":
        return pixels * (AVIF_BYTES_PER_PIXEL + (AVIF_ALPHA_BYTES_PER_PIXEL if image.mode == "RGBA" else 0))
    if image.format == "HEIF":
        return max(pixels, coded_pixels) * (
            HEIF_BYTES_PER_PIXEL + (HEIF_ALPHA_BYTES_PER_PIXEL if image.mode == "RGBA" else 0)
        )
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return core + _jpeg_coefficients(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return core + _tiff_strip(image)
    if getattr(image, "is_animated", False):
        return core * 2  # what is under the frame
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        return core + pixels * 9 // 4  # Pillow collects the pixels in Python, in a growing array and a copy
    return core


def _jpeg_coefficients(image: JpegImagePlugin.JpegImageFile) -> int:
    """Return the size of the coefficients of all blocks, which libjpeg holds if no scan has all components."""
    if not image.info.get("progressive") and not _scans_are_single(image):
        return 0
    width, height = _full_size(image)
    across, down = max(layer[1] for layer in image.layer), max(layer[2] for layer in image.layer)
    units = math.ceil(width / (8 * across)) * math.ceil(height / (8 * down))
    return sum(units * 64 * layer[1] * layer[2] * _COEFFICIENT_BYTES for layer in image.layer)


def _scans_are_single(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether the header of the first scan, behind which Pillow stopped reading, may name fewer than all components."""
    assert image.fp is not None  # noqa: S101 - not loaded yet
    end = image.fp.tell()
    longest = 6 + 2 * image.layers
    image.fp.seek(max(0, end - longest))
    read = image.fp.read(min(end, longest))
    image.fp.seek(end)
    # Its first two bytes are its length, the third the number of components.
    lengths = {components: 6 + 2 * components for components in range(1, image.layers)}
    return any(read[-length:][:3] == bytes([0, length, count]) for count, length in lengths.items())


def _full_size(image: JpegImagePlugin.JpegImageFile) -> tuple[int, int]:
    """Return at least the size before `draft`, which keeps only the scale."""
    scale = image.decoderconfig[0] if image.decoderconfig else 1
    return image.size[0] * scale, image.size[1] * scale


def _tiff_strip(image: TiffImagePlugin.TiffImageFile) -> int:
    """Return the bytes that libtiff and Pillow hold for one strip or tile; Pillow reads plain data row by row."""
    if not image.tile or image.tile[0].codec_name != "libtiff":
        return 0
    tags: Any = image.tag_v2
    width, height = image.size
    if TiffImagePlugin.TILEWIDTH in tags:
        pixels = _number(tags, TiffImagePlugin.TILEWIDTH) * _number(tags, TiffImagePlugin.TILELENGTH)
    else:
        pixels = width * min(height, _number(tags, TiffImagePlugin.ROWSPERSTRIP) or height)
    samples = _number(tags, TiffImagePlugin.SAMPLESPERPIXEL) or 1
    bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    compression = image.info.get("compression")
    bytes_per_pixel = max(4, math.ceil(samples * bits / 8))
    if compression in _JPEG_TIFF:
        bytes_per_pixel += samples * _COEFFICIENT_BYTES  # the JPEG inside may be progressive
    elif compression not in _SIMPLE_TIFF:
        bytes_per_pixel *= 2
    return pixels * bytes_per_pixel


def _number(tags: Any, tag: int) -> int:
    value: Any = tags.get(tag, 0)
    return int(cast("Any", value[0]) if isinstance(value, tuple) else value)
