"""Made-up vectors have the figures that ViT-B/32 has on 1,353 photographs and 2,148 short texts."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import vectors
from benchmarks.vectors import clip_like
from searchdb.records import DEFAULT_DIMENSION

PHOTOGRAPHS, TEXTS = 1353, 1000


@pytest.fixture(scope="module")
def both() -> tuple[np.ndarray, np.ndarray]:
    return clip_like(PHOTOGRAPHS, TEXTS)


@pytest.fixture(scope="module")
def images(both: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return both[0]


@pytest.fixture(scope="module")
def texts(both: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return both[1]


def test_vectors_are_unit_vectors(images: np.ndarray, texts: np.ndarray):
    assert images.shape == (PHOTOGRAPHS, DEFAULT_DIMENSION)
    assert texts.shape == (TEXTS, DEFAULT_DIMENSION)
    for made in (images, texts):
        assert made.dtype == np.float32
        assert np.linalg.norm(made, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_cones_are_as_narrow(images: np.ndarray, texts: np.ndarray):
    between_images = (images @ images.T)[np.triu_indices(PHOTOGRAPHS, 1)]
    assert between_images.mean() == pytest.approx(0.572, abs=0.02)
    assert between_images.std() == pytest.approx(0.091, abs=0.01)
    assert (texts @ texts.T)[np.triu_indices(TEXTS, 1)].mean() == pytest.approx(0.752, abs=0.01)
    mean_image, mean_text = images.mean(axis=0), texts.mean(axis=0)
    lengths = np.linalg.norm(mean_image), np.linalg.norm(mean_text)
    assert lengths == pytest.approx((0.757, 0.867), abs=0.015)
    assert mean_image @ mean_text / np.prod(lengths) == pytest.approx(0.275, abs=0.02)


def test_texts_are_as_similar_to_images(images: np.ndarray, texts: np.ndarray):
    similarities = texts @ images.T
    assert similarities.mean() == pytest.approx(0.181, abs=0.005)
    assert similarities.std() == pytest.approx(0.022, abs=0.002)
    assert similarities.max(axis=1).mean() == pytest.approx(0.266, abs=0.01)


def test_an_image_spreads_the_others_four_times_as_far_as_a_text_does(images: np.ndarray, texts: np.ndarray):
    assert (texts @ images.T).std(axis=1).mean() == pytest.approx(0.020, abs=0.002)
    assert (images @ images.T).std(axis=1).mean() == pytest.approx(0.077, abs=0.008)


def test_texts_differ_mostly_where_images_hardly_do(images: np.ndarray, texts: np.ndarray):
    variances, axes = np.linalg.eigh(np.cov(images.T))
    of_images = np.cumsum(variances[::-1]) / variances.sum()
    shares = [of_images[count - 1] for count in (1, 10, 50, 100, 200)]
    assert shares == pytest.approx([0.09, 0.35, 0.65, 0.79, 0.92], abs=0.03)
    along = (texts @ axes[:, ::-1]).var(axis=0)
    of_texts = np.cumsum(along) / along.sum()
    assert [of_texts[count - 1] for count in (50, 100, 200)] == pytest.approx([0.12, 0.25, 0.47], abs=0.02)


def test_the_same_seed_gives_the_same_vectors(texts: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vectors, "CHUNK", 200)
    images = clip_like(150, 0)[0]
    more_images, more_texts = clip_like(205, TEXTS + 5)
    assert np.array_equal(more_images[:150], images)
    assert more_texts[:TEXTS] == pytest.approx(texts, abs=1e-6)  # rotated together: rounding differs
    assert not np.array_equal(more_images[200:], more_images[:5])
    assert not np.array_equal(clip_like(5, 0, seed=1)[0], images[:5])
