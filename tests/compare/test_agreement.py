"""How alike two rankings are: known values, and what holds for any two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchdb.compare.agreement import PERSISTENCE, RBO_DEPTH, overlap, rank_biased_overlap


def rankings(size: int) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    order = st.permutations(range(size)).map(np.array)
    return st.tuples(order, order)


def plain(first: list[int], second: list[int]) -> float:
    """Equation 30 of Webber et al. as it is printed."""
    depth, p = len(first), PERSISTENCE
    common = [len(set(first[:d]) & set(second[:d])) for d in range(1, depth + 1)]
    total = sum(x / d * p**d for d, x in enumerate(common, 1))
    return common[-1] / depth * p**depth + (1 - p) / p * total


def test_overlap() -> None:
    assert overlap(np.array([1, 2, 3, 4]), np.array([2, 1, 4, 3]), 2) == 1
    assert overlap(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1]), 2) == 0
    assert overlap(np.array([1, 2, 3, 4]), np.array([4, 1, 3, 2]), 2) == 0.5
    assert overlap(np.array([1, 2, 3, 4]), np.array([4, 1, 3, 2]), 10) == 1  # there are no others


@given(rankings(12))
def test_rank_biased_overlap_is_its_definition(both: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = both
    assert rank_biased_overlap(first, second) == pytest.approx(plain(first.tolist(), second.tolist()))
    assert rank_biased_overlap(first, second) == pytest.approx(rank_biased_overlap(second, first))
    assert rank_biased_overlap(first, first) == pytest.approx(1)


def test_differences_at_the_top_count_most() -> None:
    order = np.arange(300)
    top, below = order.copy(), order.copy()
    top[[0, 20]] = top[[20, 0]]
    below[[40, 60]] = below[[60, 40]]
    assert rank_biased_overlap(order, top) < rank_biased_overlap(order, below) < 1


def test_only_the_first_ranks_are_read() -> None:
    order = np.arange(RBO_DEPTH + 50)
    other = np.concatenate([order[:RBO_DEPTH], order[RBO_DEPTH:][::-1]])
    assert rank_biased_overlap(order, other) == pytest.approx(1)
    assert rank_biased_overlap(order, order + 1000) == 0
