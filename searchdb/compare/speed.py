"""Measures how many images and texts a model embeds in a second on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from PIL import Image

from searchdb.batches import batched
from searchdb.embedder import Embedder

T = TypeVar("T")
MEASURED_IMAGES = 64
"""Images that each model embeds for the measurement: two batches on a CPU."""
BATCH = 32
MEASURED_TEXTS = 32
MEASURED_S = 10.0
"""After this time a measurement ends with what it has: a large model takes seconds for an image."""


def images_per_s(embedder: Embedder, images: Sequence[Image.Image]) -> float:
    """Return the images that the model embeds in a second, in batches of BATCH; of at least one image."""
    embedder.embed_images(images[:1])  # loads the model
    return _rate(lambda batch: embedder.embed_images(batch), list(batched(images[:MEASURED_IMAGES], BATCH)))


def texts_per_s(embedder: Embedder, texts: Sequence[str]) -> float:
    """Return the texts that the model embeds in a second, one at a time, as searches do; of at least one text."""
    embedder.embed_texts(texts[:1])
    repeated = [texts[at % len(texts)] for at in range(MEASURED_TEXTS)]
    return _rate(lambda batch: embedder.embed_texts(batch), list(batched(repeated, 1)))


def _rate(work: Callable[[Sequence[T]], object], batches: Sequence[Sequence[T]]) -> float:
    done, started, elapsed = 0, time.perf_counter(), 0.0
    for batch in batches:
        work(batch)
        done += len(batch)
        elapsed = time.perf_counter() - started
        if elapsed > MEASURED_S:
            break
    return done / max(elapsed, 1e-9)
