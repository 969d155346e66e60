"""Builds the SQL statements of a search: a page of hits, one stored image, and a random sample."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import embedding_models, images, relevance_scale
from searchdb.records import StoredImage
from searchdb.search.ranking import parameter, product, ranked, similarity_to
from searchdb.search.relevance import SCALE_COLUMNS

STORED_FIELDS = tuple(f.name for f in fields(StoredImage))
"""The columns of `images` that a `StoredImage`, and so a hit, has."""

_STORED_COLUMNS = [images.c[name] for name in STORED_FIELDS]

STORED_IMAGE = sa.select(*_STORED_COLUMNS).where(images.c.id == sa.bindparam("id", type_=sa.BigInteger))
"""One stored image; parameter: `id`."""

# Sorting by random() would read the whole table. Instead random ids are drawn, more than needed because ids have gaps,
# and the newest images fill up where too few ids exist.
SAMPLE = sa.select(*_STORED_COLUMNS).where(
    images.c.id.in_(
        sa.select(
            sa.text(
                """
                WITH span AS (SELECT min(id) AS low, max(id) AS high FROM images),
                guessed AS (
                    SELECT DISTINCT low + floor(random() * (high - low + 1))::bigint AS id
                    FROM span, generate_series(1, 4 * :count)
                )
                SELECT id FROM (
                    (SELECT images.id, 0 AS turn FROM images JOIN guessed USING (id))
                    UNION ALL
                    (SELECT id, 1 FROM images ORDER BY id DESC LIMIT :count)
                ) AS found
                GROUP BY id ORDER BY min(turn), random() LIMIT :count
                """
            )
            .columns(sa.column("id", sa.BigInteger))
            .subquery()
        )
    )
)
"""Random stored images; parameter: `count`."""


RELEVANT = product(images.c.embedding, parameter("adjusted")) >= sa.bindparam("least", type_=sa.Double)
"""A least relevance; parameters: `adjusted`, the text's vector adjusted as similarities are, and `least`."""


def hits_page(
    deep: bool,
    explained: tuple[str, ...],
    room: int,
    relevant: bool = False,
    condition: ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    """Return the statement for one page of hits, whose parameters are `vector`, `threshold`, `offset` and `end`.

    Each row has the columns of `images`, `similarity`, `model` (the SHA-256 of its weights), the relevance scale and
    `everyday_similarity`, the image's mean similarity to the everyday texts that it was measured with.

    Args:
        deep: whether the page goes beyond FIRST_HITS.
        explained: names of parts of the query. Each adds a parameter and a column `part_<name>`: the part's vector and
            the hit's similarity to it.
        room: the most images that are left out; their ids are the parameter `without`, which 0 does not have.
        relevant: whether only images are kept that meet RELEVANT; adds its parameters.
        condition: a condition on the columns of `images`; None for all images.
    """
    place = ranked(
        parameter("vector"),
        deep=deep,
        condition=condition,
        threshold=sa.bindparam("threshold", type_=sa.Double),
        kept=RELEVANT if relevant else None,
        without=sa.bindparam("without", type_=ARRAY(sa.BigInteger)) if room else None,
        room=room,
    )
    offset, end = (sa.bindparam(name, type_=sa.Integer) for name in ("offset", "end"))
    return (
        sa.select(
            *_STORED_COLUMNS,
            place.c.similarity,
            embedding_models.c.weights_sha256.label("model"),
            *SCALE_COLUMNS,
            product(images.c.embedding, relevance_scale.c.everyday_vector).label("everyday_similarity"),
            *(similarity_to(parameter(f"part_{name}")).label(f"part_{name}") for name in explained),
        )
        .join_from(place, images, images.c.id == place.c.id)
        .join(embedding_models)
        .outerjoin(relevance_scale)
        .where(place.c.place > offset, place.c.place <= end)
        .order_by(place.c.place)
    )


@cache
def unfiltered_hits_page(deep: bool, explained: tuple[str, ...], room: int, relevant: bool) -> sa.Select[Any]:
    """Return `hits_page` without a condition, built once for each of its few shapes.

    Building a statement takes longer than running it.
    """
    return hits_page(deep, explained, room, relevant)
