"""Computes relevance from similarities: how likely it is that an image shows what a text says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any, Self

import numpy as np

# The constants were fitted on real vectors of OpenAI's CLIP ViT-B/32 (ten kinds of images, captions of photographs) and
# checked on the demo's model; docs/design.md tells the figures. They are relative to what the everyday texts measure in
# the collection, and so hold for other models, too.
IMAGE_WEIGHT = 0.9
"""How much of an image's mean similarity to the everyday texts is subtracted: some images are similar to every text."""
TEXT_WEIGHT = 0.3
"""How much of a text's mean similarity to the images is added: what many images show has a high mean."""
BIAS_RANGE = (0.05, 0.95)
"""Quantiles of the everyday texts' means to which a text's bias is clipped: a mean beyond them comes from what the
images show."""
SPREAD_EXPONENT = 0.3
"""How far the width of a text's similarities below their median widens its scale: sentences vary more than words."""
ABSENT, PRESENT = 0.10, 0.95
"""Quantiles of the everyday texts' best images: nearly every collection lacks a tenth of these texts, and shows a
twentieth of them."""
STEEPNESS = 6.0
"""Change of the log-odds between the two; halfway, the relevance is a half."""
SHARE_WEIGHT, USUAL_SHARE, LEAST_SHARE = 0.4, 0.05, 0.02
"""How much the share of the images that seem to show the text changes the odds, the share that does not change them,
and what is added to each share so that the logarithm stays bounded."""
LARGE_SAMPLE = 1000
SMALL_SAMPLE_WEIGHT = 0.5
"""In a small collection even the best image is often wrong: half of what chance finds more among LARGE_SAMPLE images
is required there, too."""
TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Judges the images of a collection for one text.

    The log-odds that an image shows the text are linear in its similarity to the text and in its mean similarity to the
    everyday texts, so that relevance does not follow similarity exactly. It does not change the order of hits.
    """

    slope: float
    intercept: float
    scale: Scale

    def of(self, similarity: float, everyday_similarity: float) -> float:
        """Return the relevance of an image, 0 to 1, from its similarity to the text and to the everyday texts."""
        odds = self.slope * adjusted(similarity, everyday_similarity) + self.intercept
        return 1 / (1 + math.exp(-min(max(odds, -500.0), 500.0)))

    def least(self, relevance: float) -> float:
        """Return the least `adjusted` similarity that has a relevance: infinite for 1, which none reaches."""
        if relevance >= 1:
            return math.inf
        return -math.inf if relevance <= 0 else (math.log(relevance / (1 - relevance)) - self.intercept) / self.slope


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What the everyday texts measure in a sample of a collection: a row of `relevance_scale`.

    The scores of all texts are compared on it. A score is an adjusted similarity plus the text's shift less `mean`, in
    units of `spread`.

    Attributes:
        bias_weight: how much of a text's mean similarity is the model's bias, not what the images show, 0 to 1. It is 0
            for CLIP, and above where the means of the everyday texts vary more than a text's similarities do, as with
            a small model to which most texts are unknown.
        bias_low, bias_high: BIAS_RANGE of the everyday texts' means.
        mean: adjusted similarity of the everyday texts to the images.
        spread: its standard deviation around each text's mean.
        lower_spread: its standard deviation as estimated from the half below each text's median, mean over the texts.
        midpoint: score of a relevance of a half.
        unit: scores between what an everyday text finds that no image shows, and one that some show.
    """

    bias_weight: float
    bias_low: float
    bias_high: float
    mean: float
    spread: float
    lower_spread: float
    midpoint: float
    unit: float

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self | None:
        """Read the columns of `relevance_scale`; None where they are NULL: the scale is not measured yet."""
        return None if row["unit"] is None else cls(**{f.name: row[f.name] for f in fields(cls)})

    @classmethod
    def measure(cls, similarities: np.ndarray, images: int) -> Self:
        """Measure the scale.

        Args:
            similarities: of the everyday texts to a sample of the images, of shape (texts, sampled).
            images: number of images in the collection.
        """
        sampled = similarities.shape[1]
        means = similarities.mean(axis=1, keepdims=True)
        scores = adjusted(similarities, similarities.mean(axis=0))
        spread = max(float((scores - scores.mean(axis=1, keepdims=True)).std()), TINY)
        residuals = similarities - means - similarities.mean(axis=0) + similarities.mean()
        bias_weight = min(max(float(means.std()) / max(float(residuals.std()), TINY) - 1.0, 0.0), 1.0)
        bias_low, bias_high = (float(quantile) for quantile in np.quantile(means, BIAS_RANGE))
        scores += _shift(means, bias_weight, bias_low, bias_high)
        mean = float(scores.mean())
        lower = _lower_spread(scores)
        lower_spread = max(float(lower.mean()), TINY)
        best = (scores.max(axis=1) - mean) / (spread * _widening(lower, lower_spread))
        absent, present = (float(quantile) for quantile in np.quantile(best, [ABSENT, PRESENT]))
        unit = max(present - absent, 1.0)
        # Among more images chance alone finds a better best one. The sample's is measured; that of the rest, and of
        # what a small collection lacks, is what a normal distribution would add.
        by_chance = _best_by_chance(max(images, sampled)) - _best_by_chance(sampled)
        by_chance += SMALL_SAMPLE_WEIGHT * max(_best_by_chance(LARGE_SAMPLE) - _best_by_chance(sampled), 0.0)
        return cls(
            bias_weight=bias_weight,
            bias_low=bias_low,
            bias_high=bias_high,
            mean=mean,
            spread=spread,
            lower_spread=lower_spread,
            midpoint=absent + unit / 2 + by_chance,
            unit=unit,
        )

    def relevance(self, similarities: np.ndarray, everyday_similarities: np.ndarray) -> Relevance:
        """Return how images are judged for a text.

        Args:
            similarities: of the text to the images of the sample, of shape (sampled,).
            everyday_similarities: mean similarities of these images to the everyday texts, of the same shape.
        """
        values = adjusted(similarities, everyday_similarities)
        mean = np.float64(similarities.mean())
        shift = float(_shift(mean, self.bias_weight, self.bias_low, self.bias_high)) - self.mean
        widening = float(_widening(_lower_spread(values[None]), self.lower_spread)[0])
        slope = STEEPNESS / (self.unit * self.spread * widening)
        intercept = slope * shift - STEEPNESS * self.midpoint / self.unit
        odds = np.clip(slope * values + intercept, -50, 50)
        share = float((1 / (1 + np.exp(-odds))).mean())
        intercept += SHARE_WEIGHT * math.log((share + LEAST_SHARE) / (USUAL_SHARE + LEAST_SHARE))
        return Relevance(slope=slope, intercept=intercept, scale=self)


def adjusted(similarity: Any, everyday_similarity: Any) -> Any:
    """Return similarities to a text less IMAGE_WEIGHT of the images' mean similarities to the everyday texts.

    Takes numbers, arrays, vectors whose products with an image are these similarities, and SQL expressions.
    """
    return similarity - IMAGE_WEIGHT * everyday_similarity


def _shift(means: Any, bias_weight: float, bias_low: float, bias_high: float) -> Any:
    """Return what texts' mean similarities to the images, an array or a number, add to all their similarities."""
    return TEXT_WEIGHT * means - bias_weight * np.clip(means, bias_low, bias_high)


def _lower_spread(scores: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each row, estimated from its median and its tenth percentile.

    Unlike the standard deviation it does not grow with the images that show the text, if these are less than half.
    """
    tenth, median = np.quantile(scores, [0.1, 0.5], axis=1)
    return (median - tenth) / -NormalDist().inv_cdf(0.1)


def _widening(lower_spread: np.ndarray, usual: float) -> np.ndarray:
    return np.maximum(lower_spread / usual, 1.0) ** SPREAD_EXPONENT


def _best_by_chance(images: int) -> float:
    """Return about the largest of this many numbers from a standard normal distribution."""
    return NormalDist().inv_cdf(1 - 1 / max(images, 2))
