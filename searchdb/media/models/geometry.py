"""The ways in which families scale and crop an image, each equal to the PIL backend of transformers' processors.

transformers has two backends, PIL and torchvision, whose pixels differ by rounding; without torchvision it takes PIL's.
These are equal to PIL's bit by bit, unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Size = tuple[int, int]
"""Width and height in pixels."""

MAX_SCALED_ASPECT = 8
"""Largest aspect ratio at which the whole image is scaled before the centre is cropped."""


@dataclass(frozen=True, kw_only=True)
class ShortestEdge:
    """Scales the shorter side to `edge` pixels and crops the centre (CLIP, MetaCLIP 2, AltCLIP)."""

    edge: int
    crop: Size
    resample: int

    @property
    def image_size(self) -> Size:
        """Width and height of the model's input."""
        return self.crop

    @property
    def shortest_edge(self) -> int:
        """Pixels that the shorter side of an image is scaled to: more are not needed."""
        return self.edge

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale and crop an RGB image.

        An image with an aspect ratio above MAX_SCALED_ASPECT is cropped first: scaling all of a 1 x 20,000 pixel image
        would take gigabytes. Its pixels then differ from the processor's only by the rounding between Pillow's two
        passes.
        """
        crop_width, crop_height = self.crop
        width, height = image.size
        long = int(self.edge * max(width, height) / min(width, height))
        scaled = (self.edge, long) if width <= height else (long, self.edge)
        left, top = (scaled[0] - crop_width) // 2, (scaled[1] - crop_height) // 2
        resample = Image.Resampling(self.resample)
        if long <= self.edge * MAX_SCALED_ASPECT:
            whole = image if image.size == scaled else image.resize(scaled, resample)
            return whole.crop((left, top, left + crop_width, top + crop_height))
        x, y = width / scaled[0], height / scaled[1]
        box = (left * x, top * y, (left + crop_width) * x, (top + crop_height) * y)
        return image.resize(self.crop, resample, box=box)


@dataclass(frozen=True, kw_only=True)
class FixedSize:
    """Scales all of an image to `size`, whatever its aspect ratio, and crops the centre if `crop` says so.

    SigLIP and ChineseCLIP do not crop; ALIGN scales to 346 x 346 and crops to 289 x 289.
    """

    size: Size
    crop: Size | None
    resample: int

    @property
    def image_size(self) -> Size:
        """Width and height of the model's input."""
        return self.crop or self.size

    @property
    def shortest_edge(self) -> int:
        """Pixels that the shorter side of an image is scaled to: more are not needed."""
        return max(self.size)

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale and crop an RGB image."""
        scaled = image if image.size == self.size else image.resize(self.size, Image.Resampling(self.resample))
        if self.crop is None:
            return scaled
        (width, height), (crop_width, crop_height) = self.size, self.crop
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return scaled.crop((left, top, left + crop_width, top + crop_height))


@dataclass(frozen=True, kw_only=True)
class Patches:
    """Scales an image, nearly at its own aspect ratio, to at most `most` square patches (SigLIP 2 NaFlex)."""

    patch: int
    most: int
    resample: int

    @property
    def image_size(self) -> Size:
        """Width and height of a square image; others have about as many pixels."""
        side = math.isqrt(self.most) * self.patch
        return side, side

    @property
    def shortest_edge(self) -> int:
        """Pixels that the shorter side of a square image is scaled to: no image needs more."""
        return self.image_size[0]

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale an RGB image."""
        size = self._target(image.size)
        return image if image.size == size else image.resize(size, Image.Resampling(self.resample))

    def _target(self, size: Size) -> Size:
        """Return what `get_image_size_for_max_num_patches` of transformers' Siglip2ImageProcessorPil returns.

        The same binary search: a formula would differ from it in the last patch of some images.
        """
        low, high = 1e-6, 100.0
        while high - low >= 1e-5:
            scale = (low + high) / 2
            width, height = self._scaled(size, scale)
            if (width // self.patch) * (height // self.patch) <= self.most:
                low = scale
            else:
                high = scale
        return self._scaled(size, low)

    def _scaled(self, size: Size, scale: float) -> Size:
        width, height = (max(self.patch, math.ceil(side * scale / self.patch) * self.patch) for side in size)
        return width, height


Geometry = ShortestEdge | FixedSize | Patches
