"""Records of index measurements, as stored in `index_recalls`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The recall and times of match_images, compared with an exact scan on one kind of queries.

    `kind` is `text` or `pictures` (stored images). `setting` is ivfflat's probes or hnsw's ef_search. `target` is the
    recall it was tuned to, None if it was only measured. A hit counts if it is at least as similar as the last of the
    exact scan's `match_count` hits. Times are in milliseconds.
    """

    kind: str
    method: str
    lists: int | None
    setting: int
    row_count: int
    queries: int
    match_count: int
    recall: float
    p50_ms: float
    p95_ms: float
    exact_p50_ms: float
    exact_p95_ms: float
    target: float | None = None
    measured_at: datetime | None = None

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> Self:
        """Make a record from a row of `index_recalls`."""
        return cls(**{field.name: row[field.name] for field in fields(cls)})

    @property
    def label(self) -> str:
        """The name of `kind` in output for people."""
        return label_of(self.kind)

    @property
    def speedup(self) -> float:
        """How many times faster than the exact scan, by the medians."""
        return self.exact_p50_ms / self.p50_ms


def label_of(kind: str) -> str:
    """Return the name of a kind of query in output for people: stored images are `pictures` only in stored values."""
    return "images" if kind == "pictures" else kind
