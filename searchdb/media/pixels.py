"""Converts a loaded image of any mode to RGB with 8 bits a channel, a strip at a time, and reduces large images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

from PIL import Image

BACKGROUND = (255, 255, 255)
"""Transparent parts become white: most such images are drawn for white pages, and on black, dark ones would vanish."""

WHOLE_PIXELS = 12_000_000
"""Images of up to this many pixels keep their size: the model's own processor then scales the original. Their RGB copy
takes 48 MB."""

REDUCED_FACTOR = 3
"""Smallest shorter side of a reduced image, as a multiple of the size needed. Pillow's documentation of `reducing_gap`
calls the result of 3 almost indistinguishable from that of one step. The demo model's vectors of noise of four grains
stayed within a cosine of 0.9999 of those of the whole, those of postcards enlarged to 24 and 60 megapixels within
0.9993, but for one: 0.997. A weaker reduction, to 12 megapixels, did no better: 0.9994, and 0.996 for the same one."""

STRIP_PIXELS = 1_000_000
"""Pixels converted at a time: the copies on the way to RGB then take 20 MB, whatever the size of the image."""

_COLOUR_SAMPLES = (32, 32)
"""Size of the sample that the mean colour is computed from: all pixels of a large image would take 30 ms."""


def reduction(size: tuple[int, int], needed: int | None) -> int:
    """Return the factor by which to reduce both sides of an image whose shorter side is needed with `needed` pixels.

    It is 1 up to WHOLE_PIXELS. The result has no more pixels than that; only an image with an aspect ratio in the
    hundreds may therefore have a shorter side below `needed`.
    """
    pixels = size[0] * size[1]
    if needed is None or pixels <= WHOLE_PIXELS:
        return 1
    return max(min(size) // (REDUCED_FACTOR * needed), math.ceil(math.sqrt(pixels / WHOLE_PIXELS)))


def to_rgb(image: Image.Image, *, factor: int = 1) -> Image.Image:
    """Return a plain RGB copy, reduced by `factor`, that keeps neither the file's bytes nor its EXIF in memory.

    A reduced pixel is the mean of `factor` x `factor` pixels.
    """
    width, height = image.size
    rgb = Image.new("RGB", (math.ceil(width / factor), math.ceil(height / factor)))
    if factor == 1 and image.mode == "RGB" and "transparency" not in image.info:  # most images: one copy is faster
        rgb.paste(image)
        return rgb
    convert = _converter(image)
    for left, top, strip in _strips(image, factor):
        converted = convert(strip)
        rgb.paste(converted if factor == 1 else converted.reduce(factor), (left // factor, top // factor))
    return rgb


def mean_colour(pixels: Image.Image) -> str:
    """Return the mean colour of an RGB image, like `#8fa3b1`."""
    samples = pixels.resize(_COLOUR_SAMPLES, Image.Resampling.NEAREST)
    return "#" + samples.resize((1, 1), Image.Resampling.BOX).tobytes().hex()


def _strips(image: Image.Image, factor: int = 1) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield the left column, the first row and the copy of each strip; strips begin at multiples of `factor`.

    A strip has all columns, unless a few rows of all columns are more than STRIP_PIXELS.
    """
    width, height = image.size
    columns = min(width, factor * max(1, STRIP_PIXELS // factor**2))
    rows = factor * max(1, STRIP_PIXELS // (columns * factor))
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, image.crop((left, top, min(left + columns, width), min(top + rows, height)))


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts strips of this image to RGB."""
    if image.mode.startswith("I;16"):
        return lambda strip: _high_bytes(strip).convert("RGB")
    if image.mode.startswith(("I", "F")):
        low, high = _range(image)
        return lambda strip: _eight_bits(strip, low, high).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_background
    if image.mode == "LAB":
        from PIL import ImageCms  # loads littlecms, which is needed too rarely to load it in every process

        create_profile = cast("Any", ImageCms.createProfile)  # pyright: ignore[reportUnknownMemberType] - untyped
        lab_to_rgb = ImageCms.buildTransform(create_profile("LAB"), create_profile("sRGB"), "LAB", "RGB")
        return lambda strip: ImageCms.applyTransform(strip, lab_to_rgb) or strip.convert("RGB")
    return lambda strip: strip.convert("RGB")


def _over_background(strip: Image.Image) -> Image.Image:
    rgba = strip.convert("RGBA")
    rgb = Image.new("RGB", rgba.size, BACKGROUND)
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def _high_bytes(strip: Image.Image) -> Image.Image:
    import numpy as np

    return Image.fromarray((np.asarray(strip) >> 8).astype(np.uint8))


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the values of grey of 32 bits that become black and white."""
    low, high = math.inf, -math.inf
    for _, _, strip in _strips(image):
        grey = _finite(strip)
        low, high = min(low, float(grey.min())), max(high, float(grey.max()))
    if low >= 0 and high <= 1 and image.mode == "F":
        return 0.0, 1.0
    if low >= 0 and high <= 255:
        return 0.0, 255.0
    if low >= 0 and high <= 65535 and image.mode == "I":
        return 0.0, 65535.0
    # Other data has no agreed range (heights, counts, radiance): scale from its darkest to its lightest value.
    return low, high


def _eight_bits(strip: Image.Image, low: float, high: float) -> Image.Image:
    """Scale grey of 32 bits to 8 bits; Pillow's own conversion clips, which turns most of it white."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):  # values near the ends of float32
        scaled = (_finite(strip) - np.float32(low)) * np.float32(255.0 / ((high - low) or 1.0))
    return Image.fromarray(np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8))


def _finite(strip: Image.Image) -> Any:
    """Return grey of 32 bits as float32, shape (height, width), with 0 for what is not a number."""
    import numpy as np

    return np.nan_to_num(np.asarray(strip, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
