"""Loads a model and its tokenizer from a folder, and says what is missing where that fails."""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from searchdb.errors import ModelUnavailableError
from searchdb.media.model_files import first_line, read_json
from searchdb.media.models.devices import choose_device, choose_dtype
from searchdb.media.models.families import dimension_of, read_config

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
"""Files that a tokenizer is made of without further packages; without any, transformers silently makes an empty one."""
SENTENCEPIECE_PACKAGES = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
"""What reads a tokenizer in sentencepiece's format (*.model): the modules, and the packages that they are in."""


def load_model(name: str, folder: Path, *, device: str, dtype: str) -> Any:
    """Return the model of a folder, ready to run.

    Raises:
        ModelUnavailableError: its weights are missing or damaged, or are not those of its config.json.
    """
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what matters of its warnings is an error of ours
    chosen_device = choose_device(name, device)
    chosen_dtype = choose_dtype(chosen_device, dtype)
    _check_dtype(name, folder)
    load = cast("Any", AutoModel.from_pretrained)  # pyright: ignore[reportUnknownMemberType] - untyped
    try:
        model, loading = load(
            folder, dtype=chosen_dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
        model.to(chosen_device).eval()
    # What config.json says goes through many functions of transformers and torch, which raise anything for it.
    except Exception as exc:
        raise ModelUnavailableError(name, _why_not_loaded(exc)) from exc
    if loading["missing_keys"]:
        some = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ModelUnavailableError(
            name, f"its weights lack {len(loading['missing_keys'])} of the model's tensors ({some}): copy them again"
        )
    config = model.config.to_dict()
    if dimension_of(name, config) != (read := dimension_of(name, read_config(name, folder))):
        raise ModelUnavailableError(
            name, f"its config.json says {read} numbers, the loaded model {dimension_of(name, config)}"
        )
    log.info("model %s on %s in %s", name, chosen_device, str(chosen_dtype).removeprefix("torch."))
    return model


def load_tokenizer(name: str, folder: Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        ModelUnavailableError: its files are missing or malformed, or need a package that is not installed.
    """
    _check_tokenizer_files(name, folder)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    declared = tokenizer_config(name, folder).get("tokenizer_class")
    # Where sentencepiece is not installed, transformers knows no SiglipTokenizer. tokenizer.json holds the same
    # tokenizer; it is taken even where sentencepiece is installed, so that texts have equal vectors on all machines.
    own_file = declared == "SiglipTokenizer" and (folder / "tokenizer.json").exists()
    load = cast("Any", PreTrainedTokenizerFast if own_file else AutoTokenizer).from_pretrained
    try:
        tokenizer = load(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as exc:
        raise ModelUnavailableError(
            name, f"its tokenizer needs a package that is not installed ({first_line(exc)}): install it with pip"
        ) from exc
    # tokenizers raises a bare Exception for a malformed tokenizer.json.
    except Exception as exc:
        raise ModelUnavailableError(name, f"its tokenizer cannot be loaded ({first_line(exc)})") from exc
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelUnavailableError(name, f"its tokenizer knows no words: a file of it is missing in {folder}")
    if tokenizer.pad_token_id is None:
        raise ModelUnavailableError(name, "its tokenizer has no padding token: name one in tokenizer_config.json")
    return tokenizer


def tokenizer_config(name: str, folder: Path) -> dict[str, Any]:
    """Return the content of tokenizer_config.json; empty if there is none.

    Raises:
        ModelUnavailableError: it is malformed.
    """
    path = folder / "tokenizer_config.json"
    return read_json(name, path) if path.exists() else {}


def check_tokenizer(name: str, folder: Path) -> None:
    """Check a folder's tokenizer without transformers, whose import takes seconds.

    Raises:
        ModelUnavailableError: its files are missing or malformed, or need a package that is not installed.
    """
    _check_tokenizer_files(name, folder)
    if (path := folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        try:
            Tokenizer.from_file(str(path))
        except Exception as exc:  # a bare one
            raise ModelUnavailableError(name, f"its tokenizer cannot be loaded ({first_line(exc)})") from exc


def _check_tokenizer_files(name: str, folder: Path) -> None:
    if any((folder / file).exists() for file in TOKENIZER_FILES):
        return
    pieces = sorted(path.name for path in folder.glob("*.model"))
    if not pieces:
        raise ModelUnavailableError(name, f"{folder} has no tokenizer.json")
    missing = [package for module, package in SENTENCEPIECE_PACKAGES.items() if not _is_installed(module)]
    if missing:
        raise ModelUnavailableError(
            name,
            f"its tokenizer {pieces[0]} is read by {' and '.join(missing)}, not installed here: "
            f"`pip install {' '.join(missing)}`, or add the model's tokenizer.json",
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _in_one_line(exc: Exception) -> str:
    """Return an exception's message without line breaks, at most 200 characters."""
    return " ".join(str(exc).split())[:200] or type(exc).__name__


def _check_dtype(name: str, folder: Path) -> None:
    """Refuse a config.json whose type of numbers torch does not have; only the tokenizer would fail for it."""
    import torch

    config = read_config(name, folder)
    for part in (config, config.get("text_config") or {}, config.get("vision_config") or {}):
        for wanted in (part.get("dtype"), part.get("torch_dtype")):
            if wanted is None or wanted == "auto" or isinstance(wanted, dict):
                continue
            shown = str(cast("object", wanted))
            if not isinstance(getattr(torch, shown.removeprefix("torch."), None), torch.dtype):
                raise ModelUnavailableError(
                    name, f"its config.json is malformed: torch has no type of numbers {shown[:40]!r}"
                )


def _why_not_loaded(exc: Exception) -> str:
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    if isinstance(exc, SafetensorError):
        return "its weights are damaged or cut: copy them again"
    if isinstance(exc, StrictDataclassError | ArithmeticError | AttributeError | LookupError | TypeError):
        return f"its config.json does not fit its kind of model ({_in_one_line(exc)})"
    if isinstance(exc, ImportError):
        return f"it needs a package that is not installed ({first_line(exc)})"
    if "ignore_mismatched_sizes" in str(exc) or re.search("size mismatch", str(exc)):
        return "its weights are those of another model: their sizes are not the ones that its config.json says"
    return first_line(exc)
