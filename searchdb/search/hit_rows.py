"""Fetches the rows of one page of hits: chooses the statement for it, and how many images that ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from searchdb.db.tables import images
from searchdb.search.filters import Filters
from searchdb.search.guarded import guarded
from searchdb.search.query import MAX_EXAMPLES
from searchdb.search.ranking import DEPTHS, FIRST_HITS, MAX_HITS, prepare
from searchdb.search.statements import RELEVANT, Shape, hits_page, unfiltered_hits_page

WHERE_TIMEOUT_S = 30
"""Longest run of a search with a raw condition, which may be slow in ways that our own filters are not."""
_ROOMS = (0, 1, 10, 2 * MAX_EXAMPLES)
"""Numbers of images that a statement can leave out: few, because a statement is built for each."""


@dataclass(frozen=True, kw_only=True)
class HitsWanted:
    """Which of the ranked hits to fetch.

    Attributes:
        offset: hits before them.
        count: how many, at most.
        threshold: the lowest similarity to the whole query.
        filters: conditions on the images.
        one_per_video: whether a video counts once, by its best frame.
        without: ids of images that are no hits.
        without_videos: paths or URLs of videos whose frames are no hits.
        least: the parameters of RELEVANT, if it must be met.
    """

    offset: int
    count: int
    threshold: float
    filters: Filters | None = None
    one_per_video: bool = False
    without: Sequence[int] = ()
    without_videos: Sequence[str] = ()
    least: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def end(self) -> int:
        """Hits up to and with the last one."""
        return self.offset + self.count


def fetch_rows(
    connection: Connection, vector: np.ndarray, parts: Mapping[str, np.ndarray], wanted: HitsWanted
) -> Sequence[Mapping[Any, Any]]:
    """Return the rows of `hits_page`, best first.

    Args:
        connection: a transaction of its own if there are filters.
        vector: the query's unit vector.
        parts: the unit vectors of its parts, by the names in `Hit.parts`.
        wanted: which hits.
    """
    condition = _condition(wanted)
    explained = tuple(parts) if len(parts) > 1 else ()
    # The order of a text's hits is nearly that of relevance, so that enough relevant ones are among the nearest.
    among_nearest = bool(wanted.least) and condition is None and not explained
    if wanted.least and not among_nearest:
        condition = RELEVANT if condition is None else condition & RELEVANT
    values: dict[str, Any] = {
        "vector": vector,
        "threshold": wanted.threshold,
        "offset": wanted.offset,
        "end": wanted.end,
        **{f"part_{name}": parts[name] for name in explained},
        **wanted.least,
    }
    if wanted.without:
        values["without"] = list(wanted.without)
    first = MAX_HITS if among_nearest or wanted.end > FIRST_HITS else FIRST_HITS
    rows: Sequence[Mapping[Any, Any]] = ()
    if condition is not None:
        prepare(connection)
    for depth in DEPTHS[DEPTHS.index(first) :]:
        shape = Shape(
            depth=depth,
            explained=explained,
            room=next(room for room in _ROOMS if room >= len(wanted.without)),
            relevant=among_nearest,
            one_per_video=wanted.one_per_video,
        )
        statement = unfiltered_hits_page(shape) if condition is None else hits_page(shape, condition, len(vector))
        with guarded(connection, wanted.filters, WHERE_TIMEOUT_S):
            rows = connection.execute(statement, values).mappings().all()
        # Where the frames of a few videos crowd out all else, what follows them lies deeper.
        if not wanted.one_per_video or len(rows) == wanted.count or _is_all(rows, wanted, depth):
            break
    return rows


def _condition(wanted: HitsWanted) -> ColumnElement[bool] | None:
    condition = wanted.filters.condition() if wanted.filters else None
    if not wanted.without_videos:
        return condition
    others = sa.or_(images.c.video.is_(None), images.c.video.not_in(wanted.without_videos))
    return others if condition is None else condition & others


def _is_all(rows: Sequence[Mapping[Any, Any]], wanted: HitsWanted, depth: int) -> bool:
    """Whether a scan of this depth has found every image that can be a hit."""
    return rows[0]["found"] < depth if rows else wanted.offset == 0
