"""Quality: values computed by hand, and which differences count as noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchdb.compare.quality import FEWEST_DIFFERENT, FIGURES, differences, figures
from searchdb.compare.records import Difference, Figures


def same(value: float) -> Figures:
    return dict.fromkeys(FIGURES, value)


def headline(found: list[Difference]) -> Difference:
    return next(each for each in found if each.figure == "nDCG@10")


def test_figures_by_hand() -> None:
    assert figures([1]) == pytest.approx(same(1))
    assert figures([11]) == pytest.approx({**same(0), "MRR": 1 / 11})
    found = figures([7, 2, 30])
    gained = 1 / math.log2(3) + 1 / math.log2(8)
    assert found == pytest.approx(
        {
            "recall@1": 0,
            "recall@5": 1 / 3,
            "recall@10": 2 / 3,
            "MRR": 1 / 2,
            "nDCG@10": gained / (1 + 1 / math.log2(3) + 1 / math.log2(4)),
        }
    )
    # More right images than the list is long: the best list is still the best.
    assert figures(range(1, 31))["nDCG@10"] == pytest.approx(1)


def test_the_same_figures_do_not_differ() -> None:
    for found in differences([same(0.5)] * 30, [same(0.5)] * 30, seed=0):
        assert (found.difference, found.low, found.high, found.significant) == (0, 0, 0, False)
    assert differences([], [], seed=0) == []


def test_a_clear_difference_is_significant_and_noise_is_not() -> None:
    random = np.random.default_rng(5)
    one = random.uniform(0.2, 0.6, 50)
    better = headline(differences([same(x) for x in one], [same(x + 0.1) for x in one], seed=1))
    assert better.significant
    assert (better.low, better.difference, better.high) == pytest.approx((0.1, 0.1, 0.1))
    noise = one + random.normal(0, 0.2, 50)
    found = headline(differences([same(x) for x in one], [same(x) for x in noise], seed=1))
    assert found.low < 0 < found.high
    assert not found.significant


def test_a_few_queries_prove_nothing() -> None:
    """However far apart the models are: of one query, the bootstrap's interval has no width."""
    for queries, significant in ((1, False), (FEWEST_DIFFERENT - 1, False), (FEWEST_DIFFERENT, True)):
        found = headline(differences([same(0.1)] * queries, [same(0.9)] * queries, seed=0))
        assert (found.low, found.high) == pytest.approx((0.8, 0.8))
        assert found.significant is significant


def test_the_interval_is_that_of_the_mean() -> None:
    random = np.random.default_rng(2)
    paired = random.normal(0.05, 0.2, 400)
    found = headline(differences([same(0.5)] * 400, [same(0.5 + x) for x in paired], seed=3))
    error = 1.96 * paired.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(2 * error, rel=0.1)
    assert found == headline(differences([same(0.5)] * 400, [same(0.5 + x) for x in paired], seed=3))


def test_many_queries() -> None:
    found = headline(differences([same(0.5)] * 2_000, [same(0.6)] * 2_000, seed=0))
    assert found.significant
