"""Updates rows of images of which only the files beside them have changed, and removes those of these files."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.db.tables import images
from searchdb.ingest.companions import PARTS
from searchdb.ingest.folders import kept_folder
from searchdb.ingest.rows import metadata_row
from searchdb.records import RefreshedImage, SourceItem


def refresh_images(connection: Connection, refreshed: Sequence[RefreshedImage]) -> None:
    """Update the metadata of stored images in the caller's transaction."""
    for each in sorted(refreshed, key=lambda each: each.item.image):  # the order in which all writers lock rows
        row = metadata_row(each.item, each.written)
        folder = kept_folder(sa.literal(row.pop("folder"), sa.Text))
        connection.execute(sa.update(images).where(images.c.image == each.item.image).values(**row, folder=folder))


def merge_parts(connection: Connection, items: Sequence[SourceItem]) -> None:
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
