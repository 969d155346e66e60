"""Turns pictures and texts into unit vectors with CLIP; the only importer of torch and transformers, both lazily."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from searchdb.errors import ModelShapeError, ModelUnavailableError
from searchdb.records import EMBEDDING_DIMENSION, ModelIdentity

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DEMO_MODEL = "demo"
DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
BATCH_SIZE = 32
"""Pictures in one forward pass: on a CPU the fastest size, larger batches leave its caches."""
TEXT_BATCH_SIZE = 8
"""Texts, of about one length, in one forward pass: each is padded to the longest of its batch, which costs as much as
words do. 64 texts of 2 to 40 words took 0.7 of the time that batches of 32 took as they came."""
PASSES_AT_ONCE = 8
"""Forward passes side by side on a CPU, a core or a few each: a pass on all cores waits at every layer for the slowest,
which is busy decoding."""
MAX_SCALED_ASPECT = 8
"""Longest picture, as a multiple of its shorter side, that is scaled whole before its middle is cut out."""
HUB_FILES = ["config.json", "preprocessor*.json", "tokenizer*.json", "special_tokens*.json", "vocab.*", "merges.*"]
WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
"""Where weights lie in HF layout; the first pattern that matches is what `from_pretrained` loads."""


class CLIPEmbedder:
    """One CLIP model, loaded when first needed; safe to use from several threads.

    Args:
        model: a hub name, a folder in Hugging Face layout, or `demo`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`. `auto` takes bfloat16 where the processor computes with it
            (AMX or AVX512-BF16; CUDA, else float16 there), and float32 elsewhere. Vectors are float32 in any case.
    """

    def __init__(self, model: str, *, device: str = "auto", dtype: str = "auto") -> None:
        self.name = model
        self._device = device
        self._dtype = dtype
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the model's files, downloaded from the hub if need be.

        Raises:
            ModelUnavailableError: there is none.
        """
        if self.name == DEMO_MODEL:
            return DEMO_FOLDER
        local = Path(self.name).expanduser()
        if local.is_dir():
            return local.resolve()
        if local.is_absolute() or self.name.startswith((".", "~")):
            raise ModelUnavailableError(self.name, "there is no such folder")
        return _from_hub(self.name)

    @property
    def identity(self) -> ModelIdentity:
        """The model's name and the SHA-256 of its weights; known without loading it.

        Raises:
            ModelUnavailableError: the model's files cannot be had.
        """
        return self._identity

    @cached_property
    def _identity(self) -> ModelIdentity:
        is_folder = self.name != DEMO_MODEL and Path(self.name).expanduser().is_dir()
        name = str(self.folder) if is_folder else self.name
        return ModelIdentity(name=name, weights_sha256=_weights_sha256(self.name, self.folder))

    def load(self) -> None:
        """Load the model now rather than at first use.

        Raises:
            ModelUnavailableError: it cannot be loaded.
            ModelShapeError: its projection is not 512 numbers wide.
        """
        self._model()

    @property
    def picture_size(self) -> tuple[int, int]:
        """Width and height in pixels of the pictures that the model takes."""
        return self._preprocessing.crop

    @property
    def shortest_edge(self) -> int:
        """Pixels that `resize` scales a picture's shorter side to."""
        return self._preprocessing.shortest_edge

    def resize(self, picture: Image.Image) -> Image.Image:
        """Scale and crop an RGB picture to `picture_size`, bit-equal to the model's own processor.

        A picture longer than MAX_SCALED_ASPECT is cut to that first: scaled whole, one of 1 x 20,000 pixels would take
        gigabytes. Its pixels are the processor's but for the rounding between Pillow's two passes.
        """
        crop_width, crop_height = self._preprocessing.crop
        edge = self._preprocessing.shortest_edge
        width, height = picture.size
        long = int(edge * max(width, height) / min(width, height))
        scaled = (edge, long) if width <= height else (long, edge)
        left, top = (scaled[0] - crop_width) // 2, (scaled[1] - crop_height) // 2
        resample = Image.Resampling(self._preprocessing.resample)
        if long <= edge * MAX_SCALED_ASPECT:
            whole = picture if picture.size == scaled else picture.resize(scaled, resample)
            return whole.crop((left, top, left + crop_width, top + crop_height))
        x, y = width / scaled[0], height / scaled[1]
        box = (left * x, top * y, (left + crop_width) * x, (top + crop_height) * y)
        return picture.resize((crop_width, crop_height), resample, box=box)

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return the unit vectors of RGB pictures, float32 of shape (len(pictures), 512)."""
        loaded = self._model()
        pixels = np.stack([np.asarray(self.resize(picture)) for picture in pictures]) if pictures else None
        return np.empty((0, EMBEDDING_DIMENSION), np.float32) if pixels is None else loaded.embed_pixels(pixels)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors of texts, float32 of shape (len(texts), 512).

        What exceeds the model's context (77 tokens for CLIP) is cut off, with a warning in the log.
        """
        loaded = self._model()
        vectors = np.empty((len(texts), EMBEDDING_DIMENSION), np.float32)
        by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # so that little is padded
        for start in range(0, len(texts), TEXT_BATCH_SIZE):
            places = by_length[start : start + TEXT_BATCH_SIZE]
            vectors[places] = loaded.embed_texts([texts[place] for place in places])
        return vectors

    @cached_property
    def _preprocessing(self) -> _Preprocessing:
        return _Preprocessing.read(self.name, self.folder)

    def _model(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.name, self.folder, self._preprocessing, self._device, self._dtype)
            return self._loaded


def import_libraries() -> None:
    """Import torch and transformers, which takes seconds, and load no model: for a process that is going to fork."""
    for name in ("torch", "transformers.models.clip.modeling_clip", "transformers.models.auto.tokenization_auto"):
        importlib.import_module(name)


@dataclass(frozen=True, kw_only=True)
class _Preprocessing:
    """What preprocessor_config.json says; sizes in pixels, `crop` as (width, height)."""

    shortest_edge: int
    crop: tuple[int, int]
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @classmethod
    def read(cls, name: str, folder: Path) -> _Preprocessing:
        config = _read_json(name, folder / "preprocessor_config.json")
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        usual = all(config.get(step, True) for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"))
        try:
            edge = size if isinstance(size, int) else size["shortest_edge"]
            crop = (crop, crop) if isinstance(crop, int) else (crop["width"], crop["height"])
            if not usual or edge < max(crop):
                raise ValueError("resize, centre crop, normalise")
            return cls(
                shortest_edge=edge,
                crop=crop,
                resample=config.get("resample", Image.Resampling.BICUBIC),
                mean=tuple(config["image_mean"]),
                std=tuple(config["image_std"]),
                rescale=config.get("rescale_factor", 1 / 255),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise ModelUnavailableError(name, f"its preprocessor_config.json is not CLIP's: {exc}") from exc


class _Loaded:
    """The model in memory. Pictures are spread over the cores; texts, and a picture by itself, have them all.

    These run in one thread, whoever asks: OpenMP keeps a team of threads for each thread that computes, and where there
    are more of them than cores they sleep at every layer. A text then took 24 ms instead of 12 (ViT-B/32, two cores).
    """

    def __init__(self, model: Any, tokenizer: Any, preprocessing: _Preprocessing) -> None:
        import torch

        self._torch = torch
        self._model = model
        self._tokenizer = tokenizer
        self._context = int(model.config.text_config.max_position_embeddings)
        self._rescale = preprocessing.rescale
        self._mean = torch.tensor(preprocessing.mean, device=model.device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=model.device).view(1, 3, 1, 1)
        self._alone = ThreadPoolExecutor(1, thread_name_prefix="embed-alone")
        cores = torch.get_num_threads()
        self._passes = min(cores, PASSES_AT_ONCE) if model.device.type == "cpu" else 1
        self._workers = ThreadPoolExecutor(
            self._passes,
            thread_name_prefix="embed",
            initializer=torch.set_num_threads,  # of the thread that calls it
            initargs=(cores // self._passes,),
        )

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed pixels, uint8 of shape (n, height, width, 3)."""
        if len(pixels) == 1:
            return self._alone.submit(self._embed_batch, pixels).result()
        size = min(BATCH_SIZE, math.ceil(len(pixels) / self._passes))
        batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return np.concatenate(list(self._workers.map(self._embed_batch, batches)))

    def _embed_batch(self, pixels: np.ndarray) -> np.ndarray:
        torch, model = self._torch, self._model
        with torch.inference_mode():
            values = torch.from_numpy(pixels).to(model.device).permute(0, 3, 1, 2).float()
            values = (values * self._rescale - self._mean) / self._std
            return self._unit(model.get_image_features(pixel_values=values.to(model.dtype)))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, cut to the model's context."""
        return self._alone.submit(self._embed_texts, list(texts)).result()

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        with self._torch.inference_mode():
            whole = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            for text, tokens in zip(texts, whole, strict=True):
                if len(tokens) > self._context:
                    log.warning(
                        "the text %r has %d tokens, the model reads the first %d", text[:60], len(tokens), self._context
                    )
            inputs = self._tokenizer(
                texts, padding=True, truncation=True, max_length=self._context, return_tensors="pt"
            ).to(self._model.device)
            return self._unit(
                self._model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            )

    def _unit(self, features: Any) -> np.ndarray:
        vectors = features.pooler_output.float()
        return self._torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()


def _load(name: str, folder: Path, preprocessing: _Preprocessing, device: str, dtype: str) -> _Loaded:
    config = _read_json(name, folder / "config.json")
    if config.get("model_type") != "clip":
        raise ModelUnavailableError(name, f"it is a {config.get('model_type', 'nameless')} model, not CLIP")
    dimension = config.get("projection_dim", EMBEDDING_DIMENSION)
    if dimension != EMBEDDING_DIMENSION:
        raise ModelShapeError(name, dimension, EMBEDDING_DIMENSION)

    # Without these transformers makes an empty tokenizer, silently.
    if not any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")):
        raise ModelUnavailableError(name, f"{folder} has no tokenizer.json")

    from safetensors import SafetensorError
    from transformers import AutoTokenizer, CLIPModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    chosen_device = _choose_device(name, device)
    chosen_dtype = _choose_dtype(chosen_device, dtype)
    try:
        model, loading = cast(
            "tuple[Any, dict[str, Any]]",
            CLIPModel.from_pretrained(folder, dtype=chosen_dtype, local_files_only=True, output_loading_info=True),
        )
        model.to(chosen_device).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
        raise ModelUnavailableError(name, _first_line(exc)) from exc
    if loading["missing_keys"]:
        raise ModelUnavailableError(name, f"its weights lack {len(loading['missing_keys'])} of the model's tensors")
    log.info("model %s on %s in %s", name, chosen_device, str(chosen_dtype).removeprefix("torch."))
    return _Loaded(model, tokenizer, preprocessing)


def _choose_device(name: str, wanted: str) -> torch.device:
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[device.type] or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ModelUnavailableError(name, f"this machine has no device {wanted} (SEARCHDB_DEVICE)")
    return device


def _choose_dtype(device: torch.device, wanted: str) -> torch.dtype:
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return torch.bfloat16
    return torch.float32


def _from_hub(name: str) -> Path:
    """Return the folder of the hub's model in the local cache, filling it first if need be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
        if (cached / "config.json").exists() and _weight_files(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as exc:
        raise ModelUnavailableError(name, "it is neither a folder nor a name on the hub") from exc
    log.warning("downloading %s from the Hugging Face hub, once", name)
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, WEIGHT_PATTERNS[0]]))
        if not _weight_files(folder):
            folder = Path(snapshot_download(name, allow_patterns=[*HUB_FILES, WEIGHT_PATTERNS[1]]))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as exc:
        raise ModelUnavailableError(name, f"the Hugging Face hub gave no such model ({_first_line(exc)})") from exc
    return folder


def _weight_files(folder: Path) -> list[Path]:
    for pattern in WEIGHT_PATTERNS:
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _weights_sha256(name: str, folder: Path) -> bytes:
    """Return the SHA-256 of the weights: of the file, or of its parts' digests where they are several."""
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


def _read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ModelUnavailableError(name, f"{path} cannot be read ({_first_line(exc)})") from exc


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().split("\n")[0][:200] or type(exc).__name__
