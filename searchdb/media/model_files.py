"""Finds the files of a model: downloads them from the hub, reads its JSON files and hashes its weights."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path
from typing import Any, cast

from searchdb.errors import ModelUnavailableError

log = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
SMALL_FILES = [
    "*config.json",
    "README.md",
    "tokenizer*.json",
    "special_tokens*.json",
    "vocab.*",
    "merges.*",
    "*.model",
    "model_index.json",
    "modules.json",
]
"""What a model on the hub has beside its weights; some hold only the one or the other file of a tokenizer."""
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
"""Weight files in HF layout; `from_pretrained` loads the first pattern that matches."""
MAX_JSON_BYTES = 16 * 1024 * 1024
"""Largest JSON file that is read: the longest on the hub, lists of added tokens, have a few megabytes."""
_SHOWN_CHARS = 40
SUBFOLDERS = ["*/*"]
"""Not downloaded: the weights of one model in other formats, or those of a pipeline's parts."""


def require_name(name: str) -> None:
    """Refuse an empty name of a model, which as a path would be the current folder.

    Raises:
        ModelUnavailableError: the name is empty.
    """
    if not name.strip():
        raise ModelUnavailableError(name, "the model's name is empty: give a hub name, a folder, or `demo`")


def cached_folder(name: str) -> Path | None:
    """Return the folder of a hub model in the local cache; None if it is not there, or without its weights.

    Raises:
        ModelUnavailableError: the name is not a hub name.
    """
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType] - partially typed
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as exc:
        raise ModelUnavailableError(name, "it is neither a folder nor a valid hub name") from exc
    return cached if (cached / "config.json").exists() and weight_files(cached) else None


def download(name: str, patterns: list[str]) -> Path:
    """Download the files of a hub model that match, and return its folder in the local cache.

    Raises:
        ModelUnavailableError: the download failed.
    """
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType] - partially typed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=SUBFOLDERS))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as exc:
        raise ModelUnavailableError(
            name, f"it cannot be downloaded from the Hugging Face hub ({first_line(exc)})"
        ) from exc


def weight_files(folder: Path) -> list[Path]:
    """Return the files of the model's weights, in order; empty if there are none."""
    for pattern in WEIGHT_PATTERNS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def weights_sha256(name: str, folder: Path) -> bytes:
    """Return the SHA-256 of the weight file, or of the joined digests of its parts if there are several.

    Raises:
        ModelUnavailableError: the folder has no weights, or they cannot be read.
    """
    files = weight_files(folder)
    if not files:
        raise ModelUnavailableError(name, f"{folder} has no weights ({' or '.join(WEIGHT_PATTERNS)})")
    try:
        digests = [_file_sha256(path) for path in files]
    except OSError as exc:
        raise ModelUnavailableError(name, f"its weights cannot be read ({first_line(exc)})") from exc
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
        ModelUnavailableError: the file is missing or malformed, no object, or larger than MAX_JSON_BYTES.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise ModelUnavailableError(name, f"{path} has {size:,} bytes, the limit is {MAX_JSON_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as exc:
        raise ModelUnavailableError(name, f"{path} cannot be read ({first_line(exc)})") from exc
    except UnicodeDecodeError as exc:
        raise ModelUnavailableError(name, f"{path} cannot be read (it is not UTF-8)") from exc
    except (ValueError, RecursionError) as exc:  # limits of Python's own, which its message is about
        reason = "it is nested too deeply, or has a number of thousands of digits"
        raise ModelUnavailableError(name, f"{path} cannot be read ({reason})") from exc
    if not isinstance(content, dict):
        raise ModelUnavailableError(name, f"{path} holds no JSON object, {{...}}")
    return cast("dict[str, Any]", content)


def shown_value(value: Any) -> str:
    """Return the beginning of a value of a JSON file, for messages."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def first_line(exc: BaseException) -> str:
    """Return the first line of an exception's message, at most 200 characters; its class name if it has none."""
    return str(exc).strip().split("\n")[0][:200] or type(exc).__name__
