"""Stores the folders of images, each from the outermost folder that was named on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import images
from searchdb.ingest.frames import from_files


def keeps_folder(stored: str | None, new: str) -> bool:
    """Whether a stored folder is kept: it is the new one, or tells more of it, as `Pictures/2024` does of `2024`.

    So a folder does not change back and forth when it is named itself now, and its parent then.
    """
    return stored is not None and (stored == new or stored.endswith(f"/{new}"))


def kept_folder(new: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the folder that a row of `images` has after it is stored again with a new one: see `keeps_folder`."""
    column = images.c.folder
    ends_so = sa.func.right(column, sa.func.length(new) + 1) == sa.literal("/").concat(new)
    return sa.case((ends_so, column), else_=sa.func.coalesce(new, column))


def set_folders(connection: Connection, folders: Mapping[str, str]) -> None:
    """Give stored images, and the frames of stored videos, their folders in the caller's transaction."""
    references = sorted(folders)
    given = (
        sa.func.unnest(
            sa.literal(references, ARRAY(sa.Text)), sa.literal([folders[r] for r in references], ARRAY(sa.Text))
        )
        .table_valued("reference", "folder")
        .render_derived()
    )
    # All writers lock rows in this order, which rules out deadlocks: images and frames together.
    ordered = sa.select(images.c.id).where(from_files(references)).order_by(images.c.image.collate("C"))
    connection.execute(ordered.with_for_update())
    for column in (images.c.image, images.c.video):
        connection.execute(sa.update(images).where(column == given.c.reference).values(folder=given.c.folder))
