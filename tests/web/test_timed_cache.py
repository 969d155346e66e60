"""A value that is kept: made once for all who ask, and made anew when it is old."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from web.timed_cache import TimedCache


def test_is_made_once_for_all_who_ask_at_once() -> None:
    numbers = itertools.count()
    everybody = threading.Barrier(8)
    kept = TimedCache(lambda: next(numbers), seconds=3600)

    def ask() -> int:
        everybody.wait()
        return kept.get()

    with ThreadPoolExecutor(8) as threads:
        assert [each.result() for each in [threads.submit(ask) for _ in range(8)]] == [0] * 8
    assert next(numbers) == 1


def test_is_made_anew_when_it_is_too_old() -> None:
    numbers = itertools.count()
    kept = TimedCache(lambda: next(numbers), seconds=-1)
    assert [kept.get(), kept.get()] == [0, 1]


def test_an_error_is_not_kept() -> None:
    outcomes = iter([ZeroDivisionError(), None])

    def make() -> str:
        if error := next(outcomes):
            raise error
        return "made"

    kept = TimedCache(make, seconds=3600)
    with pytest.raises(ZeroDivisionError):
        kept.get()
    assert kept.get() == "made"
