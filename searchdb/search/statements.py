"""Builds the SQL statements of a search: a page of hits, one stored image, and a random sample."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import embedding_models, images, relevance_scale
from searchdb.records import DEFAULT_DIMENSION, StoredImage
from searchdb.search.ranking import FIRST_HITS, parameter, product, ranked, similarity_to
from searchdb.search.relevance import SCALE_COLUMNS

STORED_FIELDS = tuple(f.name for f in fields(StoredImage))
"""The columns of `images` that a `StoredImage`, and so a hit, has."""

_STORED_COLUMNS = [images.c[name] for name in STORED_FIELDS]

STORED_IMAGE = sa.select(*_STORED_COLUMNS).where(images.c.id == sa.bindparam("id", type_=sa.BigInteger))
"""One stored image; parameter: `id`."""

# Sorting by random() would read the whole table. Instead random ids are drawn, more than needed because ids have gaps,
# and the newest images fill up where too few ids exist.
_DRAWN = """
    WITH span AS (SELECT min(id) AS low, max(id) AS high FROM images),
    guessed AS (
        SELECT DISTINCT low + floor(random() * (high - low + 1))::bigint AS id
        FROM span, generate_series(1, 4 * :count)
    ),
    drawn AS (
        SELECT id, min(turn) AS turn FROM (
            (SELECT images.id, 0 AS turn FROM images JOIN guessed USING (id))
            UNION ALL
            (SELECT id, 1 FROM images ORDER BY id DESC LIMIT :count)
        ) AS found
        GROUP BY id
    )
"""
_ANY = "SELECT id FROM drawn ORDER BY turn, random() LIMIT :count"
_ONE_PER_VIDEO = """
    SELECT id FROM (
        SELECT DISTINCT ON (video, CASE WHEN video IS NULL THEN id END) id, turn
        FROM drawn JOIN images USING (id)
        ORDER BY video, CASE WHEN video IS NULL THEN id END, turn, random()
    ) AS one ORDER BY turn, random() LIMIT :count
"""


def _sample(chosen: str) -> sa.Select[Any]:
    ids = sa.text(_DRAWN + chosen).columns(sa.column("id", sa.BigInteger)).subquery()
    return sa.select(*_STORED_COLUMNS).where(images.c.id.in_(sa.select(ids)))


SAMPLE = _sample(_ANY)
"""Random stored images; parameter: `count`."""
SAMPLE_ONE_PER_VIDEO = _sample(_ONE_PER_VIDEO)
"""The same with at most one frame of a video, and so with fewer than `count` where most are frames of a few videos."""


RELEVANT = product(images.c.embedding, parameter("adjusted")) >= sa.bindparam("least", type_=sa.Double)
"""A least relevance; parameters: `adjusted`, the text's vector adjusted as similarities are, and `least`."""


_FRAMES = images.alias("frames")
_MOMENTS = sa.select(sa.func.nullif(sa.func.count(), 0)).where(_FRAMES.c.video == images.c.video).scalar_subquery()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the statement for a page of hits looks like; its values are parameters.

    Attributes:
        depth: how many images to rank: one of `ranking.DEPTHS`.
        explained: names of parts of the query. Each adds a parameter and a column `part_<name>`: the part's vector and
            the hit's similarity to it.
        room: the most images that are left out; their ids are the parameter `without`, which 0 does not have.
        relevant: whether only images are kept that meet RELEVANT; adds its parameters.
        one_per_video: whether only the best frame of a video is a hit; adds the column `moments`.
    """

    depth: int = FIRST_HITS
    explained: tuple[str, ...] = ()
    room: int = 0
    relevant: bool = False
    one_per_video: bool = False


def hits_page(
    shape: Shape, condition: ColumnElement[bool] | None = None, dimension: int = DEFAULT_DIMENSION
) -> sa.Select[Any]:
    """Return the statement for one page of hits, whose parameters are `vector`, `threshold`, `offset` and `end`.

    Each row has the columns of `images`, `similarity`, `found` (how many images were ranked), `model` (the SHA-256 of
    its weights), the relevance scale and `everyday_similarity`, the image's mean similarity to the everyday texts that
    it was measured with. `moments` is the number of stored frames of a frame's video.

    Args:
        shape: the kind of page.
        condition: a condition on the columns of `images`; None for all images.
        dimension: the numbers of a vector, which a condition needs, too.
    """
    place = ranked(
        parameter("vector"),
        depth=shape.depth,
        one_per_video=shape.one_per_video,
        condition=condition,
        dimension=dimension,
        threshold=sa.bindparam("threshold", type_=sa.Double),
        kept=RELEVANT if shape.relevant else None,
        without=sa.bindparam("without", type_=ARRAY(sa.BigInteger)) if shape.room else None,
        room=shape.room,
    )
    offset, end = (sa.bindparam(name, type_=sa.Integer) for name in ("offset", "end"))
    return (
        sa.select(
            *_STORED_COLUMNS,
            place.c.similarity,
            place.c.found,
            embedding_models.c.weights_sha256.label("model"),
            *SCALE_COLUMNS,
            product(images.c.embedding, relevance_scale.c.everyday_vector).label("everyday_similarity"),
            *(similarity_to(parameter(f"part_{name}")).label(f"part_{name}") for name in shape.explained),
            *([_MOMENTS.label("moments")] if shape.one_per_video else ()),
        )
        .join_from(place, images, images.c.id == place.c.id)
        .join(embedding_models)
        .outerjoin(relevance_scale)
        .where(place.c.place > offset, place.c.place <= end)
        .order_by(place.c.place)
    )


@cache
def unfiltered_hits_page(shape: Shape) -> sa.Select[Any]:
    """Return `hits_page` without a condition, built once for each of its few shapes.

    Building a statement takes longer than running it.
    """
    return hits_page(shape)
