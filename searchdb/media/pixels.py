"""Converts a loaded image of any mode to RGB with 8 bits a channel."""

from __future__ import annotations

from typing import Any, cast

from PIL import Image

BACKGROUND = (255, 255, 255)
"""Transparent parts become white: most such images are drawn for white pages, and on black, dark ones would vanish."""

_COLOUR_SAMPLES = (32, 32)
"""Size of the sample that the mean colour is computed from: all pixels of a large image would take 30 ms."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a plain RGB copy that keeps neither the file's bytes nor its EXIF in memory."""
    if image.mode.startswith(("I", "F")):
        rgb = _eight_bits(image).convert("RGB")
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, BACKGROUND)
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    elif image.mode == "LAB":
        from PIL import ImageCms  # loads littlecms, which is needed too rarely to load it in every process

        create_profile = cast("Any", ImageCms.createProfile)  # pyright: ignore[reportUnknownMemberType] - untyped
        lab, srgb = create_profile("LAB"), create_profile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        rgb = image.convert("RGB") if converted is None else converted
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def mean_colour(pixels: Image.Image) -> str:
    """Return the mean colour of an RGB image, like `#8fa3b1`."""
    samples = pixels.resize(_COLOUR_SAMPLES, Image.Resampling.NEAREST)
    return "#" + samples.resize((1, 1), Image.Resampling.BOX).tobytes().hex()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of 16 or 32 bits to 8 bits; Pillow's own conversion clips, which turns most of it white."""
    import numpy as np

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    grey = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(grey.min()), float(grey.max())
    if low >= 0 and high <= 1 and image.mode == "F":
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 65535 and image.mode == "I":
        low, high = 0.0, 65535.0
    # Other data has no agreed range (heights, counts, radiance): scale from its darkest to its lightest value.
    with np.errstate(over="ignore", invalid="ignore"):  # values near the ends of float32
        scaled = (grey - np.float32(low)) * np.float32(255.0 / ((high - low) or 1.0))
    return Image.fromarray(np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8))
