"""Builds the query that ranks images by similarity to one vector: all of them, or those that meet a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy import ColumnElement, Connection, Select

from searchdb.db.tables import VECTOR_INDEX, Embedding, images
from searchdb.records import DEFAULT_DIMENSION

MAX_HITS = 1000
"""Deepest hit that paging reaches: beyond it the results of an approximate index are not reliable."""
FIRST_HITS = 100
"""Hits that are ranked whatever page of them is shown: so few that they cost hardly more than ten."""
MAX_FRAMES = 10_000
"""Frames and images among which a search with one hit per video looks for its hits, at most: as many as match_images
returns. Only long videos that crowd out all others need them: five with 2,000 frames each."""
DEPTHS = (FIRST_HITS, MAX_HITS, MAX_FRAMES)
"""How many images a search ranks: the first number that suffices for its page."""
NARROW_ROWS = 3000
"""Up to this number of matching rows all are compared. That takes about 10 milliseconds, as long as an approximate scan
would need to find a page of them."""
FILTERED_PROBES = 2
"""Factor by which more lists are searched with a condition than without: the nearest images that meet it lie farther
out."""

# The settings of the tuned function, so that a rebuilt index serves both, but no less than an untuned index has: what
# suffices without a condition may miss what lies far from the query. The limit on what an approximate scan may
# read before it gives up is raised: pages must be filled even if few of the nearest images match. Without sorts the
# planner takes the index, but thinks the plan so expensive that it would compile it, for a second or more.
_SETTINGS = sa.text(
    """
    WITH tuned AS (
        SELECT split_part(setting, '=', 1) AS name, split_part(setting, '=', 2)::integer AS value
        FROM pg_proc, unnest(proconfig) AS setting
        WHERE oid = to_regprocedure('match_images(vector, double precision, integer)')
        AND split_part(setting, '=', 1) IN ('ivfflat.probes', 'hnsw.ef_search')
    )
    SELECT set_config('enable_sort', 'off', true),
        set_config('jit', 'off', true),
        set_config('ivfflat.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.max_scan_tuples', '1000000', true),
        set_config('hnsw.scan_mem_multiplier', '8', true),
        (SELECT count(set_config(name, least(:factor * greatest(value, fewest), most)::text, true))
         FROM tuned JOIN (VALUES ('ivfflat.probes', 40, 32768), ('hnsw.ef_search', 100, 1000))
         AS bounds (of, fewest, most) ON of = name)
    """
)

# Whether the index is over halfvec, as match_images asks, too.
_IS_HALF = sa.literal_column(
    f"EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{VECTOR_INDEX}') "
    "AND indrelid = to_regclass('images') AND indisvalid AND indexprs IS NOT NULL)",
    sa.Boolean,
)


def ranked(
    vector: ColumnElement[Any],
    *,
    depth: int = FIRST_HITS,
    one_per_video: bool = False,
    condition: ColumnElement[bool] | None = None,
    dimension: int = DEFAULT_DIMENSION,
    threshold: float | ColumnElement[float] = -1.0,
    kept: ColumnElement[bool] | None = None,
    without: ColumnElement[Any] | None = None,
    room: int = 1,
) -> sa.Subquery:
    """Return a query of the nearest images: id, similarity, place (1 for the best), and how many were found in all.

    A place stays the same however deep one pages: an approximate scan that is asked for more may find nearer images
    that it had missed, and these come after the first FIRST_HITS.

    Args:
        vector: a parameter for the unit vector, see `parameter`.
        depth: how many images to rank at least: one of DEPTHS.
        one_per_video: of the frames of one video only the best has a place; the others count only as found.
        condition: on the columns of `images`; None for all images. It needs `prepare` in the same transaction.
        dimension: the numbers of a vector, which a condition needs, too.
        threshold: lowest cosine similarity.
        kept: on the columns of `images`, like `condition`, but applied to the images found: at most MAX_HITS.
        without: an array of ids of images to leave out.
        room: the most ids in it.
    """
    limits = [limit for limit in DEPTHS if limit <= depth]
    if without is not None:
        limits = [limit + room for limit in limits]  # the images that are left out may be among them
    scans = (
        [_scan_all(vector, limit) for limit in limits]
        if condition is None
        else _scan_matching(vector, limits, condition, dimension)
    )
    numbered = [
        scan.add_columns(sa.literal_column(str(number), sa.Integer).label("scan")) for number, scan in enumerate(scans)
    ]
    found = sa.union_all(*numbered).subquery("found")
    # An image that several scans found has the place that the first of them gives it.
    similarity, scan = sa.func.max(found.c.similarity), sa.func.min(found.c.scan)
    best_first = (scan, similarity.desc(), found.c.id)
    place = sa.func.row_number().over(order_by=best_first)
    hits = (
        sa.select(
            found.c.id, similarity.label("similarity"), place.label("place"), sa.func.count().over().label("found")
        )
        # PostgreSQL puts NaN, the similarity to a vector from before the CHECK on its length, above all numbers
        .where(found.c.similarity >= threshold, found.c.similarity != sa.literal_column("'NaN'::float8", sa.Double))
        .group_by(found.c.id)
    )
    if kept is not None:
        hits = hits.join(images, images.c.id == found.c.id).where(kept)
    if without is not None:
        hits = hits.where(found.c.id != sa.all_(without))
    each = hits.subquery("ranked")
    return _one_per_video(each) if one_per_video else each


def _one_per_video(each: sa.Subquery) -> sa.Subquery:
    """Return the ranked images without all frames of a video but its best one, in places without gaps."""
    image = sa.case((images.c.video.is_(None), images.c.id))
    nth = sa.func.row_number().over(partition_by=(images.c.video, image), order_by=each.c.place)
    counted = sa.select(each, nth.label("nth")).join_from(each, images, images.c.id == each.c.id).subquery("counted")
    place = sa.func.row_number().over(order_by=counted.c.place)
    return (
        sa.select(counted.c.id, counted.c.similarity, place.label("place"), counted.c.found)
        .where(counted.c.nth == 1)
        .subquery("best")
    )


def prepare(connection: Connection) -> None:
    """Make this transaction use the vector index with the settings of match_images."""
    connection.execute(_SETTINGS, {"factor": FILTERED_PROBES})


def similarity_to(vector: ColumnElement[Any]) -> ColumnElement[float]:
    """Return the cosine similarity of a row of `images` to a unit vector."""
    return 1 - images.c.embedding.cosine_distance(vector)


def product(stored: ColumnElement[Any], vector: ColumnElement[Any]) -> ColumnElement[float]:
    """Return the inner product of a column of vectors with a vector, which need not be a unit vector."""
    return -stored.max_inner_product(vector)  # pgvector's <#> is its negative


def parameter(name: str) -> sa.BindParameter[Any]:
    """Return a statement's parameter for a unit vector, float32 of shape (dimension,)."""
    return sa.bindparam(name, type_=Embedding())


def _scan_all(vector: ColumnElement[Any], limit: int) -> Select[Any, Any]:
    nearest = sa.func.match_images(vector, -1, limit).table_valued(
        sa.column("id", sa.BigInteger), sa.column("similarity", sa.Double), name="match"
    )
    return sa.select(nearest.c.id, nearest.c.similarity)


def _scan_matching(
    vector: ColumnElement[Any], limits: Sequence[int], condition: ColumnElement[bool], dimension: int
) -> list[Select[Any, Any]]:
    """Return scans for the nearest rows that meet a condition; the database runs those that apply, in one statement.

    When few rows meet it, all of them are compared. Otherwise the index is scanned until it has found enough; if it
    gives up before, all are compared.
    """
    distance = images.c.embedding.cosine_distance(vector)
    rows = sa.select(images.c.id, (1 - distance).label("similarity")).where(condition)
    narrow = rows.limit(NARROW_ROWS + 1).cte("narrow")
    is_wide = sa.select(sa.func.count() > NARROW_ROWS).select_from(narrow).scalar_subquery()
    wide = [_scan_index(vector, rows.where(is_wide), limit, dimension).cte(f"wide_{limit}") for limit in limits]
    gave_up = sa.select(sa.func.count() < limits[-1]).select_from(wide[-1]).scalar_subquery()
    # "+ 0" prevents the use of the index, which has just given up.
    every = rows.where(is_wide, gave_up).order_by(distance + 0, images.c.id).limit(limits[-1]).cte("every")
    few = sa.select(narrow.c.id, narrow.c.similarity).where(sa.not_(is_wide))
    return [few, *(sa.select(part.c.id, part.c.similarity) for part in (*wide, every))]


def _scan_index(
    vector: ColumnElement[Any], rows: Select[Any, Any], limit: int, dimension: int
) -> sa.CompoundSelect[Any, Any]:
    """Return a scan for the nearest of `rows`, by whichever of the two kinds of index there is.

    One over halfvec gives candidates, a few more than `limit`, that the vectors rank, as in match_images.
    """
    distance = images.c.embedding.cosine_distance(vector)
    half = HALFVEC(dimension)  # as in the index, or the index is not used
    half_distance = sa.cast(images.c.embedding, half).op("<=>")(sa.cast(vector, half))
    exactly = rows.where(sa.not_(_IS_HALF)).order_by(distance).limit(limit).subquery("exactly")
    roughly = rows.where(_IS_HALF).order_by(half_distance).limit(limit + max(30, limit // 5)).subquery("roughly")
    reranked = (
        sa.select(roughly.c.id, roughly.c.similarity)
        .order_by(roughly.c.similarity.desc(), roughly.c.id)
        .limit(limit)
        .subquery("reranked")
    )
    return sa.union_all(sa.select(exactly.c.id, exactly.c.similarity), sa.select(reranked.c.id, reranked.c.similarity))
