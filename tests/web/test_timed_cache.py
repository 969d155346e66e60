"""A cached value is made once for all threads, and again when it is too old."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from web.timed_cache import TimedCache


def test_concurrent_calls_make_the_value_once() -> None:
    numbers = itertools.count()
    all_ready = threading.Barrier(8)
    cached = TimedCache(lambda: next(numbers), seconds=3600)

    def get() -> int:
        all_ready.wait()
        return cached.get()

    with ThreadPoolExecutor(8) as threads:
        assert [each.result() for each in [threads.submit(get) for _ in range(8)]] == [0] * 8
    assert next(numbers) == 1


def test_a_value_that_is_too_old_is_made_again() -> None:
    numbers = itertools.count()
    cached = TimedCache(lambda: next(numbers), seconds=-1)
    assert [cached.get(), cached.get()] == [0, 1]


def test_an_error_is_not_cached() -> None:
    outcomes = iter([ZeroDivisionError(), None])

    def make() -> str:
        if error := next(outcomes):
            raise error
        return "made"

    cached = TimedCache(make, seconds=3600)
    with pytest.raises(ZeroDivisionError):
        cached.get()
    assert cached.get() == "made"
