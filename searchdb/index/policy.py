"""Decides the parameters of the vector index, and when it needs a rebuild, from its state alone."""

from __future__ import annotations

import math

from searchdb.index.records import Recall

EXACT_ROWS = 1000
"""Below this an exact scan (about a millisecond) is as fast as any index: one list, which holds every row."""
MAX_FITTED_LISTS = 3000
"""k-means needs 200 bytes times the square of the lists: this many fit into the 2 GB that a build may use."""
MIN_PROBES = 40
"""Fewest lists to search: a few thousand rows, a few milliseconds; up to 1,600 rows that is all of them."""
EF_SEARCH = 100
"""hnsw's candidates until it is tuned; with pgvector's 40, text vectors missed 2 to 10 % of their neighbours."""


def fit_lists(rows: int) -> int:
    """Return the number of ivfflat lists for a number of rows: the square root, or a thousandth if that is more."""
    return 1 if rows < EXACT_ROWS else min(max(math.isqrt(rows), rows // 1000), MAX_FITTED_LISTS)


def fit_probes(lists: int) -> int:
    """Return the number of lists to search until it is tuned on real queries: rather too many than too few.

    pgvector's manual suggests the square root of the lists, for queries that are distributed like the rows. CLIP's text
    vectors lie off the images' manifold and have their neighbours in more lists: hence two and a half times the square
    root, and never fewer than MIN_PROBES.
    """
    return min(lists, max(MIN_PROBES, math.ceil(2.5 * math.sqrt(lists))))


def fit_setting(method: str, lists: int | None, tuned: Recall | None) -> int:
    """Return the probes or ef_search of an index just built: from the last tuning, else the default.

    For ivfflat, the tuned share of the lists is kept: the same share of the lists reads the same share of the images,
    so recall stays at least about what it was tuned to while lists and rows grow. A tuning on a single list says
    nothing about many.
    """
    if method == "hnsw":
        return EF_SEARCH if tuned is None else tuned.setting
    lists = lists or 1
    if tuned is None or tuned.lists in (None, 1):
        return fit_probes(lists)
    return min(lists, math.ceil(lists * tuned.setting / tuned.lists))


def needs_rebuild(rows: int, rows_at_build: int, *, method: str | None = "ivfflat", valid: bool = True) -> bool:
    """Return whether to rebuild: the index was built on at most half of its rows, is missing, or is invalid.

    Below EXACT_ROWS it never needs to be. hnsw adapts to each new row and is never outgrown.
    """
    if rows < EXACT_ROWS:
        return False
    return method is None or not valid or (method == "ivfflat" and rows >= 2 * rows_at_build)
