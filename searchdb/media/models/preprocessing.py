"""Reads from a model's files how its images are prepared, and prepares them as its own processor does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from PIL import Image

from searchdb.errors import ModelUnavailableError
from searchdb.media.model_files import read_json, shown_value
from searchdb.media.models.geometry import FixedSize, Geometry, Patches, ShortestEdge, Size

MAX_SIDE = 4096
"""Largest width and height of a model's input in pixels; known models take up to 1,024. An image of this size takes
200 MB as numbers."""
_LARGEST_NUMBER = 1e6
"""Means and factors are far below."""
_RESIZED = "searchdb_resized"
"""Key in an image's `info` of the geometry and the size that it was resized to: resizing it again would change it."""

OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HALF = [0.5, 0.5, 0.5]

_CLIP_DEFAULTS = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": Image.Resampling.BICUBIC,
    "image_mean": OPENAI_MEAN,
    "image_std": OPENAI_STD,
    "do_center_crop": True,
}
PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": _CLIP_DEFAULTS,
    "ChineseCLIPImageProcessor": _CLIP_DEFAULTS,
    "SiglipImageProcessor": {
        "size": {"height": 224, "width": 224},
        "resample": Image.Resampling.BICUBIC,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "Siglip2ImageProcessor": {
        "patch_size": 16,
        "max_num_patches": 256,
        "resample": Image.Resampling.BILINEAR,
        "image_mean": HALF,
        "image_std": HALF,
    },
    "EfficientNetImageProcessor": {
        "size": {"height": 346, "width": 346},
        "crop_size": {"height": 289, "width": 289},
        "resample": Image.Resampling.BICUBIC,
        "image_mean": HALF,
        "image_std": HALF,
        "include_top": True,
    },
}
"""The image processors of transformers that are understood, and the defaults of what a model's file leaves out."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images become the model's input: first `geometry`, then each value to (value * rescale - mean) / std.

    `mean` and `std` have one number for each of red, green and blue. The values equal the processor's within 1e-6 of
    the range, because it computes the same in another order.
    """

    geometry: Geometry
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale and crop an image, in other modes converted to RGB; one that this returned stays as it is."""
        if image.info.get(_RESIZED) == (self.geometry, image.size):
            return image
        resized = self.geometry.resize(image if image.mode == "RGB" else image.convert("RGB"))
        if resized is not image:
            resized.info[_RESIZED] = (self.geometry, resized.size)
        return resized

    @classmethod
    def read(cls, name: str, folder: Path, default_processor: str) -> Preprocessing:
        """Read processor_config.json or preprocessor_config.json, as transformers' AutoImageProcessor does.

        Raises:
            ModelUnavailableError: both are missing, or one says something that is not understood.
        """
        file, config = _processor_config(name, folder)
        processor = str(config.get("image_processor_type") or config.get("feature_extractor_type") or default_processor)
        processor = processor.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
        if processor not in PROCESSORS:
            known = ", ".join(PROCESSORS)
            raise ModelUnavailableError(
                name, f"its {file} names the image processor {processor}; searchdb knows {known}"
            )
        try:
            return cls._from_config(PROCESSORS[processor] | config)
        except ValueError as exc:
            raise ModelUnavailableError(name, f"its {file} is not one of {processor}: {exc}") from exc

    @classmethod
    def _from_config(cls, config: Mapping[str, Any]) -> Preprocessing:
        if not (config.get("do_resize", True) and config.get("do_rescale", True)):
            raise ValueError("it does not resize and rescale")
        mean, std, offset = [0.0] * 3, [1.0] * 3, 0.0
        if config.get("do_normalize", True):
            mean, std = _of_colours(config, "image_mean"), _of_colours(config, "image_std")
        if config.get("rescale_offset"):
            offset = 1.0
        top = _of_colours(config, "image_std") if config.get("include_top") else [1.0] * 3
        if not all(std) or not all(top):
            raise ValueError("image_std holds zero, by which nothing can be divided")
        return cls(
            geometry=_geometry(config),
            rescale=_number(config.get("rescale_factor", 1 / 255), "rescale_factor"),
            mean=tuple(offset + each for each in mean),
            std=tuple(each * more for each, more in zip(std, top, strict=True)),
        )


def _processor_config(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and the content of the file that describes the image processor."""
    combined = folder / "processor_config.json"
    if combined.exists() and (nested := read_json(name, combined).get("image_processor")):
        if not isinstance(nested, dict):
            raise ModelUnavailableError(
                name, f"its {combined.name} is malformed: image_processor is no object, {{...}}"
            )
        return combined.name, cast("dict[str, Any]", nested)
    return "preprocessor_config.json", read_json(name, folder / "preprocessor_config.json")


def _geometry(config: Mapping[str, Any]) -> Geometry:
    try:
        resample = Image.Resampling(config["resample"])
    except (ValueError, TypeError):
        raise ValueError(f"Pillow has no way to resample {shown_value(config['resample'])}") from None
    if "max_num_patches" in config:
        patch, most = _pixels(config.get("patch_size"), "patch_size"), config["max_num_patches"]
        if not isinstance(most, int) or not 1 <= most <= MAX_SIDE**2 or math.isqrt(most) * patch > MAX_SIDE:
            raise ValueError(
                f"max_num_patches is {shown_value(most)}: images have 1 to {MAX_SIDE:,} pixels a side, in whole patches"
            )
        return Patches(patch=patch, most=most, resample=resample)
    size: Any = config.get("size")
    crop = _square(config.get("crop_size"), "crop_size") if config.get("do_center_crop") else None
    edge = cast("dict[str, Any]", size).get("shortest_edge") if isinstance(size, dict) else size
    if isinstance(size, dict) and edge is None:
        fixed = _square(size, "size")
        if crop is not None and (crop[0] > fixed[0] or crop[1] > fixed[1]):
            raise ValueError(f"it crops to {crop[0]} x {crop[1]} what it scales to {fixed[0]} x {fixed[1]}")
        return FixedSize(size=fixed, crop=crop, resample=resample)
    edge = _pixels(edge, "size")
    if crop is None:
        raise ValueError("it scales the shorter side and does not crop, so that images have many sizes")
    if edge < max(crop):
        raise ValueError(f"it crops to {crop[0]} x {crop[1]} what it scales to {edge}")
    return ShortestEdge(edge=edge, crop=crop, resample=resample)


def _square(size: Any, key: str) -> Size:
    if not isinstance(size, dict):
        return _pixels(size, key), _pixels(size, key)
    sides = cast("dict[str, Any]", size)
    if not {"width", "height"} <= sides.keys():
        raise ValueError(f"the size {shown_value(size)} has no height and width")
    return _pixels(sides["width"], f"the width in {key}"), _pixels(sides["height"], f"the height in {key}")


def _pixels(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE:
        raise ValueError(f"{key} is {shown_value(value)}, no number of 1 to {MAX_SIDE:,} pixels")
    return value


def _of_colours(config: Mapping[str, Any], key: str) -> list[float]:
    values = config[key]
    if not isinstance(values, list) or len(numbers := cast("list[Any]", values)) != len("RGB"):
        raise ValueError(f"{key} is {shown_value(values)}, not three numbers")
    return [_number(each, key) for each in numbers]


def _number(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _LARGEST_NUMBER:
        raise ValueError(f"{key} is {shown_value(value)}, no number")
    return value
