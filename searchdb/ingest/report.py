"""Counts what a run or a worker has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from searchdb.ingest.gone import Loss
from searchdb.ingest.queue import RunProgress


@dataclass(kw_only=True)
class IngestReport:
    """What a run or a worker has done so far.

    A run counts each reference once, but a duplicate in a later chunk again if the first one was done by then.
    """

    queued: int = 0
    """References added to the queue or found in it; they are also counted below once they are done."""
    stored: int = 0
    unchanged: int = 0
    known_failures: int = 0
    """References that failed before and were not tried."""
    failed: Counter[str] = field(default_factory=Counter[str])
    copied: int = 0
    """How many of the stored images reused the vector of another with the same bytes."""
    frames: int = 0
    """Frames of the videos among those stored, and of those that failed midway."""
    index_rebuilt: bool = False
    total: int | None = None
    """All references, known once the source is read to its end."""
    excluded: int | None = None
    """Files and folders that were left out, as clutter or by patterns, where the source is a folder."""
    gone: int | None = None
    """Stored images whose files no longer exist, where the source is a folder."""
    removed: int | None = None
    """How many of these were removed."""
    losses: Sequence[Loss] = ()
    """Folders most of whose stored images are gone, for which reason none are removed."""

    @property
    def done(self) -> int:
        """References that are no longer pending."""
        return self.stored + self.unchanged + self.known_failures + self.failed.total()

    @property
    def readable(self) -> bool:
        """Whether at least one of the references is a searchable image."""
        return self.stored + self.unchanged > 0

    def with_progress(self, progress: RunProgress) -> IngestReport:
        """Return this report with the outcomes of its queued references added."""
        return replace(
            self,
            stored=self.stored + progress.stored,
            copied=self.copied + progress.copied,
            unchanged=self.unchanged + progress.unchanged,
            failed=self.failed + Counter(progress.failed),
            frames=self.frames + progress.frames,
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; those of folders only where the source is a folder."""
        losses = [loss.to_json() for loss in self.losses]
        values = {**asdict(self), "failed": dict(self.failed), "done": self.done, "losses": losses}
        of_folders = {name: values.pop(name) for name in ("excluded", "gone", "removed", "losses")}
        return values if self.gone is None else values | of_folders
