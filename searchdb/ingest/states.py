"""Tells whether a reference has changed since it was stored or failed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from searchdb.ingest.companions import companion_state
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.rows import storable
from searchdb.records import RejectedItem, SourceItem


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What a reference looked like last time: its file's size and time, None for a URL."""

    byte_size: int | None
    modified_at: datetime | None

    def has_same_file(self, item: SourceItem | RejectedItem) -> bool:
        """Whether the file is unchanged. A URL counts as unchanged, since only its server could tell."""
        if isinstance(item, RejectedItem):
            return False
        return item.modified_at is None or (self.byte_size, self.modified_at) == (item.byte_size, item.modified_at)


@dataclass(frozen=True, kw_only=True)
class StoredState(FileState):
    """What a stored reference looked like last time: its file, and the state of the files beside it.

    `every_s` is the seconds between the frames of a video, None for an image; `partial` says that some of its frames
    could not be read.
    """

    companion_state: str | None = None
    folder: str | None = None
    every_s: float | None = None
    partial: bool = False

    def has_same_file(self, item: SourceItem | RejectedItem) -> bool:
        """Whether the file is unchanged, and of a video the step that is asked for."""
        same_step = isinstance(item, SourceItem) and (self.every_s is None or item.every_s in (None, self.every_s))
        return same_step and super().has_same_file(item)

    def matches(self, item: SourceItem | RejectedItem) -> bool:
        """Whether the file and those that belong to it are unchanged."""
        return (
            isinstance(item, SourceItem) and self.has_same_file(item) and self.companion_state == companion_state(item)
        )


@dataclass(frozen=True, kw_only=True)
class FailedState(FileState):
    """What a failed reference looked like, unless its source `rejected` it, and why it failed."""

    rejected: bool
    error: str
    message: str

    def fails_again(self, item: SourceItem | RejectedItem, limits: Limits) -> bool:
        """Whether the reference is unchanged, and so are the reason and the settings: trying it again is no use."""
        if self.rejected or isinstance(item, RejectedItem):
            return self.rejected and isinstance(item, RejectedItem) and storable(str(item.error)) == self.message
        return self.has_same_file(item) and not limits.lift(self.error, self.message)
