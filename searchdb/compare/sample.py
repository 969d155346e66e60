"""Draws the sample of stored images that models are compared on, and finds the images that queries name as right."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from searchdb.batches import batched
from searchdb.compare.query_file import wrong_lines
from searchdb.compare.records import ModelQuery
from searchdb.db.tables import as_vector, embedding_models, frame_previews, images
from searchdb.db.vectors import CURRENT, NO_CHANGE_OVER, current_column, images_with, other_columns
from searchdb.records import LARGEST_ID, is_url, mask_credentials

ROWS_AT_ONCE = 1000
"""Images in one statement: 3 MB with their vectors, or 20 with previews of frames."""

_COLUMNS = ("id", "image", "rendition", "source", "description", "video", "video_time", "sha256")


@dataclass(frozen=True, kw_only=True)
class SampledImage:
    """One image to compare models on: what it takes to read it again.

    `vectors` are those that the collection has by the models to compare, by their SHA-256: float32 of shape (numbers of
    the model,). `preview` is the small image of a frame of a video.
    """

    id: int
    image: str
    rendition: str | None
    source: str
    description: str | None
    video: str | None
    video_time: float | None
    sha256: bytes | None
    vectors: Mapping[bytes, np.ndarray]
    preview: bytes | None


@dataclass(frozen=True, kw_only=True)
class JudgedQuery:
    """A text, and the ids of the stored images that are right for it."""

    text: str
    relevant: frozenset[int]


def draw(connection: Connection, size: int, seed: int) -> list[int]:
    """Return the ids of `size` random images, or of all if there are fewer; with the same seed the same ones.

    An image's place depends on its id and the seed alone: while images are added, most of the sample stays.
    """
    order = sa.func.hashint8extended(images.c.id, sa.cast(seed, sa.BigInteger))
    return list(connection.scalars(sa.select(images.c.id).order_by(order, images.c.id).limit(size)))


def judged_queries(connection: Connection, queries: Sequence[ModelQuery]) -> list[JudgedQuery]:
    """Return the queries with the ids of their right images, which are given by id, path or URL.

    A path need not be absolute: it is also looked for below the current folder.

    Raises:
        QueriesError: some of the images are not stored; it names the lines.
    """
    named = {each: _spellings(each) for query in queries for each in query.relevant}
    stored = _ids_of(connection, {spelling for spellings in named.values() for spelling in spellings})
    ids = _known_ids(connection, {number for each in named if (number := _number(each)) is not None})
    found: dict[int | str, int] = {}
    for each, spellings in named.items():
        known = next((stored[spelling] for spelling in spellings if spelling in stored), None)
        if known is None and (number := _number(each)) in ids:
            known = number
        if known is not None:
            found[each] = known
    wrong: list[tuple[int, str]] = []
    for query in queries:
        for each, line in zip(query.relevant, query.lines, strict=True):
            if each not in found:
                named_as = f"no image has the id {each}" if isinstance(each, int) else f"{_shown(each)} is not stored"
                wrong.append((line, f"{named_as}: ingest it, or leave it out"))
    if wrong:
        raise wrong_lines(next((query.file for query in queries if query.file), "the queries"), wrong)
    return [
        JudgedQuery(text=query.text, relevant=frozenset(found[each] for each in query.relevant)) for query in queries
    ]


def sampled_images(engine: Engine, ids: Sequence[int], models: Collection[bytes]) -> Iterator[SampledImage]:
    """Yield the images by ascending id, with their vectors by these models, which are given by their SHA-256.

    Images that were removed meanwhile are left out. No transaction is open while the caller works.
    """
    for batch in batched(sorted(ids), ROWS_AT_ONCE):
        with engine.begin() as connection:
            connection.execute(NO_CHANGE_OVER)
            names = _vector_columns(connection, models)
            rows = connection.execute(_rows(tuple(names.values()), batch)).mappings().all()
        for row in rows:
            yield SampledImage(
                **{name: row[name] for name in _COLUMNS},
                vectors={model: row[name] for model, name in names.items() if row[name] is not None},
                preview=row["webp"],
            )


def _vector_columns(connection: Connection, models: Collection[bytes]) -> dict[bytes, str]:
    """Return the names of the columns with vectors by these models; of those that have one."""
    known = sa.select(embedding_models.c.id, embedding_models.c.weights_sha256)
    digests = {row.id: row.weights_sha256 for row in connection.execute(known)}
    columns = [current_column(connection), *other_columns(connection)]
    found = {digests[column.model_id]: column.name for column in columns if column.model_id in digests}
    return {model: name for model, name in found.items() if model in models}


def _rows(names: Sequence[str], ids: Sequence[int]) -> sa.Select[Any]:
    table = images_with(*(name for name in names if name != CURRENT))
    return (
        sa.select(*(table.c[name] for name in _COLUMNS), *(as_vector(table.c[name]).label(name) for name in names))
        .add_columns(frame_previews.c.webp)
        .join_from(table, frame_previews, frame_previews.c.image_id == table.c.id, isouter=True)
        .where(table.c.id.in_(ids))
        .order_by(table.c.id)
    )


def _known_ids(connection: Connection, ids: set[int]) -> set[int]:
    possible = sorted(each for each in ids if 0 < each <= LARGEST_ID)
    return {
        found
        for batch in batched(possible, ROWS_AT_ONCE)
        for found in connection.scalars(sa.select(images.c.id).where(images.c.id.in_(batch)))
    }


def _ids_of(connection: Connection, references: set[str]) -> dict[str, int]:
    statement = sa.select(images.c.image, images.c.id)
    return {
        row.image: row.id
        for batch in batched(sorted(references), ROWS_AT_ONCE)
        for row in connection.execute(statement.where(images.c.image.in_(batch)))
    }


def _spellings(reference: int | str) -> list[str]:
    """Return how a path or URL may be stored, the likeliest first."""
    if isinstance(reference, int) or not _is_storable(reference):
        return []
    if is_url(reference):
        return [reference]
    path = os.path.expanduser(reference)  # noqa: PTH111 - pathlib raises for an unknown ~user
    return list(dict.fromkeys([reference, os.path.abspath(path), os.path.realpath(path)]))  # noqa: PTH100


def _is_storable(reference: str) -> bool:
    """Whether PostgreSQL can store a text: not with a NUL, and not half of a character, as JSON's "\\ud800" is."""
    try:
        reference.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in reference


def _number(reference: int | str) -> int | None:
    """Return the id that a reference may be."""
    if isinstance(reference, int):
        return reference
    return int(reference) if reference.isascii() and reference.isdigit() and len(reference) < 20 else None


def _shown(reference: str) -> str:
    return repr(mask_credentials(reference))
