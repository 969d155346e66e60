"""Times within a video as people read them."""

from __future__ import annotations

import pytest

from searchdb.clock import clock


@pytest.mark.parametrize(
    ("seconds", "text", "whole"),
    [
        (0, "0:00", "0:00"),
        (12.5, "0:12.5", "0:12"),
        (59.996, "1:00", "0:59"),
        (225.04, "3:45.04", "3:45"),
        (3723.25, "1:02:03.25", "1:02:03"),
        (36000, "10:00:00", "10:00:00"),
        (-1, "0:00", "0:00"),
    ],
)
def test_minutes_and_seconds(seconds: float, text: str, whole: str) -> None:
    assert clock(seconds) == text
    assert clock(seconds, whole=True) == whole
