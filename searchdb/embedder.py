"""The interface of an embedding model: what searching, ingesting and the web page ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from searchdb.records import ModelIdentity


class Embedder(Protocol):
    """Turns texts and images into unit vectors that can be compared with each other."""

    @property
    def identity(self) -> ModelIdentity:
        """The model's name, the SHA-256 of its weights and its dimension; known without loading it."""
        ...

    @property
    def dimension(self) -> int:
        """Numbers of a vector; known without loading the model."""
        ...

    @property
    def shortest_edge(self) -> int:
        """Pixels that an image's shorter side is scaled to."""
        ...

    def resize(self, image: Image.Image, /) -> Image.Image:
        """Scale and crop an RGB image to the size that the model takes."""
        ...

    def embed_texts(self, texts: Sequence[str], /) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(texts), dimension)."""
        ...

    def embed_images(self, images: Sequence[Image.Image], /) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(images), dimension)."""
        ...
