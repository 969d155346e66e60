"""Makes WebP thumbnails of decoded images."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

LONGEST_SIDE = 512
"""Pixels: about twice the height of the page's cells, because many screens have two pixels per CSS pixel."""
QUALITY = 80


def make_thumbnail(pixels: Image.Image, side: int = LONGEST_SIDE, *, quality: int = QUALITY) -> bytes:
    """Return an RGB image as a WebP file whose longer side is at most `side`; `pixels` is resized in place."""
    pixels.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    pixels.save(encoded, "WEBP", quality=quality)
    return encoded.getvalue()
