"""The choice of the model does not depend on a database that hangs, once it has answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import cast

import pytest

from searchdb.errors import DatabaseError
from tests.helpers.waiting import GIVE_UP_S
from web.background_model import BackgroundModel
from web.model_choice import Look, ModelChoice


class Model:
    """Stands for a BackgroundModel that is not loaded."""

    usable = False

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, _holding: object) -> None:
        pass


def choice_of(ask: Callable[[], Look], explicit: str | None = None) -> ModelChoice:
    return ModelChoice(explicit, ask, lambda name: cast("BackgroundModel", Model(name)), nullcontext)


def seen(name: str = "a", *, weights: bytes | None = b"a") -> Look:
    return Look(name=name, weights=weights, upcoming=None, dimension=512, empty=False)


def test_one_thread_waits_for_a_database_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    hanging, waiting, goes_on = threading.Event(), threading.Event(), threading.Event()

    def ask() -> Look:
        if hanging.is_set():
            waiting.set()
            assert goes_on.wait(GIVE_UP_S)
            raise DatabaseError("cancelled")
        return seen()

    choice = choice_of(ask)
    model = choice.current()
    hanging.set()
    with ThreadPoolExecutor(1) as threads:
        late = threads.submit(choice.current)
        assert waiting.wait(GIVE_UP_S)
        for _ in range(10):
            assert choice.current() is model
            assert choice.dimension() == 512
        goes_on.set()
        assert late.result(GIVE_UP_S) is model


def test_after_a_look_in_vain_the_next_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    looks: list[int] = []

    def ask() -> Look:
        looks.append(1)
        if len(looks) > 1:
            raise DatabaseError("away")
        return seen()

    choice = choice_of(ask)
    model = choice.current()
    assert choice.current() is model
    monkeypatch.setattr("web.model_choice.LOOK_S", 3600.0)
    for _ in range(3):
        assert choice.current() is model
        assert choice.dimension() == 512
    assert len(looks) == 2
    with pytest.raises(DatabaseError):
        choice.renewed()


def test_without_an_answer_the_settings_model_is_used() -> None:
    def ask() -> Look:
        raise DatabaseError("away")

    assert choice_of(ask, "mine").current().name == "mine"
    with pytest.raises(DatabaseError):
        choice_of(ask).current()
    with pytest.raises(DatabaseError):
        choice_of(ask, "mine").dimension()


def test_other_weights_with_the_same_name_are_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.model_choice.LOOK_S", 0.0)
    looks = iter([seen(weights=None), seen(weights=b"a"), seen(weights=b"a"), seen(weights=b"b")])
    choice = choice_of(lambda: next(looks))
    first = choice.current()
    assert choice.current() is first  # the first ingest has recorded its weights
    assert choice.current() is first
    assert choice.current() is not first
