"""The table of model families that give vectors of images and texts, and what their config.json says about a model.

The families are those of transformers' zero-shot image classification whose models embed images and texts apart from
each other. What a config.json leaves out has the default of transformers' configuration classes; many on the hub leave
out almost everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchdb.errors import ModelUnavailableError
from searchdb.media.model_files import read_json, shown_value

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the models of one `model_type` have in common."""

    title: str
    """The name for people."""

    dimensions: Callable[[Config], tuple[int, int]]
    """Numbers of an image's vector and of a text's, from the content of config.json."""

    context: Callable[[Config], int]
    """Most tokens of a text, from the content of config.json; the tokenizer may know a lower limit."""

    processor: str
    """The image processor where preprocessor_config.json does not name one, without the backend's suffix."""

    pads_to_context: bool = False
    """Whether every text is padded to the whole context."""

    attends_to_padding: bool = False
    """Whether the padding is read like words. The model then must not get an attention mask."""


def family_of(name: str, folder: Path) -> Family:
    """Return the family of the model in a folder.

    Raises:
        ModelUnavailableError: the folder holds no model of these families.
    """
    model_type = read_config(name, folder).get("model_type")
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    raise ModelUnavailableError(name, f"{_what_it_is(folder, model_type)}; searchdb takes models of {_TITLES}")


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """Return the content of the model's config.json.

    Raises:
        ModelUnavailableError: it is missing or malformed.
    """
    for file, what in _OTHER_FORMATS.items():
        if (folder / file).exists() and not (folder / "config.json").exists():
            raise ModelUnavailableError(name, what)
    config = read_json(name, folder / "config.json")
    for part in ("text_config", "vision_config", "text_config_dict", "vision_config_dict"):
        if not isinstance(config.get(part) or {}, dict):
            raise ModelUnavailableError(name, f"its config.json is malformed: {part} is no object, {{...}}")
    return config


def dimension_of(name: str, config: Config) -> int:
    """Return how many numbers a vector of the model has, according to its config.json.

    Raises:
        ModelUnavailableError: images and texts have different numbers of numbers, or the config is malformed.
    """
    try:
        image, text = FAMILIES[config["model_type"]].dimensions(config)
    except _MALFORMED as exc:
        raise ModelUnavailableError(name, f"its config.json is malformed: {_problem_of(exc)}") from exc
    if image != text:
        reason = f"its images have {image} numbers and its texts {text}, so that they cannot be compared"
        raise ModelUnavailableError(name, reason)
    return image


def context_of(name: str, config: Config, tokens: Any) -> int:
    """Return the most tokens of a text: what the config.json says, or fewer `tokens` if the tokenizer says so.

    Raises:
        ModelUnavailableError: one of the files is malformed.
    """
    try:
        context = FAMILIES[config["model_type"]].context(config)
    except _MALFORMED as exc:
        raise ModelUnavailableError(name, f"its config.json is malformed: {_problem_of(exc)}") from exc
    try:
        context = min(context, int(tokens or context))
    except _MALFORMED as exc:
        reason = f"its tokenizer_config.json is malformed: model_max_length is {shown_value(tokens)}, no whole number"
        raise ModelUnavailableError(name, reason) from exc
    if context < 1:
        raise ModelUnavailableError(name, f"its config.json or tokenizer_config.json says {context} tokens of a text")
    return context


_MALFORMED = (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError)
"""What the functions below raise for values of other kinds than they expect."""


def _problem_of(exc: Exception) -> str:
    # Only our own errors are written for people.
    return str(exc) if type(exc) is ValueError else "a size in it is no number"


def _whole_number(value: Any, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is {shown_value(value)}, no whole number")
    return value


def _what_it_is(folder: Path, model_type: object) -> str:
    if (folder / "config.json").exists():
        auto_map = read_json(str(folder), folder / "config.json").get("auto_map")
        if auto_map:
            return f"it is a model of type {model_type!r} with code of its own, and searchdb runs no code of a model"
    if isinstance(model_type, str) and (half := model_type.removesuffix("_model")).endswith(("_text", "_vision")):
        whole, _, part = half.rpartition("_")
        if whole in FAMILIES:
            return f"it is only the {part} half of a {FAMILIES[whole].title} model ({model_type})"
    return f"it is a model of type {model_type!r}"


_OTHER_FORMATS = {
    "model_index.json": "it is a pipeline of diffusers, which generates images and embeds none",
    "open_clip_config.json": "it is in the format of open_clip: choose the same model in the format of transformers",
    "modules.json": "it is in the format of sentence-transformers: name the folder of its CLIP model inside it",
}


def _at(config: Config, part: str, key: str, default: Any) -> Any:
    """Return a value of `text_config` or `vision_config`; old files have a second one, which takes precedence."""
    parts: list[Config] = [config.get(f"{part}_dict") or {}, config.get(part) or {}]
    return next((values[key] for values in parts if values.get(key) is not None), default)


def _projection(default: int) -> Callable[[Config], tuple[int, int]]:
    def dimensions(config: Config) -> tuple[int, int]:
        size = config.get("projection_dim")
        numbers = default if size is None else _whole_number(size, "projection_dim")
        return numbers, numbers

    return dimensions


def _siglip_dimensions(config: Config) -> tuple[int, int]:
    text = _at(config, "text_config", "projection_size", None) or _at(config, "text_config", "hidden_size", 768)
    if not _at(config, "vision_config", "vision_use_head", True):
        raise ValueError("vision_use_head is false: it has no vector of a whole image")
    image = _at(config, "vision_config", "hidden_size", 768)
    return _whole_number(image, "hidden_size of vision_config"), _whole_number(text, "the size of text_config")


def _align_dimensions(config: Config) -> tuple[int, int]:
    """As `round_filters` in transformers' modeling_align.py: the last block's channels are the vector's numbers."""
    divisor = _whole_number(_at(config, "vision_config", "depth_divisor", 8), "depth_divisor")
    channels = _at(config, "vision_config", "out_channels", [320])[-1]
    scaled = channels * _at(config, "vision_config", "width_coefficient", 2.0)
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    if rounded < 0.9 * scaled:
        rounded += divisor
    return int(rounded), _projection(640)(config)[1]


def _positions(default: int, *, most: int | None = None) -> Callable[[Config], int]:
    def context(config: Config) -> int:
        key = "max_position_embeddings"
        positions = _whole_number(_at(config, "text_config", key, default), key)
        return positions if most is None else min(positions, most)

    return context


def _roberta_positions(config: Config) -> int:
    """XLM-RoBERTa numbers its positions from behind the padding token's number."""
    return _positions(514)(config) - _whole_number(_at(config, "text_config", "pad_token_id", 1), "pad_token_id") - 1


_CLIP, _SIGLIP = "CLIPImageProcessor", "SiglipImageProcessor"

FAMILIES: dict[str, Family] = {
    "clip": Family(title="CLIP", dimensions=_projection(512), context=_positions(77), processor=_CLIP),
    # SigLIP was trained on texts of one length, whose padding its text encoder reads:
    # https://github.com/mlfoundations/open_clip/issues/984
    "siglip": Family(
        title="SigLIP",
        dimensions=_siglip_dimensions,
        context=_positions(64),
        processor=_SIGLIP,
        pads_to_context=True,
        attends_to_padding=True,
    ),
    "siglip2": Family(
        title="SigLIP 2 NaFlex",
        dimensions=_siglip_dimensions,
        context=_positions(64),
        processor="Siglip2ImageProcessor",
        pads_to_context=True,
        attends_to_padding=True,
    ),
    "metaclip_2": Family(title="MetaCLIP 2", dimensions=_projection(512), context=_positions(77), processor=_CLIP),
    "altclip": Family(title="AltCLIP", dimensions=_projection(768), context=_roberta_positions, processor=_CLIP),
    "chinese_clip": Family(
        title="ChineseCLIP",
        dimensions=_projection(512),
        context=_positions(512),
        processor="ChineseCLIPImageProcessor",
    ),
    # Its processor cuts at 64 tokens and pads to them; the padding is masked, and the shorter batch has equal vectors.
    "align": Family(
        title="ALIGN",
        dimensions=_align_dimensions,
        context=_positions(512, most=64),
        processor="EfficientNetImageProcessor",
    ),
}
"""The families by `model_type` in config.json."""

_TITLES = ", ".join(family.title for family in FAMILIES.values())
