"""Measures rankings by the images that are known to be right, and tells differences between models from noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchdb.compare.records import Difference, Figures

CUTOFFS = (1, 5, 10)
FIGURES: tuple[str, ...] = ("recall@1", "recall@5", "recall@10", "MRR", "nDCG@10")
"""Measures of quality, in the order in which they are shown. Of one query, MRR is the reciprocal rank."""
RESAMPLES = 10_000
"""Resamples of a bootstrap: the bounds of its interval then vary by a few per cent of its width from seed to seed."""
CONFIDENCE = 0.95
FEWEST_DIFFERENT = 6
"""Queries that must differ before a difference can be significant. By a sign test, five that all point the same way do
so by chance in 1 of 16 cases; six in 1 of 32, which is below 5 %."""
_BLOCK = 500_000
"""Drawn queries that are in memory at a time: with their measures, 24 MB."""


def figures(ranks: Sequence[int]) -> Figures:
    """Return the measures of one query by FIGURES, each 0 to 1; an image is either right or not.

    - recall@k: the share of the right images that are among the first k (C. D. Manning, P. Raghavan, H. Schütze:
      Introduction to Information Retrieval, 2008, section 8.3).
    - MRR: 1 / rank of the first right image (E. M. Voorhees: The TREC-8 Question Answering Track Report, 1999).
    - nDCG@10: the sum of 1 / log2(1 + rank) over the right images among the first 10, divided by the most that it could
      be (K. Järvelin, J. Kekäläinen: Cumulated gain-based evaluation of IR techniques, ACM Transactions on Information
      Systems 20 (4), 2002; with the discount of all later work and of trec_eval, which also reduces rank 2).

    Args:
        ranks: ranks of the right images from 1, at least one, in any order.
    """
    places = np.sort(np.asarray(ranks))
    gains = 1 / np.log2(1 + np.arange(1, 11))
    gained = gains[places[places <= 10] - 1].sum()
    values = [float((places <= cutoff).mean()) for cutoff in CUTOFFS]
    values += [float(1 / places[0]), float(gained / gains[: len(places)].sum())]
    return dict(zip(FIGURES, values, strict=True))


def differences(first: Sequence[Figures], second: Sequence[Figures], *, seed: int) -> list[Difference]:
    """Return the means of both models and the confidence interval of their difference; none without queries.

    The interval is that of a paired bootstrap over the queries: RESAMPLES times, as many queries are drawn as there
    are, with replacement, and the mean difference is taken; CONFIDENCE of these lie within it (B. Efron,
    R. J. Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13). Of a few queries such an interval is too
    narrow: a difference is significant only if FEWEST_DIFFERENT of them differ, too.

    Args:
        first, second: the measures of each query, in the same order.
    """
    if not first:
        return []
    one, other = (np.array([[each[name] for name in FIGURES] for each in values]) for values in (first, second))
    paired = other - one
    random, queries = np.random.default_rng(seed), len(paired)
    size = max(1, _BLOCK // queries)
    means = np.concatenate(
        [
            paired[random.integers(0, queries, (min(size, RESAMPLES - start), queries))].mean(axis=1)
            for start in range(0, RESAMPLES, size)
        ]
    )
    lows, highs = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    different = (paired != 0).sum(axis=0)
    return [
        Difference(
            figure=name,
            first=float(one[:, at].mean()),
            second=float(other[:, at].mean()),
            difference=float(paired[:, at].mean()),
            low=float(lows[at]),
            high=float(highs[at]),
            significant=bool((lows[at] > 0 or highs[at] < 0) and different[at] >= FEWEST_DIFFERENT),
        )
        for at, name in enumerate(FIGURES)
    ]
