"""Collects the folders in which something changed, until they are listed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_WAIT_S = 10.0
"""A folder that changes all the time, as during a copy of thousands of files, is listed this often."""


@dataclass(frozen=True, kw_only=True)
class ChangedFolder:
    """A folder to list: its own files, or with `deep` also those of the folders in it.

    `since` is before the changes, a time of time.monotonic().
    """

    path: str
    deep: bool
    since: float


@dataclass(kw_only=True)
class _Entry:
    deep: bool
    since: float
    first: float
    last: float


class ChangedFolders:
    """The folders to list; each when it has been quiet for `quiet_s`. Times are those of time.monotonic()."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._longest_s = max(LONGEST_WAIT_S, quiet_s)
        self._entries: dict[str, _Entry] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def oldest(self) -> float | None:
        """A time before all changes that are not listed yet."""
        return min((entry.since for entry in self._entries.values()), default=None)

    def add(self, folder: str, *, since: float, deep: bool = False, at_once: bool = False) -> None:
        """Note a change that happened after `since`; with `at_once` the folder is due even if it goes on changing."""
        now = time.monotonic()
        entry = self._entries.setdefault(folder, _Entry(deep=deep, since=since, first=now, last=now))
        entry.deep |= deep
        entry.since = min(entry.since, since)
        entry.last = now - self._quiet_s if at_once else now

    def take_due(self) -> list[ChangedFolder]:
        """Return the folders that are due, none inside a deep one, and forget them."""
        now = time.monotonic()
        due = {
            path: entry
            for path, entry in self._entries.items()
            if now - entry.last >= self._quiet_s or now - entry.first >= self._longest_s
        }
        deep = {path for path, entry in due.items() if entry.deep}
        since = min((entry.since for entry in due.values()), default=now)
        self._entries = {path: entry for path, entry in self._entries.items() if path not in due}
        return [
            ChangedFolder(path=path, deep=entry.deep, since=since)
            for path, entry in sorted(due.items())
            if deep.isdisjoint(_above(path))
        ]


def _above(path: str) -> Iterator[str]:
    """Yield the folders that a path is in."""
    while (folder := os.path.dirname(path)) != path:  # noqa: PTH120
        yield folder
        path = folder
