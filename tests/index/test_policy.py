"""The parameters chosen for the vector index, and when it needs a rebuild."""

from __future__ import annotations

from dataclasses import replace

import pytest

from searchdb.index.policy import (
    best_method,
    fit_ef_search,
    fit_lists,
    fit_probes,
    fit_setting,
    needs_rebuild,
    needs_tuning,
)
from searchdb.index.records import Recall


@pytest.mark.parametrize(
    ("rows", "rows_at_build", "expected"),
    [
        (0, 0, False),
        (999, 0, False),
        (1000, 0, True),
        (1000, 1000, False),
        (1999, 1000, False),
        (2000, 1000, True),
        (2000, 1500, False),
        (500, 2000, False),
        (5_000_000, 2_500_000, True),
    ],
)
def test_a_rebuild_is_needed_when_the_rows_have_at_least_doubled(rows: int, rows_at_build: int, expected: bool) -> None:
    assert needs_rebuild(rows, rows_at_build) is expected


def test_lists_and_probes_grow_with_the_rows() -> None:
    assert fit_lists(0) == fit_lists(999) == 1
    assert fit_lists(1000) == 31
    assert fit_lists(25_000) == 158
    assert fit_lists(2_500_000) == 2500
    assert fit_lists(50_000_000) == 3000
    assert [fit_probes(lists) for lists in (1, 31, 158, 4000)] == [1, 31, 64, 1600]


@pytest.mark.parametrize(("name", "lists", "setting", "fitted"), [
    ("tuned on one list, which says nothing about many", 1, 1, 64),
    ("a tenth", 100, 10, 16),
    ("all", 100, 100, 158),
])  # fmt: skip
def test_the_setting_keeps_the_tuned_share_of_lists(name: str, lists: int, setting: int, fitted: int) -> None:
    tuned = Recall(
        kind="text", method="ivfflat", lists=lists, setting=setting, row_count=1, queries=1, match_count=10, recall=1,
        p50_ms=1, p95_ms=1, exact_p50_ms=1, exact_p95_ms=1,
    )  # fmt: skip
    assert fit_setting("ivfflat", 158, tuned) == fitted
    assert fit_setting("ivfflat", 158, replace(tuned, kind="pictures")) == 64  # images need next to nothing


def test_ef_search_grows_with_the_rows_within_bounds() -> None:
    settings = [fit_ef_search(rows) for rows in (0, 2000, 25_000, 60_000, 10_000_000)]
    assert settings == sorted(settings)
    assert (settings[0], settings[-1]) == (100, 1000)
    tuned = Recall(
        kind="text", method="hnsw", lists=None, setting=200, row_count=25_000, queries=1, match_count=10, recall=1,
        p50_ms=1, p95_ms=1, exact_p50_ms=1, exact_p95_ms=1,
    )  # fmt: skip
    assert fit_setting("hnsw", None, tuned, rows=10_000) == 200
    assert 300 < fit_setting("hnsw", None, tuned, rows=50_000) < 400
    assert fit_setting("hnsw", None, replace(tuned, kind="pictures"), rows=25_000) == fit_ef_search(25_000)


def test_a_graph_is_never_rebuilt_but_tuned_again_at_each_doubling() -> None:
    assert not needs_rebuild(1_000_000, 1000, method="hnsw")
    assert needs_tuning(2000, 1000, method="hnsw")
    assert not needs_tuning(1999, 1000, method="hnsw")
    assert not needs_tuning(999, 0, method="hnsw")
    assert not needs_tuning(2000, 1000, method="ivfflat")


def test_the_method_depends_on_the_rows() -> None:
    assert [best_method(rows) for rows in (0, 999, 1000, 200_000)] == ["ivfflat", "ivfflat", "hnsw", "hnsw"]
    assert [best_method(rows) for rows in (200_001, 10_000_000)] == ["ivfflat", "ivfflat"]
