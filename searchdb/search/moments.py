"""Reads the stored frames of one video: its moments in time order, and their previews."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.tables import frame_previews, images
from searchdb.search.ranking import parameter, similarity_to

MAX_MOMENTS = 10_000
"""Most frames of a video that are read: as many as SEARCHDB_MAX_VIDEO_FRAMES can be, but SQL can insert any number."""
MAX_SECONDS = 1e9
"""Longest time in a video, in seconds: 30 years."""
MAX_PREVIEW_BYTES = 1024 * 1024
"""A preview of 512 pixels takes a twentieth; a larger one was not written by searchdb, and would only take memory."""

_MOMENTS = (
    sa.select(images.c.id, images.c.video_time)
    # SQL can store a time that is none, such as NaN, which PostgreSQL puts above all numbers.
    .where(images.c.video == sa.bindparam("video"), images.c.video_time.between(0, MAX_SECONDS))
    .order_by(images.c.video_time, images.c.id)
    .limit(MAX_MOMENTS)
)
_COMPARED_MOMENTS = _MOMENTS.add_columns(similarity_to(parameter("vector")).label("similarity"))
_PREVIEW = sa.select(frame_previews.c.webp).where(
    frame_previews.c.image_id == sa.bindparam("id", type_=sa.BigInteger),
    sa.func.octet_length(frame_previews.c.webp) <= MAX_PREVIEW_BYTES,
)
HAS_VIDEOS = sa.select(sa.exists().where(images.c.video.is_not(None)))
"""Whether there are frames of videos."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One stored frame of a video: its id, the seconds before it, and its similarity to a query, if there is one."""

    id: int
    time: float
    similarity: float | None = None


def moments_of(connection: Connection, video: str, vector: np.ndarray | None = None) -> list[Moment]:
    """Return the stored frames of a video in time order, with their similarity to a unit vector, if one is given."""
    if vector is None:
        rows = connection.execute(_MOMENTS, {"video": video})
    else:
        rows = connection.execute(_COMPARED_MOMENTS, {"video": video, "vector": vector})
    return [Moment(id=row["id"], time=row["video_time"], similarity=row.get("similarity")) for row in rows.mappings()]


def videos_of(connection: Connection, ids: Sequence[int]) -> list[str]:
    """Return the videos, by path or URL, that some images are frames of."""
    frames = sa.select(images.c.video).distinct().where(images.c.id.in_(ids), images.c.video.is_not(None))
    return [video for video in connection.scalars(frames) if video is not None]


def frame_preview(connection: Connection, image_id: int) -> bytes | None:
    """Return the WebP preview of a frame, None if there is none."""
    return connection.scalar(_PREVIEW, {"id": image_id})
