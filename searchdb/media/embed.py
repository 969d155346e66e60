"""Turns images and texts into unit vectors with CLIP; the only importer of torch and transformers outside the demo."""

from __future__ import annotations

import importlib
import logging
import math
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
from searchdb.media.model_files import download, first_line, read_json, weights_sha256
from searchdb.records import DEFAULT_DIMENSION, DEMO_MODEL, ModelIdentity

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
BATCH_SIZE = 32
"""Images in one forward pass: the fastest size on a CPU; larger batches do not fit its caches."""
TEXT_BATCH_SIZE = 8
"""Texts of similar length in one forward pass. Each is padded to the longest of its batch, and padding costs as much as
words. For 64 texts of 2 to 40 words this took 0.7 of the time of unsorted batches of 32."""
PASSES_AT_ONCE = 8
"""Parallel forward passes on a CPU, each on one core or a few. A pass on all cores waits at every layer for the slowest
core, which is busy decoding."""
MAX_SCALED_ASPECT = 8
"""Largest aspect ratio at which the whole image is scaled before the centre is cropped."""


class CLIPEmbedder:
    """One CLIP model, loaded at first use; safe to use from several threads.

    Args:
        model: a hub name, a folder in Hugging Face layout, or `demo`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`. `auto` takes bfloat16 where the hardware supports it (AMX,
            AVX512-BF16, CUDA), float16 on other CUDA devices, and float32 elsewhere. Vectors are always float32.
    """

    def __init__(self, model: str, *, device: str = "auto", dtype: str = "auto") -> None:
        self.name = model
        self._device = device
        self._dtype = dtype
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the model's files, downloaded from the hub if necessary.

        Raises:
            ModelUnavailableError: the folder does not exist, or the download failed.
        """
        if self.name == DEMO_MODEL:
            return DEMO_FOLDER
        local = Path(self.name).expanduser()
        if local.is_dir():
            return local.resolve()
        if local.is_absolute() or self.name.startswith((".", "~")):
            raise ModelUnavailableError(self.name, "there is no such folder")
        return download(self.name)

    @property
    def identity(self) -> ModelIdentity:
        """The model's name and the SHA-256 of its weights; available without loading the model.

        Raises:
            ModelUnavailableError: the model's files are missing and cannot be downloaded.
        """
        return self._identity

    @cached_property
    def _identity(self) -> ModelIdentity:
        is_folder = self.name != DEMO_MODEL and Path(self.name).expanduser().is_dir()
        name = str(self.folder) if is_folder else self.name
        return ModelIdentity(
            name=name, weights_sha256=weights_sha256(self.name, self.folder), dimension=DEFAULT_DIMENSION
        )

    def load(self) -> None:
        """Load the model now instead of at first use.

        Raises:
            ModelUnavailableError: it cannot be loaded.
            ModelShapeError: its projection is not 512 numbers wide.
        """
        self._model()

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of the model's input."""
        return self._preprocessing.crop

    @property
    def shortest_edge(self) -> int:
        """Length in pixels to which `resize` scales an image's shorter side."""
        return self._preprocessing.shortest_edge

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale and crop an RGB image to `image_size`, bit-equal to the model's own processor.

        An image with an aspect ratio above MAX_SCALED_ASPECT is cropped first: scaling all of a 1 x 20,000 pixel image
        would take gigabytes. Its pixels then differ from the processor's only by the rounding between Pillow's two
        passes.
        """
        crop_width, crop_height = self._preprocessing.crop
        edge = self._preprocessing.shortest_edge
        width, height = image.size
        long = int(edge * max(width, height) / min(width, height))
        scaled = (edge, long) if width <= height else (long, edge)
        left, top = (scaled[0] - crop_width) // 2, (scaled[1] - crop_height) // 2
        resample = Image.Resampling(self._preprocessing.resample)
        if long <= edge * MAX_SCALED_ASPECT:
            whole = image if image.size == scaled else image.resize(scaled, resample)
            return whole.crop((left, top, left + crop_width, top + crop_height))
        x, y = width / scaled[0], height / scaled[1]
        box = (left * x, top * y, (left + crop_width) * x, (top + crop_height) * y)
        return image.resize((crop_width, crop_height), resample, box=box)

    def embed_images(self, images: Sequence[Image.Image], /) -> np.ndarray:
        """Return the unit vectors of RGB images, float32 of shape (len(images), 512)."""
        loaded = self._model()
        pixels = np.stack([np.asarray(self.resize(image)) for image in images]) if images else None
        return np.empty((0, DEFAULT_DIMENSION), np.float32) if pixels is None else loaded.embed_pixels(pixels)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors of texts, float32 of shape (len(texts), 512).

        Text beyond the model's context (77 tokens for CLIP) is truncated, with a warning in the log.
        """
        loaded = self._model()
        vectors = np.empty((len(texts), DEFAULT_DIMENSION), np.float32)
        by_length = sorted(range(len(texts)), key=lambda position: len(texts[position]))  # to minimise padding
        for start in range(0, len(texts), TEXT_BATCH_SIZE):
            batch = by_length[start : start + TEXT_BATCH_SIZE]
            vectors[batch] = loaded.embed_texts([texts[position] for position in batch])
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
    """Import torch and transformers, which takes seconds, without loading a model; for a process that will fork."""
    for name in ("torch", "transformers.models.clip.modeling_clip", "transformers.models.auto.tokenization_auto"):
        importlib.import_module(name)


@dataclass(frozen=True, kw_only=True)
class _Preprocessing:
    """The contents of preprocessor_config.json; sizes in pixels, `crop` as (width, height)."""

    shortest_edge: int
    crop: tuple[int, int]
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @classmethod
    def read(cls, name: str, folder: Path) -> _Preprocessing:
        config = read_json(name, folder / "preprocessor_config.json")
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
    """The model in memory. A batch of images is split over the cores; texts and single images use all of them.

    Texts and single images run in one dedicated thread: OpenMP keeps a thread team for each thread that computes, and
    with more OpenMP threads than cores they sleep at every layer. A text then took 24 ms instead of 12 (ViT-B/32, two
    cores).
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
        self._single = ThreadPoolExecutor(1, thread_name_prefix="embed-single")
        cores = torch.get_num_threads()
        self._passes = min(cores, PASSES_AT_ONCE) if model.device.type == "cpu" else 1
        self._workers = ThreadPoolExecutor(
            self._passes,
            thread_name_prefix="embed",
            initializer=torch.set_num_threads,  # applies to the calling thread
            initargs=(cores // self._passes,),
        )

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed pixels, uint8 of shape (n, height, width, 3)."""
        if len(pixels) == 1:
            return self._single.submit(self._embed_batch, pixels).result()
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
        """Embed texts, truncated to the model's context."""
        return self._single.submit(self._embed_texts, list(texts)).result()

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        with self._torch.inference_mode():
            untruncated = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            for text, tokens in zip(texts, untruncated, strict=True):
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
    config = read_json(name, folder / "config.json")
    if config.get("model_type") != "clip":
        raise ModelUnavailableError(name, f"it is a model of type {config.get('model_type')!r}, not clip")
    dimension = config.get("projection_dim", DEFAULT_DIMENSION)
    if dimension != DEFAULT_DIMENSION:
        raise ModelShapeError(name, dimension, DEFAULT_DIMENSION)

    # Without these files transformers silently makes an empty tokenizer.
    if not any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")):
        raise ModelUnavailableError(name, f"{folder} has no tokenizer.json")

    from safetensors import SafetensorError
    from transformers import AutoTokenizer, CLIPModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    chosen_device = _choose_device(name, device)
    chosen_dtype = _choose_dtype(chosen_device, dtype)
    try:
        load_model = cast("Any", CLIPModel.from_pretrained)  # pyright: ignore[reportUnknownMemberType] - untyped
        load_tokenizer = cast("Any", AutoTokenizer.from_pretrained)  # pyright: ignore[reportUnknownMemberType] - untyped
        model, loading = load_model(folder, dtype=chosen_dtype, local_files_only=True, output_loading_info=True)
        model.to(chosen_device).eval()
        tokenizer = load_tokenizer(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as exc:
        raise ModelUnavailableError(name, first_line(exc)) from exc
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
    if device.type == "cpu":
        cpu: Any = torch.cpu  # torch has no public check for these instructions
        if cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported():
            return torch.bfloat16
    return torch.float32
