"""Updates rows of images of which only the files beside them have changed, and removes those of these files."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import JSONB

from searchdb.db.tables import images
from searchdb.ingest.companions import PARTS
from searchdb.ingest.folders import kept_folder
from searchdb.ingest.rows import metadata_row
from searchdb.records import RefreshedImage, SourceItem

FRAME_KEYS = ("video", "time", "duration", "codec")
"""Keys in `metadata` that a video's frames have of themselves and not of the file."""


def refresh_images(connection: Connection, refreshed: Sequence[RefreshedImage]) -> None:
    """Update the metadata of stored images, and of all frames of stored videos, in the caller's transaction."""
    for each in sorted(refreshed, key=lambda each: each.item.image):  # the order in which all writers lock rows
        row = metadata_row(each.item, each.written)
        folder = sa.literal(row.pop("folder"), sa.Text)
        of_frame = sa.select(sa.func.jsonb_object_agg(sa.column("key"), sa.column("value")))
        of_frame = of_frame.select_from(sa.func.jsonb_each(images.c.metadata)).where(sa.column("key").in_(FRAME_KEYS))
        metadata = sa.literal(row.pop("metadata"), JSONB)
        for column, new in (
            (images.c.image, metadata),
            (images.c.video, metadata.concat(sa.func.coalesce(of_frame.scalar_subquery(), sa.literal({}, JSONB)))),
        ):
            same = sa.update(images).where(column == each.item.image)
            connection.execute(same.values(**row, metadata=new, folder=kept_folder(folder)))


def absorb_parts(connection: Connection, items: Sequence[SourceItem]) -> None:
    """Make the files that belong to these items no images of their own, in the caller's transaction.

    A RAW file that was alone when it was stored gives its row, and so its id, to its JPEG, unless that is stored
    already. All other rows of such files are removed.
    """
    owners = {each.path: item.image for item in items for each in item.companions if each.kind in PARTS}
    if not owners:
        return
    stored = sa.select(images.c.image).where(images.c.image.in_(owners)).order_by(images.c.image.collate("C"))
    other = images.alias()
    for path in connection.scalars(stored.with_for_update()).all():
        taken = sa.exists().where(other.c.image == owners[path])
        connection.execute(sa.update(images).where(images.c.image == path, ~taken).values(image=owners[path]))
    connection.execute(sa.delete(images).where(images.c.image.in_(owners) | images.c.video.in_(owners)))
