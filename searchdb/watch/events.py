"""Reports changes in folders, as the operating system notices them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchdb.errors import WatchError
from searchdb.watch.paths import is_in

if TYPE_CHECKING:
    import threading

    from watchfiles.main import FileChange

TIMEOUT_MS = 100
"""Longest wait for the first change: what else is due in the watch does not wait longer."""
DEBOUNCE_MS = 1000
"""Longest time in which changes that follow each other are collected."""
ATTEMPTS = 5
"""Folders may vanish while they are added: the rest is tried again this often."""


@dataclass(frozen=True, kw_only=True)
class PathChange:
    """A path that was added, modified or deleted; a renamed one is deleted under its old name, and added."""

    path: str
    added: bool = False
    deleted: bool = False


class FolderEvents:
    """The changes of files and folders in a set of folders, each watched without those inside it.

    So what a walk leaves out is not watched either, nor are the targets of symbolic links to folders, which watchfiles
    would follow. Use one in a single thread; changes are collected meanwhile.

    Args:
        stop: ends `take` at once.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._folders: set[str] = set()
        self._watcher: Generator[set[FileChange]] | None = None
        self._earlier: set[FileChange] = set()

    def follow(self, folders: Iterable[str]) -> bool:
        """Report changes in these folders too, from now on; return whether one of them is new.

        Raises:
            WatchError: the system does not allow that many; nothing is reported from then on.
        """
        missing = set(folders) - self._folders
        if not missing:
            return False
        wanted = self._folders | missing
        for _ in range(ATTEMPTS):
            try:
                self._restart(wanted)
            except (FileNotFoundError, PermissionError, NotADirectoryError):
                wanted = set(_readable(wanted))
            else:
                break
        return True

    def forget(self, folder: str) -> None:
        """Take a folder, and those in it, as not followed: it was deleted, or is another one of the same name."""
        if folder in self._folders:
            self._folders = {each for each in self._folders if not is_in(each, folder)}

    def take(self) -> set[PathChange]:
        """Wait a moment for changes, and return them.

        Raises:
            WatchError: the system no longer reports changes.
        """
        if self._watcher is None:
            self._stop.wait(TIMEOUT_MS / 1000)
        changes, self._earlier = self._earlier | self._next(), set()
        from watchfiles import Change

        return {
            PathChange(path=path, added=change == Change.added, deleted=change == Change.deleted)
            for change, path in changes
        }

    def close(self) -> None:
        """Report nothing more."""
        self._folders = set()
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _restart(self, folders: set[str]) -> None:
        """Start a new watcher, then end the old one: what changes meanwhile is reported by both."""
        watcher = self._start(folders)
        if self._watcher is not None:
            self._earlier |= self._next()
            self._watcher.close()
        self._watcher, self._folders = watcher, folders

    def _start(self, folders: set[str]) -> Generator[set[FileChange]]:
        from watchfiles import watch

        watcher = watch(
            *sorted(folders),
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            rust_timeout=TIMEOUT_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            force_polling=False,
            recursive=False,
            ignore_permission_denied=False,
        )
        try:
            self._earlier |= next(watcher, _none())  # it starts with the first call
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            raise
        except (OSError, RuntimeError) as exc:  # watchfiles has no class for a limit
            self.close()
            raise WatchError(len(folders), _reason(exc)) from exc
        return watcher

    def _next(self) -> set[FileChange]:
        if self._watcher is None:
            return set()
        try:
            return next(self._watcher, _none())
        except (OSError, RuntimeError) as exc:
            folders = len(self._folders)
            self.close()
            raise WatchError(folders, _reason(exc)) from exc


def _none() -> set[FileChange]:
    return set()


def _reason(error: Exception) -> str:
    """Return the system's reason without the path and the internals that watchfiles adds."""
    return str(error).partition(" about [")[0].rstrip(".")


def _readable(folders: Iterable[str]) -> Iterator[str]:
    return (folder for folder in folders if os.path.isdir(folder) and os.access(folder, os.R_OK))  # noqa: PTH112
