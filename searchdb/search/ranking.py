"""Ranks pictures by similarity to one vector, in the database: all of them, or those that meet a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Select

from searchdb.db.tables import Embedding, images
from searchdb.records import EMBEDDING_DIMENSION

MAX_HITS = 1000
"""Deepest hit that paging reaches: beyond it an approximate index has nothing trustworthy to say."""
FIRST_HITS = 100
"""Hits that are ranked whatever page of them is shown: few enough to cost hardly more than ten."""
NARROW_ROWS = 3000
"""Matching rows up to which all are compared: about 10 milliseconds, where an approximate scan would take as long to
meet a page of them."""
FILTERED_PROBES = 2
"""Times as many lists as are searched without a condition: the nearest pictures that meet one lie farther out."""

# As the tuned function has it, so that a rebuilt index serves both. What an approximate scan may read before it gives
# up is raised: pages are to be filled, however rare the matches among the nearest.
_SETTINGS = sa.text(
    """
    WITH tuned AS (
        SELECT split_part(setting, '=', 1) AS name, split_part(setting, '=', 2)::integer AS value
        FROM pg_proc, unnest(proconfig) AS setting
        WHERE oid = to_regprocedure('match_images(vector, double precision, integer)')
        AND split_part(setting, '=', 1) IN ('ivfflat.probes', 'hnsw.ef_search')
    )
    SELECT set_config('enable_sort', 'off', true),
        set_config('ivfflat.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.iterative_scan', 'relaxed_order', true),
        set_config('hnsw.max_scan_tuples', '1000000', true),
        set_config('hnsw.scan_mem_multiplier', '8', true),
        (SELECT count(set_config(name, least(:factor * value, most)::text, true))
         FROM tuned JOIN (VALUES ('ivfflat.probes', 32768), ('hnsw.ef_search', 1000)) AS bounds (of, most) ON of = name)
    """
)


def ranked(
    vector: ColumnElement[Any],
    reach: int,
    *,
    condition: ColumnElement[bool] | None = None,
    least: float | ColumnElement[float] = -1.0,
    without: int | ColumnElement[int] | None = None,
) -> sa.Subquery:
    """Return a query of the nearest pictures, `reach` of them at least: id, similarity, and place (1 for the best).

    A place stays the same however deep one pages: an approximate scan that is asked for more may find nearer pictures
    that it had missed, and these come after the first FIRST_HITS.

    Args:
        vector: a parameter for the unit vector, see `parameter`.
        reach: at most MAX_HITS; the statement is one of two, for those up to FIRST_HITS and those beyond.
        condition: on the columns of `images`; None for all pictures. It needs `prepare` in the same transaction.
        least: least cosine similarity.
        without: id of a picture that is no hit.
    """
    limits = [limit + (without is not None) for limit in (FIRST_HITS, MAX_HITS)][: 1 + (reach > FIRST_HITS)]
    parts = [_match(vector, limit) for limit in limits] if condition is None else _filter(vector, limits, condition)
    turns = [part.add_columns(sa.literal_column(str(turn)).label("turn")) for turn, part in enumerate(parts)]
    found = sa.union_all(*turns).subquery("found")
    similarity, turn = sa.func.max(found.c.similarity), sa.func.min(found.c.turn)
    place = sa.func.row_number().over(order_by=(turn, similarity.desc(), found.c.id))
    return (
        sa.select(found.c.id, similarity.label("similarity"), place.label("place"))
        .where(found.c.similarity >= least, sa.true() if without is None else found.c.id != without)
        .group_by(found.c.id)
        .subquery("ranked")
    )


def prepare(connection: Connection) -> None:
    """Let this transaction's plans use the vector index as match_images does."""
    connection.execute(_SETTINGS, {"factor": FILTERED_PROBES})


def similarity_to(vector: ColumnElement[Any]) -> ColumnElement[float]:
    """Return the cosine similarity of a row of `images` to a unit vector."""
    return 1 - images.c.embedding.cosine_distance(vector)


def parameter(name: str) -> sa.BindParameter[Any]:
    """Return a statement's parameter for a unit vector, float32 of shape (512,), that is given when it is executed."""
    return sa.bindparam(name, type_=Embedding(EMBEDDING_DIMENSION))


def _match(vector: ColumnElement[Any], limit: int) -> Select[Any, Any]:
    match = sa.func.match_images(vector, -1, limit).table_valued(
        sa.column("id", sa.BigInteger), sa.column("similarity", sa.Double), name="match"
    )
    return sa.select(match.c.id, match.c.similarity)


def _filter(
    vector: ColumnElement[Any], limits: Sequence[int], condition: ColumnElement[bool]
) -> list[Select[Any, Any]]:
    """Return the ways to the nearest rows that meet a condition; the database takes those that apply, in one go.

    When few rows meet it, all of these are compared. Else the index goes on until it has found enough; should it give
    up before, all are compared after all.
    """
    distance = images.c.embedding.cosine_distance(vector)
    rows = sa.select(images.c.id, (1 - distance).label("similarity")).where(condition)
    narrow = rows.limit(NARROW_ROWS + 1).cte("narrow")
    is_wide = sa.select(sa.func.count() > NARROW_ROWS).select_from(narrow).scalar_subquery()
    wide = [rows.where(is_wide).order_by(distance).limit(limit).cte(f"wide_{limit}") for limit in limits]
    gave_up = sa.select(sa.func.count() < limits[-1]).select_from(wide[-1]).scalar_subquery()
    # "+ 0" keeps the index, which has just given up, out of it.
    every = rows.where(is_wide, gave_up).order_by(distance + 0, images.c.id).limit(limits[-1]).cte("every")
    few = sa.select(narrow.c.id, narrow.c.similarity).where(sa.not_(is_wide))
    return [few, *(sa.select(part.c.id, part.c.similarity) for part in (*wide, every))]
