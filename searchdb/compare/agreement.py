"""Measures how alike two rankings of the same images are."""

from __future__ import annotations

import numpy as np

PERSISTENCE = 0.9
"""The p of rank-biased overlap: the first 10 ranks have 86 % of the weight (Webber et al., section 5), which are about
what people look at."""
RBO_DEPTH = 100
"""Ranks that rank-biased overlap reads: with p = 0.9, what follows has a weight below 0.001 %."""


def overlap(first: np.ndarray, second: np.ndarray, count: int) -> float:
    """Return overlap@k: the share of the first `count` images of one ranking that the other one has there, too."""
    count = min(count, len(first), len(second))
    return len(np.intersect1d(first[:count], second[:count])) / count


def rank_biased_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the extrapolated rank-biased overlap of two rankings of the same length, without ties, 0 to 1.

    With X(d) images in common among the first d of k, it is

        X(k) / k * p^k + (1 - p) / p * sum over d = 1..k of X(d) / d * p^d

    Differences at the top count more than those below. Source: W. Webber, A. Moffat, J. Zobel: A similarity measure for
    indefinite rankings, ACM Transactions on Information Systems 28 (4), 2010, equation 30.

    Args:
        first, second: distinct numbers of images, best first; the first RBO_DEPTH are read.
    """
    first, second = first[:RBO_DEPTH], second[:RBO_DEPTH]
    depth = len(first)
    place = {image: rank for rank, image in enumerate(second.tolist(), 1)}
    # An image is in both from the depth on at which the later of its two ranks is reached.
    met = [max(rank, place[image]) for rank, image in enumerate(first.tolist(), 1) if image in place]
    common = np.bincount(met, minlength=depth + 1)[1:].cumsum()
    depths = np.arange(1, depth + 1)
    shares, weights = common / depths, PERSISTENCE**depths
    extrapolated = shares[-1] * weights[-1]
    return float(extrapolated + (1 - PERSISTENCE) / PERSISTENCE * (shares * weights).sum())
