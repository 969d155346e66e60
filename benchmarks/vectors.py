"""Makes vectors with the geometry of CLIP's, and fills a collection with them.

The figures are those of ViT-B/32 on 1,353 photographs and 2,148 short texts. Images lie in a narrow cone, texts in
another one, and most of what distinguishes texts lies in directions in which images hardly differ. That is why a text's
neighbours are much harder to find with an index than an image's. The local structure is made as follows, so that
recall agrees with recall on vectors of real photographs and texts:

- PHOTOS show subjects, some frequent and most rare, which belong to topics. The spectrum of their differences is a
  formula.
- An image lies between a photo and one of its nearest neighbours, with a little of the difference of two others, so
  that there are near duplicates and gradual variations at every size of a collection.
- A text points to a subject in part, and otherwise in a random direction.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psycopg
from pgvector.psycopg import register_vector

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.index.build import build_index
from searchdb.records import DEFAULT_DIMENSION, ModelIdentity

MEAN_PHOTO, MEAN_TEXT = 0.735, 0.867
"""Lengths of the mean photo vector and of the mean text vector: how narrow the cones are. The images' mean is a little
longer than the photos': 0.757."""
MEANS_COSINE = 0.285
"""Cosine of the two means."""
TYPICALITY, TYPICALITY_SHAPE = 0.076, 8.0
"""Standard deviation of a photo's cosine with the mean photo, and shape of its gamma distribution: a few photos lie far
from the mean."""
LEAN = 0.256
"""How much nearer to the mean text a photo lies for each unit that it lies away from the mean photo."""
PHOTOS, SUBJECTS, TOPICS = 1500, 300, 40
TOPIC_FREQUENCIES, SUBJECT_FREQUENCIES = 1.0, 0.3
"""Exponents of Zipf's law: of the subjects of each topic, and of the photos of each subject."""
TOPIC_SHARE, SUBJECT_SHARE = 0.05, 0.47
"""Shares of a photo's variance that it has in common with the photos of its topic, and of its subject."""
SPECTRUM_START, SPECTRUM_POWER, SPECTRUM_SCALE = 1.0, 0.8, 750.0
"""The photos' variance along principal axis k (from 0) is proportional to (k + START) ** -POWER * exp(-k / SCALE)."""
NEIGHBOURS, DIFFERENCE = 6, 0.32
"""An image lies between a photo and one of its so many nearest ones, plus this much of the difference of two others."""
TEXT_SLOPE = 0.35
"""By what share texts vary less along the images' last principal axis than along the first."""
TEXT_TYPICALITY = 0.01
"""Standard deviation of texts along the mean photo."""
POINTING = 0.19
"""Share of a text's variance that points to its subject."""
CHUNK = 20_000
"""Images made at a time, which takes about 200 MB."""


def clip_like(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors of images and of texts, float32 of shapes (rows, 512) and (queries, 512).

    The same seed gives the same vectors. The first ones do not depend on how many there are, except for rounding.
    """
    world = _World.make(seed)
    images = np.empty((rows, DEFAULT_DIMENSION), np.float32)
    for start in range(0, rows, CHUNK):
        images[start : start + CHUNK] = world.images(start // CHUNK)[: rows - start]
    return images, world.texts(queries)


@dataclass(frozen=True, kw_only=True)
class _World:
    """What images and texts have in common.

    Vectors are made in coordinates whose first axis is the direction of the mean image; the others are the principal
    axes of the images. `rotation` turns them, so that no coordinate is special.
    """

    seed: int
    rotation: np.ndarray
    deviations: np.ndarray
    """Standard deviations along the principal axes, (511,)."""
    mean_text: np.ndarray
    subjects: np.ndarray
    """Directions of subjects, with unit variance along each principal axis, (SUBJECTS, 511)."""
    photos: np.ndarray
    neighbours: np.ndarray
    """The nearest photos of each photo, (PHOTOS, NEIGHBOURS)."""

    @classmethod
    def make(cls, seed: int) -> _World:
        rng = np.random.default_rng([seed, 0])
        axes = DEFAULT_DIMENSION - 1
        rotation = np.linalg.qr(rng.standard_normal((DEFAULT_DIMENSION, DEFAULT_DIMENSION)))[0]
        k = np.arange(axes)
        spectrum = (k + SPECTRUM_START) ** -SPECTRUM_POWER * np.exp(-k / SPECTRUM_SCALE)
        deviations = np.sqrt(spectrum * (1 - MEAN_PHOTO**2) / spectrum.sum())
        # Texts differ from images in directions in which images hardly differ.
        apart = _unit(rng.standard_normal(axes) / spectrum)
        mean_text = MEAN_TEXT * np.hstack([MEANS_COSINE, np.sqrt(1 - MEANS_COSINE**2) * apart])

        topics = rng.standard_normal((TOPICS, axes))
        topic = rng.choice(TOPICS, SUBJECTS, p=_zipf(TOPICS, TOPIC_FREQUENCIES))
        own = rng.standard_normal((SUBJECTS, axes))
        subjects = np.sqrt(TOPIC_SHARE) * topics[topic] + np.sqrt(SUBJECT_SHARE) * own
        subject = rng.choice(SUBJECTS, PHOTOS, p=rng.permutation(_zipf(SUBJECTS, SUBJECT_FREQUENCIES)))
        own = rng.standard_normal((PHOTOS, axes))
        differences = (subjects[subject] + np.sqrt(1 - TOPIC_SHARE - SUBJECT_SHARE) * own) * deviations
        differences -= differences.mean(axis=0)
        shape = TYPICALITY_SHAPE
        typical = MEAN_PHOTO - TYPICALITY * (rng.gamma(shape, size=(PHOTOS, 1)) - shape) / np.sqrt(shape)
        typical = typical.clip(0.3, 0.95)
        away = _unit(differences) * np.sqrt(1 - typical**2) - LEAN * (typical - MEAN_PHOTO) * apart
        photos = _unit(np.hstack([typical, away])).astype(np.float32)
        neighbours = np.argsort(-(photos @ photos.T), axis=1)[:, 1 : NEIGHBOURS + 1]
        return cls(
            seed=seed,
            rotation=rotation.astype(np.float32),
            deviations=deviations,
            mean_text=mean_text,
            subjects=subjects,
            photos=photos @ rotation.astype(np.float32),
            neighbours=neighbours,
        )

    def images(self, chunk: int) -> np.ndarray:
        """Return CHUNK images."""
        rng = np.random.default_rng([self.seed, 1, chunk])
        first, one, other = rng.integers(PHOTOS, size=(3, CHUNK))
        second = self.neighbours[first, rng.integers(NEIGHBOURS, size=CHUNK)]
        weight = rng.random((CHUNK, 1), np.float32)
        made = weight * self.photos[first] + (1 - weight) * self.photos[second]
        made += np.float32(DIFFERENCE) * (self.photos[one] - self.photos[other])
        return _unit(made)

    def texts(self, count: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 2])
        axes = len(self.deviations)
        variance = 1 - MEAN_TEXT**2
        spectrum = 1 - TEXT_SLOPE * np.arange(axes) / axes
        noise = np.sqrt((1 - POINTING) * variance * spectrum / spectrum.sum())
        made = np.empty((count, DEFAULT_DIMENSION), np.float32)
        for n in range(count):
            subject = self.subjects[rng.integers(SUBJECTS)]
            away = noise * rng.standard_normal(axes) + np.sqrt(POINTING * variance) * _unit(subject)
            made[n] = self.mean_text + np.hstack([TEXT_TYPICALITY * rng.standard_normal(), away])
        return _unit(made @ self.rotation)


def _zipf(count: int, exponent: float) -> np.ndarray:
    frequencies = np.arange(1, count + 1) ** -exponent
    return frequencies / frequencies.sum()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def connect(database: Database) -> psycopg.Connection:
    """Return a connection with the vector type, independent of searchdb's pool."""
    connection = psycopg.connect(database.libpq_url, autocommit=True)
    register_vector(connection)
    return connection


def fill(database: Database, vectors: np.ndarray, model: ModelIdentity) -> None:
    """Replace all images by rows with these vectors; `image` is the row number. The caller builds the index."""
    with closing(connect(database)) as connection:
        connection.execute("TRUNCATE images CASCADE")
    build_index(database.engine, method="ivfflat")  # an empty index, which is fast to fill
    add(database, vectors, model, range(len(vectors)))


def add(database: Database, vectors: np.ndarray, model: ModelIdentity, numbers: Iterable[int]) -> None:
    """Store images with the vectors at these row numbers, which are not stored yet."""
    with database.begin() as connection:
        model_id = claim_model(connection, model)
    columns = "image, source, embedding, embedding_model_id, sha256, width, height, byte_size"
    copying = f"COPY images ({columns}) FROM STDIN (FORMAT BINARY)"
    with closing(connect(database)) as connection, connection.cursor() as cursor, cursor.copy(copying) as copy:
        copy.set_types(["text", "text", "vector", "int4", "bytea", "int4", "int4", "int8"])
        for n in map(int, numbers):
            copy.write_row((str(n), "benchmark", vectors[n], model_id, n.to_bytes(32, "big"), 768, 512, 100_000))
