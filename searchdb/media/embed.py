"""Turns images and texts into unit vectors with a model of the CLIP kind; loads it when it is first needed."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from searchdb.errors import ModelOutputError, ModelShapeError
from searchdb.media.model_files import DEMO_FOLDER, weights_sha256
from searchdb.media.models.families import Family, dimension_of, family_of, read_config
from searchdb.media.models.folders import model_folder
from searchdb.media.models.geometry import MAX_SCALED_ASPECT
from searchdb.media.models.loading import check_tokenizer
from searchdb.media.models.preprocessing import Preprocessing
from searchdb.records import DEMO_MODEL, MAX_DIMENSION, MIN_DIMENSION, ModelIdentity

if TYPE_CHECKING:
    from searchdb.media.models.forward import LoadedModel

__all__ = ["DEMO_FOLDER", "MAX_SCALED_ASPECT", "TEXT_BATCH_SIZE", "CLIPEmbedder", "import_libraries"]

TEXT_BATCH_SIZE = 8
"""Texts of similar length in one forward pass. Each is padded to the longest of its batch, and padding costs as much as
words. For 64 texts of 2 to 40 words this took 0.7 of the time of unsorted batches of 32."""


class CLIPEmbedder:
    """One model of the CLIP kind, of any family in `FAMILIES`, loaded at first use; safe to use from several threads.

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
        self._loaded: LoadedModel | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the model's files, downloaded from the hub if necessary.

        Raises:
            ModelUnavailableError: the folder does not exist, or the download failed.
        """
        return model_folder(self.name)

    @property
    def identity(self) -> ModelIdentity:
        """The model's name, the SHA-256 of its weights and its dimension; available without loading the model.

        Raises:
            ModelUnavailableError: the model's files are missing and cannot be downloaded.
        """
        return self._identity

    @cached_property
    def _identity(self) -> ModelIdentity:
        is_folder = self.name != DEMO_MODEL and Path(self.name).expanduser().is_dir()
        name = str(self.folder) if is_folder else self.name
        dimension = self.dimension
        return ModelIdentity(name=name, weights_sha256=weights_sha256(self.name, self.folder), dimension=dimension)

    @property
    def dimension(self) -> int:
        """Numbers of a vector, from the model's config.json; available without loading the model.

        Raises:
            ModelUnavailableError: the model's files are missing, or of no family that is known.
            ModelShapeError: there are fewer than MIN_DIMENSION or more than MAX_DIMENSION.
        """
        return self._dimension

    @cached_property
    def _dimension(self) -> int:
        dimension = dimension_of(self.name, read_config(self.name, self.folder)) if self._family else 0
        if not MIN_DIMENSION <= dimension <= MAX_DIMENSION:
            raise ModelShapeError(self.name, dimension, least=MIN_DIMENSION, most=MAX_DIMENSION)
        return dimension

    def load(self) -> None:
        """Load the model now instead of at first use.

        Raises:
            ModelUnavailableError: it cannot be loaded.
            ModelShapeError: its vectors have too few or too many numbers.
        """
        self._model()

    def check_files(self) -> None:
        """Check what can be checked of the model's files without loading it, which takes milliseconds.

        Raises:
            ModelUnavailableError: its config, or a file of its preprocessing or its tokenizer, is missing or malformed.
            ModelShapeError: its vectors have too few or too many numbers.
        """
        _ = self.dimension, self._preprocessing
        check_tokenizer(self.name, self.folder)

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of the model's input; of a square image's, where it depends on the image."""
        return self._preprocessing.geometry.image_size

    @property
    def shortest_edge(self) -> int:
        """Length in pixels to which `resize` scales an image's shorter side; for a few models it is the longest."""
        return self._preprocessing.geometry.shortest_edge

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale and crop an image as the model's own processor does; one that this returned stays as it is.

        It is bit-equal to transformers' PIL backend, which is what transformers takes without torchvision. The one
        exception are images with an aspect ratio above MAX_SCALED_ASPECT where the model crops the centre: see
        `ShortestEdge.resize`.
        """
        return self._preprocessing.resize(image)

    def embed_images(self, images: Sequence[Image.Image], /) -> np.ndarray:
        """Return the unit vectors of images, float32 of shape (len(images), dimension).

        Raises:
            ModelUnavailableError, ModelShapeError: it cannot be loaded.
            ModelOutputError: it gives no numbers for an image.
        """
        loaded = self._model()
        if not images:
            return np.empty((0, self.dimension), np.float32)
        vectors = loaded.embed_pixels([np.asarray(self.resize(image)) for image in images])
        return self._finite(vectors, "images")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return the unit vectors of texts, float32 of shape (len(texts), dimension).

        Text beyond the model's context (77 tokens for CLIP) is truncated, with a warning in the log.

        Raises:
            ModelUnavailableError, ModelShapeError: it cannot be loaded.
            ModelOutputError: it gives no numbers for a text.
        """
        loaded = self._model()
        vectors = np.empty((len(texts), self.dimension), np.float32)
        by_length = sorted(range(len(texts)), key=lambda position: len(texts[position]))  # to minimise padding
        for start in range(0, len(texts), TEXT_BATCH_SIZE):
            batch = by_length[start : start + TEXT_BATCH_SIZE]
            vectors[batch] = loaded.embed_texts([texts[position] for position in batch])
        return self._finite(vectors, "texts")

    def _finite(self, vectors: np.ndarray, what: str) -> np.ndarray:
        wrong = int((~np.isfinite(vectors).all(axis=1)).sum())
        if wrong:
            raise ModelOutputError(self.name, f"{wrong:,} of {len(vectors):,} {what}")
        return vectors

    @cached_property
    def _family(self) -> Family:
        return family_of(self.name, self.folder)

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing.read(self.name, self.folder, self._family.processor)

    def _model(self) -> LoadedModel:
        with self._lock:
            if self._loaded is None:
                _ = self.dimension  # a model that cannot be stored need not be loaded
                from searchdb.media.models.forward import LoadedModel

                self._loaded = LoadedModel(
                    self.name,
                    self.folder,
                    self._family,
                    self._preprocessing,
                    device=self._device,
                    dtype=self._dtype,
                )
            return self._loaded


def import_libraries() -> None:
    """Import torch and transformers, which takes seconds, without loading a model; for a process that will fork."""
    for name in (
        "torch",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.clip.modeling_clip",
    ):
        importlib.import_module(name)
