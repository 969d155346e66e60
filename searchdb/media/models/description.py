"""Describes a model from its small files: family, numbers, context, languages, licence, size; loads no weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from searchdb.errors import ModelUnavailableError
from searchdb.media.model_files import weight_files, weights_sha256
from searchdb.media.models.families import context_of, dimension_of, family_of, read_config
from searchdb.media.models.folders import description_folder
from searchdb.media.models.loading import tokenizer_config
from searchdb.media.models.preprocessing import Preprocessing
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a model's files say about it.

    Attributes:
        name: the name or folder that it is loaded by.
        family: such as `SigLIP`; `model_type` is what transformers calls it.
        dimension: numbers of a vector.
        context_length: most tokens of a text.
        image_size: width and height of its input in pixels; of a square image's where it depends on the image.
        languages: the codes or names in its card; empty if it does not say.
        licence: the licence in its card; None if it does not say.
        folder: where its files are.
        bytes_on_disk: bytes of all its files; None if its weights are not on this machine.
        weights: the first digits of the weights' SHA-256, which tell models apart; None if they are not here.
        usable: whether the number of its numbers is one that searchdb stores.
    """

    name: str
    family: str
    model_type: str
    dimension: int
    context_length: int
    image_size: tuple[int, int]
    languages: tuple[str, ...]
    licence: str | None
    folder: str
    bytes_on_disk: int | None
    weights: str | None

    @property
    def usable(self) -> bool:
        """Whether the number of its numbers is one that searchdb stores."""
        return MIN_DIMENSION <= self.dimension <= MAX_DIMENSION


def describe_model(name: str, folder: Path | None = None, *, hash_weights: bool = True) -> ModelDescription:
    """Describe a model. Of one that is on this machine nothing is fetched; of another only its small files.

    Args:
        name: a hub name, a folder in Hugging Face layout, or `demo`.
        folder: the folder with its files, if it is known.
        hash_weights: whether `weights` is told: outside the hub's cache, the whole file is read for it.

    Raises:
        ModelUnavailableError: it cannot be found, or is no model that searchdb takes.
    """
    folder = folder or description_folder(name)
    family, config = family_of(name, folder), read_config(name, folder)
    card = read_card(folder)
    here = bool(weight_files(folder))
    return ModelDescription(
        name=name,
        family=family.title,
        model_type=config["model_type"],
        dimension=dimension_of(name, config),
        context_length=context_of(name, config, tokenizer_config(name, folder).get("model_max_length")),
        image_size=Preprocessing.read(name, folder, family.processor).geometry.image_size,
        languages=_strings(card.get("language") or card.get("languages")),
        licence=_licence(card),
        folder=str(folder),
        bytes_on_disk=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if here else None,
        weights=weights_sha256(name, folder).hex()[:12] if here and hash_weights else None,
    )


def models_here() -> list[ModelDescription]:
    """Describe the models on this machine that searchdb takes: the demo's, and those in the hub's cache, by name."""
    found = [describe_model("demo", hash_weights=False)]
    for name, folder in _cached_folders():
        try:
            found.append(describe_model(name, folder, hash_weights=False))
        except ModelUnavailableError as exc:
            log.debug("%s is not listed: %s", name, exc)
    return found


def read_card(folder: Path) -> Mapping[str, Any]:
    """Return the front matter of a model's card (README.md); empty if there is none or it is malformed."""
    import yaml
    from huggingface_hub import metadata_load  # pyright: ignore[reportUnknownVariableType]

    try:
        return cast("Mapping[str, Any] | None", metadata_load(folder / "README.md")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}


def _cached_folders() -> list[tuple[str, Path]]:
    """Return name and folder of the models in the hub's cache whose weights are there, in the order of their names."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    found = list[tuple[str, Path]]()
    for repo in repos:
        revisions = sorted(repo.revisions, key=lambda revision: ("main" in revision.refs, revision.last_modified))
        if repo.repo_type == "model" and revisions and weight_files(revisions[-1].snapshot_path):
            found.append((repo.repo_id, revisions[-1].snapshot_path))
    return sorted(found)


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, cast("Sequence[Any]", value))) if isinstance(value, list | tuple) else ()


def _licence(card: Mapping[str, Any]) -> str | None:
    licence = card.get("license")
    if licence == "other":  # then its name is beside it
        licence = card.get("license_name") or licence
    return " ".join(_strings(licence)) or None
