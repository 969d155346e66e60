"""What threads share and is replaced is closed once no thread uses it."""

from __future__ import annotations

from dataclasses import dataclass, field

from searchdb.ingest.replaceable import Replaceable


@dataclass(eq=False)
class Part:
    after: Part | None
    calls: list[str] = field(default_factory=list[str])

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


def test_an_earlier_one_is_closed_when_its_last_user_leaves() -> None:
    shared = Replaceable(Part)
    with shared.used() as first, shared.used() as same:
        assert first is same
        with shared.used(after=first) as second, shared.used(after=first) as also_second:
            assert second is also_second
            assert second.after is first
        assert shared.current is second
        assert first.calls == []
    assert (first.calls, second.calls) == (["close"], [])
    shared.close()
    assert (first.calls, second.calls) == (["close"], ["close"])


def test_it_is_made_again_after_it_was_replaced() -> None:
    shared = Replaceable(Part)
    shared.replace()  # there is none
    with shared.used() as first:
        shared.replace()
        assert first.calls == []
        with shared.used() as second:
            assert second is not first
    assert first.calls == ["close"]
    shared.replace()
    assert second.calls == ["close"]


def test_all_are_stopped_also_those_made_later() -> None:
    shared = Replaceable(Part)
    with shared.used() as first, shared.used(after=first) as second:
        shared.stop()
        assert (first.calls, second.calls) == (["stop"], ["stop"])
        with shared.used(after=second) as third:
            assert third.calls == ["stop"]
