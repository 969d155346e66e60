"""Waits for conditions, with one limit for every test."""

from __future__ import annotations

import time
from collections.abc import Callable

GIVE_UP_S = 180
"""Seconds after which a test stops waiting. A safety net only: a busy machine may need a minute."""


def until(condition: Callable[[], object], what: str) -> None:
    """Return once the condition is true; fail after GIVE_UP_S seconds."""
    deadline = time.monotonic() + GIVE_UP_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.02)
