"""Knows which files are still being written, so that none is read half-copied."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

SETTLE_S = 5.0
"""Seconds for which a file's size and times must stay the same. Programs that copy write at least every second or two,
but a network mount may show the former size for 3 seconds (NFS's acregmin)."""
REMOTE_AGE_S = 86_400.0
"""A file on a network mount counts as settled at first sight if it is this old: its server's clock may be hours off."""

_TEMPORARY = re.compile(
    # Browsers and download managers; Syncthing, Nextcloud, rclone, WinSCP.
    r".*\.(part|partial|crdownload|opdownload|download|filepart|tmp|temp)",
    re.IGNORECASE,
)


def is_temporary(path: str) -> bool:
    """Whether a file has a name that programs give to a file until it is complete, and then change.

    Hidden names, such as rsync's `.name.XXXXXX`, are left out by every walk.
    """
    return _TEMPORARY.fullmatch(os.path.basename(path)) is not None  # noqa: PTH119


@dataclass(frozen=True, kw_only=True)
class _State:
    """What changes when a file is written: its size, its times in nanoseconds, and which file it is."""

    size: int
    modified: int
    changed: int
    inode: int


@dataclass(kw_only=True)
class _Waiting:
    """A file that waits: its state `since` a time, when it was last `seen`, and a time `before` its last change."""

    state: _State
    since: float
    seen: float
    before: float

    def see(self, state: _State) -> None:
        now = time.monotonic()
        if state != self.state:
            self.state, self.since, self.before = state, now, self.seen
        self.seen = now


class Settling:
    """The files that are waited for until they no longer change. Times are those of time.monotonic()."""

    def __init__(self, settle_s: float = SETTLE_S) -> None:
        self._settle_s = settle_s
        self._waiting: dict[str, _Waiting] = {}
        self._settled: dict[str, _State] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest(self) -> float | None:
        """A time before the last change of each of them."""
        return min((each.before for each in self._waiting.values()), default=None)

    def is_settled(self, path: str, *, since: float, remote: bool) -> bool:
        """Whether a file can be read now; otherwise it is waited for, unless it is no longer there.

        `since` is a time before the change for which it was found, `remote` whether it is on a network mount.
        """
        state = _state(path)
        settled = self._settled.pop(path, None)
        waiting = self._waiting.get(path)
        if state is None or state == settled:
            self._waiting.pop(path, None)
            return True
        now = time.monotonic()
        if waiting is None:
            age_s = time.time() - max(state.modified, state.changed) / 1e9
            if age_s >= (REMOTE_AGE_S if remote and self._settle_s else self._settle_s):
                return True
            waiting = self._waiting[path] = _Waiting(state=state, since=now, seen=now, before=since)
        waiting.see(state)
        if now - waiting.since < self._settle_s:
            return False
        del self._waiting[path]
        return True

    def touch(self, path: str) -> bool:
        """Note that a file may have changed; return whether it waits."""
        waiting = self._waiting.get(path)
        state = None if waiting is None else _state(path)
        if waiting is None or state is None:
            return False
        waiting.see(state)
        return True

    def take_settled(self) -> list[str]:
        """Return the files that have not changed for `settle_s` seconds; `is_settled` is then to be called for each.

        They are no longer waited for. Files that were returned before, and for which it was not called because their
        folder leaves them out by now, are forgotten.
        """
        self._settled.clear()
        for path, waiting in list(self._waiting.items()):
            if time.monotonic() - waiting.since < self._settle_s:
                continue
            state = _state(path)
            if state is None:
                del self._waiting[path]
            elif state == waiting.state:
                del self._waiting[path]
                self._settled[path] = state
            else:
                waiting.see(state)
        return list(self._settled)


def _state(path: str) -> _State | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object would take most of the time
    except OSError:
        return None
    return _State(size=status.st_size, modified=status.st_mtime_ns, changed=status.st_ctime_ns, inode=status.st_ino)
