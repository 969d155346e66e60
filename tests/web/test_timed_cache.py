"""A cached value is made once for all threads, and again when it is too old; no thread waits long."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from werkzeug.exceptions import ServiceUnavailable

from tests.helpers.waiting import GIVE_UP_S, until
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


class Slow:
    """Makes 1, 2, 3, each once `go` is set; then fails."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.numbers = iter((1, 2, 3))
        self.begun = 0

    def __call__(self) -> int:
        self.begun += 1
        assert self.go.wait(GIVE_UP_S)
        return next(self.numbers)


def test_the_last_value_is_used_while_a_new_one_is_made() -> None:
    slow = Slow()
    slow.go.set()
    cached = TimedCache(slow, seconds=-1)
    assert cached.get() == 1
    slow.go.clear()
    with ThreadPoolExecutor(1) as threads:
        new = threads.submit(cached.get)
        until(lambda: slow.begun == 2, "the second value to be begun")
        assert [cached.get() for _ in range(50)] == [1] * 50
        slow.go.set()
        assert new.result() == 2


def test_a_first_value_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.timed_cache.WAIT_S", 0.05)
    slow = Slow()
    cached = TimedCache(slow, seconds=3600)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cached.get)
        until(lambda: slow.begun == 1, "the value to be begun")
        with pytest.raises(ServiceUnavailable):
            cached.get()
        monkeypatch.setattr("web.timed_cache.WAIT_S", GIVE_UP_S)  # what a second vain wait would take
        with pytest.raises(ServiceUnavailable):
            cached.get()
        slow.go.set()
        assert first.result() == cached.get() == 1


def test_threads_that_wait_for_a_first_value_share_its_error() -> None:
    all_ready = threading.Barrier(4)
    slow = Slow()
    slow.numbers = iter(())
    cached = TimedCache(slow, seconds=3600)

    def get() -> int:
        all_ready.wait()
        return cached.get()

    with ThreadPoolExecutor(3) as threads:
        results = [threads.submit(get) for _ in range(3)]
        all_ready.wait()
        slow.go.set()
    assert {type(each.exception()) for each in results} == {StopIteration}
