"""SQL that counts the references that have failed or are pending, and are not stored."""

from __future__ import annotations

import sqlalchemy as sa

from searchdb.db.tables import images, ingest_failures, ingest_pending


def _has(table: sa.Table, beside: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a table has the reference of a row of another table.

    It looks each of them up: OFFSET 0 keeps the planner from joining the tables instead, for which it may read all of
    `images` although there are few failures.
    """
    return sa.select(sa.literal(1)).where(table.c.image == beside.c.image).correlate(beside).offset(0).exists()


def _is_stored(beside: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether the reference of a row is stored: as an image, or as a video by its frames."""
    as_video = sa.select(sa.literal(1)).where(images.c.video == beside.c.image).correlate(beside).offset(0).exists()
    return _has(images, beside) | as_video


NOT_STORED = ~_is_stored(ingest_failures)
"""Selects failures whose reference is not stored. An image whose file turned bad later stays stored, and so do the
frames of a video that could be read."""
COUNT_FAILED = sa.select(sa.func.count()).select_from(ingest_failures).where(NOT_STORED)
COUNT_PENDING = (
    sa.select(sa.func.count())
    .select_from(ingest_pending)
    .where(~_is_stored(ingest_pending), ~_has(ingest_failures, ingest_pending))
)
"""Like COUNT_FAILED: the number of references in the queue that are neither stored nor failed."""
