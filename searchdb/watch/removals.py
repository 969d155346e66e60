"""Removes the images and failures of files that are gone, unless so many are that a disk may be away."""

from __future__ import annotations

import time
from collections.abc import Sequence

from searchdb.errors import InvalidReferenceError
from searchdb.ingest.gone import GoneFiles, Loss, Prune, find_gone
from searchdb.ingest.presence import is_gone
from searchdb.ingest.store import SCAN_ROWS, Store
from searchdb.sources.files import SOURCE
from searchdb.watch.paths import is_in

SHARE_OF_TIME = 0.1
"""Part of the time that may be spent on looking for the files of all stored images."""
LONGEST_WAIT_S = 60.0
"""In folders that change all the time, files that are gone for this long are not waited for."""
LOSS_CHECK_S = 60.0
"""Seconds after which folders that lost most of their images are looked at again: their disk may be back."""


class Removals:
    """Decides which images to remove. Times are those of time.monotonic().

    An image is removed once its file has been gone for so long that a moved file would have been found: its new path
    must have been ingested first, which gives it the image. A file may be moved twice, so nothing else may be happening
    either, or for at most LONGEST_WAIT_S.
    """

    def __init__(self, store: Store, prune: Prune) -> None:
        self._store = store
        self._prune = prune
        self._noticed: dict[str, float] = {}
        self._not_before = 0.0
        self._wanted_at: float | None = None
        self.losses: Sequence[Loss] = ()
        """The folders most of whose stored images are gone, which keep them."""

    def request(self) -> None:
        """Look for files that are gone soon."""
        self._wanted_at = time.monotonic() if self._wanted_at is None else min(self._wanted_at, time.monotonic())

    def start_over(self) -> None:
        """Forget which files were gone when it was last looked, because changes may have been missed; look soon."""
        self._noticed.clear()
        self.request()

    def is_due(self, handled_until: float) -> bool:
        """Whether to look now: all that changed before the request has been handled."""
        return self._wanted_at is not None and self._wanted_at < handled_until and time.monotonic() >= self._not_before

    def remove(self, roots: Sequence[str], handled_until: float, quiet: bool) -> int:
        """Remove what is gone below these folders, which exist; return the number of images.

        `handled_until` is a time before the first change that is not ingested yet, and `quiet` whether there is none.
        """
        began = time.monotonic()
        self._wanted_at = None
        found = find_gone(self._store, roots) if self._prune else GoneFiles()
        self.losses = () if self._prune == "always" else found.losses
        gone = [each for each in found.images if not self._is_kept(each.file)]
        self._noticed = {each.file: self._noticed.get(each.file, began) for each in gone}
        until = min(handled_until, began if quiet else began - LONGEST_WAIT_S)
        due = [each for each in gone if self._noticed[each.file] < until]
        removed = self._store.delete_images(due) if due else 0
        self._forget_failures(roots)
        if len(due) < len(gone):
            self.request()
        elif self.losses:
            self._wanted_at = time.monotonic() + LOSS_CHECK_S
        self._not_before = time.monotonic() + (time.monotonic() - began) / SHARE_OF_TIME
        return removed

    def _is_kept(self, path: str) -> bool:
        return any(is_in(path, loss.folder) for loss in self.losses)

    def _forget_failures(self, roots: Sequence[str]) -> None:
        """Delete the failures of files that are gone, such as those that were deleted before they were read."""
        gone = [
            failure.image
            for failure in self._store.failures(source=SOURCE)
            # The name that is shown of an invalid one is not its path.
            if failure.error != InvalidReferenceError.__name__
            and any(is_in(failure.image, root) for root in roots)
            and not self._is_kept(failure.image)
            and is_gone(failure.image)
        ]
        for start in range(0, len(gone), SCAN_ROWS):
            self._store.delete_failures(gone[start : start + SCAN_ROWS])
