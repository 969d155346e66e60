"""Finds the files of a model: downloads them from the hub, reads its JSON files and hashes its weights."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from searchdb.errors import ModelUnavailableError

log = logging.getLogger(__name__)

HUB_FILES = ["config.json", "preprocessor*.json", "tokenizer*.json", "special_tokens*.json", "vocab.*", "merges.*"]
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
"""Weight files in HF layout; `from_pretrained` loads the first pattern that matches."""


def download(name: str) -> Path:
    """Return the folder of a hub model in the local cache, downloading it first if necessary.

    Raises:
        ModelUnavailableError: the name is not a hub name, or the download failed.
    """
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType] - partially typed
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if (cached / "config.json").exists() and _weight_files(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as exc:
        raise ModelUnavailableError(name, "it is neither a folder nor a valid hub name") from exc
    log.warning("downloading %s from the Hugging Face hub (once)", name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, WEIGHT_PATTERNS[0]]))
        if not _weight_files(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, WEIGHT_PATTERNS[1]]))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as exc:
        raise ModelUnavailableError(
            name, f"it cannot be downloaded from the Hugging Face hub ({first_line(exc)})"
        ) from exc
    return folder


def _weight_files(folder: Path) -> list[Path]:
    for pattern in WEIGHT_PATTERNS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def weights_sha256(name: str, folder: Path) -> bytes:
    """Return the SHA-256 of the weight file, or of the joined digests of its parts if there are several.

    Raises:
        ModelUnavailableError: the folder has no weights.
    """
    files = _weight_files(folder)
    if not files:
        raise ModelUnavailableError(name, f"{folder} has no weights ({' or '.join(WEIGHT_PATTERNS)})")
    digests = [_file_sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()


def _file_sha256(path: Path) -> bytes:
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name):
        return bytes.fromhex(target.name)  # the hub's cache names large files by their SHA-256
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_json(name: str, path: Path) -> dict[str, Any]:
    """Return the content of one of the model's JSON files.

    Raises:
        ModelUnavailableError: the file is missing or malformed.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnavailableError(name, f"{path} cannot be read ({first_line(exc)})") from exc


def first_line(exc: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters; its class name if it has none."""
    return str(exc).strip().split("\n")[0][:200] or type(exc).__name__
