"""Finds the processes that decode costly images."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def helpers_of(pid: int) -> list[int]:
    """Return the helpers that a process has started and not waited for."""
    children: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread has ended
            children += map(int, (thread / "children").read_text().split())
    helpers: list[int] = []
    for child in children:
        with suppress(OSError):
            if b"helper_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                helpers.append(child)
    return helpers
