"""Decides the parameters of the vector index, and when it needs a rebuild, from its state alone."""

from __future__ import annotations

import math

from searchdb.index.records import Recall

EXACT_ROWS = 1000
"""Below this an exact scan (about a millisecond) is as fast as any index: one list, which holds every row."""
LARGEST_GRAPH = 200_000
"""Above this, hnsw does not reach a recall of 0.98 for texts with pgvector's largest ef_search: 0.951 at 500,000
images, where ivfflat takes twice the time and reaches 0.987."""
MAX_FITTED_LISTS = 3000
"""k-means needs 200 bytes times the square of the lists: this many fit into the 2 GB that a build may use."""
MIN_PROBES = 40
"""Fewest lists to search: a few thousand rows, a few milliseconds; up to 1,600 rows that is all of them."""
PROBED_SHARE = 0.4
"""Share of the lists to search until it is tuned: with real CLIP vectors, texts then reach a recall of 0.98 at 25,000
and at 60,000 rows."""
EF_SEARCH = (100, 1000)
"""Bounds of hnsw's candidates until it is tuned: more than pgvector's 40, with which text vectors missed 2 to 10 % of
their neighbours even among few images, and pgvector's upper limit."""


def best_method(rows: int) -> str:
    """Return the method that searches fastest at a recall of 0.98 for texts; docs/performance.md has the comparison."""
    return "hnsw" if EXACT_ROWS <= rows <= LARGEST_GRAPH else "ivfflat"


def fit_lists(rows: int) -> int:
    """Return the number of ivfflat lists for a number of rows: the square root, or a thousandth if that is more."""
    return 1 if rows < EXACT_ROWS else min(max(math.isqrt(rows), rows // 1000), MAX_FITTED_LISTS)


def fit_probes(lists: int) -> int:
    """Return the number of lists to search until it is tuned on real queries: rather too many than too few.

    pgvector's manual suggests the square root of the lists, for queries that are distributed like the rows. CLIP's text
    vectors lie off the images' manifold and have their neighbours in more lists: hence PROBED_SHARE of them, and never
    fewer than MIN_PROBES.
    """
    return min(lists, max(MIN_PROBES, math.ceil(PROBED_SHARE * lists)))


def fit_ef_search(rows: int) -> int:
    """Return hnsw's candidates until it is tuned on real queries: rather too many than too few.

    Fitted to what texts needed for a recall of 0.98 among 25,000, 60,000 and 100,000 real CLIP vectors.
    """
    low, high = EF_SEARCH
    return min(max(low, math.ceil(0.1 * rows**0.8)), high)


def fit_setting(method: str, lists: int | None, tuned: Recall | None, *, rows: int = 0) -> int:
    """Return the probes or ef_search of an index just built: from the last tuning on texts, else the default.

    For ivfflat, the tuned share of the lists is kept: the same share of the lists reads the same share of the images,
    so recall stays at least about what it was tuned to while lists and rows grow. A tuning on a single list says
    nothing about many. For hnsw, the tuned setting grows with the rows as the default does.
    """
    if tuned is not None and tuned.kind != "text":
        tuned = None  # stored images need next to nothing
    if method == "hnsw":
        default = fit_ef_search(rows)
        if tuned is None:
            return default
        return min(math.ceil(tuned.setting * max(1, default / fit_ef_search(tuned.row_count))), EF_SEARCH[1])
    lists = lists or 1
    if tuned is None or tuned.lists in (None, 1):
        return fit_probes(lists)
    return min(lists, math.ceil(lists * tuned.setting / tuned.lists))


def needs_tuning(rows: int, rows_at_tuning: int, *, method: str | None) -> bool:
    """Return whether to tune an index that needs no rebuild: hnsw, whose recall falls slowly as rows are added."""
    return method == "hnsw" and rows >= max(EXACT_ROWS, 2 * rows_at_tuning)


def needs_rebuild(rows: int, rows_at_build: int, *, method: str | None = "ivfflat", valid: bool = True) -> bool:
    """Return whether to rebuild: the index was built on at most half of its rows, is missing, or is invalid.

    Below EXACT_ROWS it never needs to be. hnsw adapts to each new row and is never outgrown.
    """
    if rows < EXACT_ROWS:
        return False
    return method is None or not valid or (method == "ivfflat" and rows >= 2 * rows_at_build)
