"""SQL that treats the frames of a video, which are rows of `images`, as one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.clock import time_fragment
from searchdb.db.tables import images

FILE = sa.func.coalesce(images.c.video, images.c.image)
"""The path or URL of the file that a row came from."""

_other = images.alias("earlier_frame")
FIRST_OF_FILE = images.c.video.is_(None) | ~(
    sa.select(sa.literal(1))
    .where(_other.c.video == images.c.video, _other.c.video_time < images.c.video_time)
    .correlate(images)
    .exists()
)
"""Selects one row of each file. Two frames of one video have different times."""


def from_files(references: Sequence[str]) -> sa.ColumnElement[bool]:
    """Select all rows that came from these files or URLs."""
    # One parameter, and not one for each: that takes half of the time of a query. The index on videos is partial.
    given = sa.any_(sa.literal(list(references), ARRAY(sa.Text)))
    return (images.c.image == given) | (images.c.video.is_not(None) & (images.c.video == given))


def frame_reference(video: str, time: float) -> str:
    """Return `images.image` of a frame, such as `/films/a.mp4#t=12.5`, with a time of at most three decimals."""
    return video + time_fragment(time)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A row of `images`, and the `file` that it came from, which is another than `image` for a frame of a video."""

    id: int
    image: str
    file: str

    @property
    def is_frame(self) -> bool:
        """Whether it is a frame of a video."""
        return self.image != self.file
