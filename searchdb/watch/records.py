"""Records of what a watch is asked to do, and of what it has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from searchdb.errors import ConfigError
from searchdb.ingest.gone import Prune, check_prune
from searchdb.watch.settling import SETTLE_S

POLL_S = 30.0
"""Seconds between two looks at a folder that is polled. Each look asks for every file, which takes a network mount
about a minute for 100,000 of them."""
MAX_SECONDS = 86_400.0
"""Limit of the intervals: a day."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """How to follow folders.

    `prune` is whether to remove images whose files are gone: see `ingest_files`. `poll` is whether to look for changes
    every `poll_interval_s` seconds instead of being notified; None: on network mounts. Files are read once their size
    and times have been the same for `settle_s` seconds.

    Raises:
        ConfigError: a value is out of range.
    """

    exclude: str | Sequence[str] = ()
    prune: Prune = True
    poll: bool | None = None
    poll_interval_s: float = POLL_S
    settle_s: float = SETTLE_S

    def __post_init__(self) -> None:
        check_prune(self.prune, complete=True)
        for name, least in (("poll_interval_s", 0.1), ("settle_s", 0.0)):
            value = getattr(self, name)
            if not least <= value <= MAX_SECONDS:
                raise ConfigError(f"{name} is {value:g}, but must be {least:g} to {MAX_SECONDS:,.0f} seconds")


@dataclass(kw_only=True)
class WatchReport:
    """What a watch has done, in one step or altogether.

    `copied` counts those of the stored images whose vector another image with the same bytes had, as moved files do.
    `failed` counts by class of error. `waiting` is the number of files that are still being written.
    """

    ended_at: datetime | None = None
    stored: int = 0
    copied: int = 0
    removed: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    waiting: int = 0

    def add(self, step: WatchReport) -> None:
        """Add what one more step has done."""
        self.ended_at, self.waiting = step.ended_at, step.waiting
        self.stored += step.stored
        self.copied += step.copied
        self.removed += step.removed
        self.failed += step.failed

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, except for the date."""
        return asdict(self) | {"failed": dict(self.failed)}
