"""The arithmetic of relevance, on similarities with the gap between texts and images that CLIP has."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchdb.search.relevance_scale import Relevance, Scale, adjusted

EVERYDAY, IMAGES = 80, 500
SHOWN = 0.07
"""How much more similar an image is to a text that it shows."""


def similarities(texts: int, images: int = IMAGES, *, showing: int = 0, seed: int = 0) -> np.ndarray:
    """Return similarities of shape (texts, images) with CLIP's spreads; the first `showing` images show each text."""
    rng = np.random.default_rng(seed)
    image_bias = 0.012 * np.random.default_rng(9).normal(size=images)
    found = 0.2 + 0.005 * rng.normal(size=(texts, 1)) + image_bias + 0.011 * rng.normal(size=(texts, images))
    found[:, :showing] += SHOWN
    return found


def everyday(images: int = IMAGES) -> np.ndarray:
    """Return similarities of texts of which every fourth is shown by some images, more or less clearly."""
    found = similarities(EVERYDAY, images, seed=1)
    rng = np.random.default_rng(2)
    for text in found[::4]:
        text[rng.integers(images, size=max(images // 20, 1))] += rng.uniform(0, SHOWN)
    return found


def relevances(scale: Scale, everyday_similarities: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the relevance of every image for every text."""
    means = everyday_similarities.mean(axis=0)
    rows = [scale.relevance(text, means) for text in texts]
    return np.array(
        [
            [relevance.of(similarity, mean) for similarity, mean in zip(text, means, strict=True)]
            for relevance, text in zip(rows, texts, strict=True)
        ]
    )


@pytest.mark.parametrize(("images", "showing"), [(20, 2), (60, 1), (500, 1), (500, 50), (500, 400)])
def test_what_is_shown_is_told_from_what_is_not(images: int, showing: int) -> None:
    scale = Scale.measure(everyday(images), images)
    present = relevances(scale, everyday(images), similarities(40, images, showing=showing, seed=3))
    absent = relevances(scale, everyday(images), similarities(40, images, seed=4))
    assert np.mean(present.max(axis=1) > 0.5) >= 0.9
    assert np.mean(absent.max(axis=1) > 0.5) <= 0.4
    assert present[:, :showing].mean() > present[:, showing:].mean() + 0.4


def test_relevance_is_about_the_share_of_images_that_show_the_text() -> None:
    scale = Scale.measure(everyday(), IMAGES)
    found = relevances(scale, everyday(), similarities(40, showing=50, seed=3))
    truth = np.broadcast_to(np.arange(IMAGES) < 50, found.shape)
    errors = [
        abs(truth[inside].mean() - found[inside].mean())
        for low in np.arange(10) / 10
        if (inside := (found >= low) & (found < low + 0.1)).sum() >= 20
    ]
    assert np.mean(errors) <= 0.2


def test_a_sentence_needs_a_higher_similarity_than_a_word() -> None:
    scale = Scale.measure(everyday(), IMAGES)
    means = everyday().mean(axis=0)
    [word] = similarities(1, seed=3)
    sentence = word.mean() + 2 * (word - word.mean())  # its similarities vary more
    at_best = 0.26
    assert scale.relevance(sentence, means).of(at_best, 0.2) < scale.relevance(word, means).of(at_best, 0.2)


def test_a_best_image_among_more_is_less_certain() -> None:
    found = everyday()
    few, many = Scale.measure(found, IMAGES), Scale.measure(found, 1_000_000)
    [text] = similarities(1, seed=3)
    means = found.mean(axis=0)
    assert many.relevance(text, means).of(0.26, 0.2) < few.relevance(text, means).of(0.26, 0.2)


def test_means_that_vary_more_than_similarities_are_a_bias() -> None:
    found = everyday()
    assert Scale.measure(found, IMAGES).bias_weight == 0
    unknown = found - np.where(np.arange(EVERYDAY) % 2, 0.3, 0.0)[:, None]  # half of the texts lie elsewhere
    assert Scale.measure(unknown, IMAGES).bias_weight == 1


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_images_and_texts_that_are_all_the_same(value: float) -> None:
    same = np.full((EVERYDAY, 20), value)
    scale = Scale.measure(same, 20)
    assert all(math.isfinite(number) for number in vars(scale).values())
    assert 0 <= scale.relevance(same[0], same.mean(axis=0)).of(value, value) <= 1


def test_a_relevance_and_the_similarity_that_reaches_it() -> None:
    scale = Scale.measure(everyday(), IMAGES)
    judge = Relevance(slope=100.0, intercept=-5.0, scale=scale)
    for relevance in (0.01, 0.5, 0.9):
        assert judge.of(judge.least(relevance) + adjusted(0.0, -0.1), 0.1) == pytest.approx(relevance)
    assert (judge.least(0), judge.least(1)) == (-math.inf, math.inf)
    assert (judge.of(-1e9, 0.0), judge.of(1e9, 0.0)) == (pytest.approx(0), 1)
