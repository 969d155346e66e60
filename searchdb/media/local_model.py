"""Finds out which weights a model's name means on this machine, without downloading anything."""

from __future__ import annotations

from pathlib import Path

from searchdb.errors import ModelUnavailableError
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.model_files import cached_folder, require_name
from searchdb.records import DEMO_MODEL, ModelIdentity


def local_model(name: str) -> ModelIdentity | None:
    """Return the identity of a model that is here: the demo's, a folder's, or one in the hub's cache; None otherwise.

    Raises:
        ModelUnavailableError: the name is empty, or a path where there is no model.
        ModelShapeError: its vectors have too few or too many numbers.
    """
    require_name(name)
    local = Path(name).expanduser()
    is_path = local.is_absolute() or name.startswith((".", "~")) or local.is_dir()
    if name != DEMO_MODEL and not is_path:
        try:
            if cached_folder(name) is None:
                return None
        except ModelUnavailableError:  # a name that the hub could not have, such as that of a model of one's own
            return None
    return CLIPEmbedder(name).identity
