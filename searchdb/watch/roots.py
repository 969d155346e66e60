"""Looks after the watched folders themselves: whether they are there, and whether they are what they were."""

# Strings and os.path, as in `searchdb.sources.files`, whose paths these are.
# ruff: noqa: PTH111, PTH112, PTH116, PTH208

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchdb.errors import SourceError
from searchdb.ingest.store import Store
from searchdb.sources import printable
from searchdb.sources.exclusion import Exclusion
from searchdb.sources.files import folders, missing
from searchdb.watch.mounts import Mount, mounts_of
from searchdb.watch.paths import is_in
from searchdb.watch.records import WatchOptions


@dataclass(kw_only=True)
class Root:
    """A watched folder, by its real path.

    `problem` says why it cannot be followed now. `polling`: changes in it are found by looking, last at `polled_at` and
    again at `next_poll`, times of time.monotonic(); `signature` is a digest of what was found, and
    `is_changing` whether that was different.
    """

    path: str
    polling: bool = False
    problem: str | None = None
    polled_at: float = 0.0
    next_poll: float = 0.0
    signature: bytes = b""
    is_changing: bool = True
    _identity: Hashable = None

    def check(self, mounts: Sequence[Mount], *, poll: bool | None) -> bool:
        """Check whether it is there; return whether it must be listed again, because something else may be in it.

        It may have been deleted and made again, or a disk been mounted or unmounted. `poll` is whether to poll; None:
        if it is on a network mount, or has one in it.
        """
        self.problem = _problem(self.path)
        here = mounts_of(self.path, mounts)
        identity = None if self.problem else (_file_identity(self.path), tuple(here))
        self.polling = any(mount.is_remote for mount in here) if poll is None else poll
        is_new = identity is not None and identity != self._identity
        self._identity = identity
        return is_new


def folders_to_watch(paths: Sequence[str | Path], options: WatchOptions, store: Store) -> list[str]:
    """Return the real paths of the folders, none inside another one.

    One that does not exist is waited for if images are stored from there.

    Raises:
        SourceError: a path is not a folder, or is unknown.
    """
    absent = missing(paths)
    present = [path for path in paths if path not in absent]
    for path in present:
        if not os.path.isdir(os.path.expanduser(path)):
            raise SourceError(f"{printable(os.fspath(path))!r} is not a folder: name the folder that it is in")
    for path, real in absent.items():
        if not sum(1 for _ in store.images_under(real)):
            raise SourceError(f"{printable(os.fspath(path))!r} does not exist; give a folder")
    return [*folders(present, exclusion=Exclusion(patterns=options.exclude)), *absent.values()]


def root_of(path: str, roots: Sequence[Root]) -> Root | None:
    """Return the innermost of the roots that a path is in."""
    return max((root for root in roots if is_in(path, root.path)), key=lambda root: len(root.path), default=None)


def _problem(path: str) -> str | None:
    try:
        os.listdir(path)
    except FileNotFoundError:
        return f"{path} does not exist: its images are kept until it is back"
    except OSError as exc:
        return f"{path} cannot be read: {exc.strerror or exc}; its images are kept"
    if os.path.realpath(path) != path:
        return f"{path} is now reached by a symbolic link: start the watch again, its images are kept"
    return None


def _file_identity(path: str) -> Hashable:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
