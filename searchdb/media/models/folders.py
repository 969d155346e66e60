"""Finds the folder with a model's files: the demo's, one that was named, or one in the hub's local cache."""

from __future__ import annotations

import logging
from pathlib import Path

from searchdb.errors import ModelUnavailableError
from searchdb.media.model_files import (
    DEMO_FOLDER,
    SMALL_FILES,
    WEIGHT_PATTERNS,
    cached_folder,
    download,
    require_name,
    weight_files,
)
from searchdb.media.models.families import family_of
from searchdb.records import DEMO_MODEL

log = logging.getLogger(__name__)


def local_folder(name: str) -> Path | None:
    """Return the folder of a model that is on this machine; None for a hub model that is not.

    Raises:
        ModelUnavailableError: the folder does not exist, or the name is empty, or neither a folder nor a hub name.
    """
    require_name(name)
    if name == DEMO_MODEL:
        return DEMO_FOLDER
    local = Path(name).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.is_absolute() or name.startswith((".", "~")):
        raise ModelUnavailableError(name, "there is no such folder")
    return cached_folder(name)


def model_folder(name: str) -> Path:
    """Return the folder of a model, downloaded from the hub if necessary.

    Raises:
        ModelUnavailableError: the folder does not exist, the download failed, or what the hub has under this name is
            no model that searchdb takes; its weights then are not downloaded.
    """
    if (folder := local_folder(name)) is not None:
        return folder
    log.warning("downloading %s from the Hugging Face hub (once)", name)
    family_of(name, download(name, SMALL_FILES))
    for pattern in WEIGHT_PATTERNS:
        folder = download(name, [*SMALL_FILES, pattern])
        if weight_files(folder):
            return folder
    raise ModelUnavailableError(name, f"the hub has no weights of it ({' or '.join(WEIGHT_PATTERNS)})")


def description_folder(name: str) -> Path:
    """Return a folder with at least what describes a model; of one that is not on this machine, without its weights.

    Raises:
        ModelUnavailableError: the folder does not exist, or the download failed.
    """
    return local_folder(name) or download(name, SMALL_FILES)
