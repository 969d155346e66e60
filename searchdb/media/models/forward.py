"""Runs a loaded model: batches of images over the cores, texts and single images in a thread of their own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchdb.media.models.families import Family, context_of
from searchdb.media.models.geometry import Patches
from searchdb.media.models.loading import load_model, load_tokenizer
from searchdb.media.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

BATCH_SIZE = 32
"""Images in one forward pass: the fastest size on a CPU; larger batches do not fit its caches."""
PASSES_AT_ONCE = 8
"""Parallel forward passes on a CPU, each on one core or a few. A pass on all cores waits at every layer for the slowest
core, which is busy decoding."""


class LoadedModel:
    """The model in memory. A batch of images is split over the cores; texts and single images use all of them.

    Texts and single images run in one dedicated thread: OpenMP keeps a thread team for each thread that computes, and
    with more OpenMP threads than cores they sleep at every layer. A text then took 24 ms instead of 12 (ViT-B/32, two
    cores).

    Raises:
        ModelUnavailableError: it cannot be loaded.
    """

    def __init__(
        self, name: str, folder: Path, family: Family, preprocessing: Preprocessing, *, device: str, dtype: str
    ) -> None:
        model = load_model(name, folder, device=device, dtype=dtype)
        tokenizer = load_tokenizer(name, folder)
        import torch

        self._torch = torch
        self._model = model
        context = context_of(name, model.config.to_dict(), tokenizer.model_max_length)
        self._texts = _Texts(model, tokenizer, family, context)
        self._values = _values_of(preprocessing, model)
        self._single = ThreadPoolExecutor(1, thread_name_prefix="embed-single")
        cores = torch.get_num_threads()
        self._passes = min(cores, PASSES_AT_ONCE) if model.device.type == "cpu" else 1
        self._workers = ThreadPoolExecutor(
            self._passes,
            thread_name_prefix="embed",
            initializer=torch.set_num_threads,  # applies to the calling thread
            initargs=(cores // self._passes,),
        )

    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embed at least one image, each uint8 of shape (height, width, 3)."""
        if len(pixels) == 1:
            return self._single.submit(self._embed_batch, pixels).result()
        size = min(BATCH_SIZE, math.ceil(len(pixels) / self._passes))
        batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        return np.concatenate(list(self._workers.map(self._embed_batch, batches)))

    def _embed_batch(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._unit(self._model.get_image_features(**self._values(pixels)))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, truncated to the model's context."""
        return self._single.submit(self._embed_texts, list(texts)).result()

    def _embed_texts(self, texts: list[str]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._unit(self._model.get_text_features(**self._texts.inputs(texts)))

    def _unit(self, features: Any) -> np.ndarray:
        vectors = features.pooler_output.float()
        return self._torch.nn.functional.normalize(vectors, dim=-1).cpu().numpy()


class _Texts:
    """Makes the model's input of texts: tokens, in lower case where the model was trained on that, padded and cut."""

    def __init__(self, model: Any, tokenizer: Any, family: Family, context: int) -> None:
        self._device = model.device
        self._tokenizer = tokenizer
        self._context = context
        self._padding = "max_length" if family.pads_to_context else True
        # What the tokenizer returns is what the model takes, but a mask that the model was trained without.
        self._left_out = {"attention_mask"} if family.attends_to_padding else set[str]()
        # SigLIP 2 was trained on lower case, which its tokenizer in transformers leaves to the caller:
        # https://github.com/google-research/big_vision/issues/166
        self._lower = family.attends_to_padding and type(tokenizer).__name__.startswith("Gemma")

    def inputs(self, texts: list[str]) -> dict[str, torch.Tensor]:
        if self._lower:
            texts = [text.lower() for text in texts]
        untruncated = self._tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        for text, tokens in zip(texts, untruncated, strict=True):
            if len(tokens) > self._context:
                log.warning(
                    "the text %r has %d tokens, the model reads the first %d", text[:60], len(tokens), self._context
                )
        inputs = self._tokenizer(
            texts, padding=self._padding, truncation=True, max_length=self._context, return_tensors="pt"
        ).to(self._device)
        return {key: value for key, value in inputs.items() if key not in self._left_out}


def _values_of(preprocessing: Preprocessing, model: Any) -> Callable[[Sequence[np.ndarray]], dict[str, torch.Tensor]]:
    """Return the function that makes the model's input of images: of one size, or of patches."""
    import torch

    mean = torch.tensor(preprocessing.mean, device=model.device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=model.device).view(1, 3, 1, 1)

    def normalised(pixels: np.ndarray) -> torch.Tensor:
        values = torch.as_tensor(pixels).to(model.device).permute(0, 3, 1, 2).float()
        return (values * preprocessing.rescale - mean) / std

    def whole(pixels: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        return {"pixel_values": normalised(np.stack(pixels)).to(model.dtype)}

    geometry = preprocessing.geometry
    if not isinstance(geometry, Patches):
        return whole
    side, most = geometry.patch, geometry.most

    def patches(pixels: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        values = torch.zeros((len(pixels), most, side * side * 3), device=model.device)
        mask = torch.zeros((len(pixels), most), dtype=torch.int32, device=model.device)
        shapes = [(each.shape[0] // side, each.shape[1] // side) for each in pixels]
        for number, (each, (rows, columns)) in enumerate(zip(pixels, shapes, strict=True)):
            split = normalised(each[None].copy())[0].view(3, rows, side, columns, side).permute(1, 3, 2, 4, 0)
            values[number, : rows * columns] = split.reshape(rows * columns, -1)
            mask[number, : rows * columns] = 1
        return {
            "pixel_values": values.to(model.dtype),
            "pixel_attention_mask": mask,
            "spatial_shapes": torch.tensor(shapes, device=model.device),
        }

    return patches
