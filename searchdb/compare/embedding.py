"""Gives each image of a sample the vectors of both models: stored ones where they fit, otherwise embedded here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from searchdb.batches import batched
from searchdb.compare.reading import ReadImage
from searchdb.compare.records import LeftOut
from searchdb.compare.speed import MEASURED_IMAGES
from searchdb.embedder import Embedder
from searchdb.export.originals import Thumbnail

CHUNK = 32
"""Images embedded at a time; threads read the next ones meanwhile."""


@dataclass(frozen=True, kw_only=True)
class RankableImage:
    """What lists say about an image, or about a frame of the `video` at `video_time` seconds; and its thumbnail."""

    id: int
    image: str
    description: str | None
    video: str | None
    video_time: float | None
    thumbnail: Thumbnail | None

    @classmethod
    def of(cls, read: ReadImage) -> RankableImage:
        """Return what is kept of an image when it has been embedded."""
        image = read.image
        return cls(
            id=image.id,
            image=image.image,
            description=image.description,
            video=image.video,
            video_time=image.video_time,
            thumbnail=read.thumbnail,
        )


@dataclass(frozen=True, kw_only=True)
class EmbeddedSample:
    """The images that could be read, by ascending id, and their vectors by each model.

    Attributes:
        images: what the rows of `vectors` are about.
        vectors: unit vectors by each model, float32 of shape (len(images), numbers of the model).
        stored: of each model, whether any vector was taken from the collection.
        left_out: the images that could not be read.
        measured: some images, scaled for each model, to measure its rate with.
    """

    images: Sequence[RankableImage]
    vectors: Sequence[np.ndarray]
    stored: Sequence[bool]
    left_out: Sequence[LeftOut]
    measured: Sequence[Sequence[Image.Image]]


def embed_sample(
    read: Iterable[ReadImage | LeftOut], embedders: Sequence[Embedder], progress: Callable[[int], None]
) -> EmbeddedSample:
    """Embed the images as they are read; `progress` is called with the number that are done."""
    images: list[RankableImage] = []
    vectors: list[list[np.ndarray]] = [[] for _ in embedders]
    stored = [False for _ in embedders]
    left_out: list[LeftOut] = []
    measured: list[list[Image.Image]] = [[] for _ in embedders]
    for chunk in batched(read, CHUNK):
        readable = [each for each in chunk if isinstance(each, ReadImage)]
        left_out += [each for each in chunk if isinstance(each, LeftOut)]
        for place, embedder in enumerate(embedders):
            pixels = [each.pixels[place] for each in readable]
            measured[place] += pixels[: MEASURED_IMAGES - len(measured[place])]
            known = [_stored_vector(each, embedder) for each in readable]
            stored[place] |= any(vector is not None for vector in known)
            fresh = [each for each, vector in zip(pixels, known, strict=True) if vector is None]
            embedded = iter(embedder.embed_images(fresh) if fresh else ())
            vectors[place] += [next(embedded) if vector is None else vector for vector in known]
        images += map(RankableImage.of, readable)
        progress(len(images) + len(left_out))
    stacked = [np.stack(each) if each else np.empty((0, 0), np.float32) for each in vectors]
    return EmbeddedSample(images=images, vectors=stacked, stored=stored, left_out=left_out, measured=measured)


def _stored_vector(read: ReadImage, embedder: Embedder) -> np.ndarray | None:
    """Return the collection's vector, of length 1, if it is by this model and of the content that was read."""
    vector = read.image.vectors.get(embedder.identity.weights_sha256) if read.unchanged else None
    if vector is None:
        return None
    length = float(np.linalg.norm(vector))
    # SQL may have stored vectors of any length; earlier versions of the schema let even 0 pass.
    return (vector / length).astype(np.float32) if np.isfinite(length) and length > 0 else None
