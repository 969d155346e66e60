"""Recognizes moved files by their content, so that an image keeps its id and metadata when its file gets a new path."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from searchdb.db.tables import images
from searchdb.ingest.companions import PARTS, companion_state, part_paths
from searchdb.ingest.frames import FILE, FIRST_OF_FILE, from_files
from searchdb.ingest.presence import was_moved
from searchdb.records import MovedImage, SourceItem, nfc

MAX_COPIES = 16
"""Stored images with the same bytes, beyond which none is taken for a moved one: icons and blank scans recur."""

COLUMNS = [
    FILE.label("image"),
    *(images.c[name] for name in ("id", "source", "source_id", "tags", "sha256", "ingested_at")),
]
"""What must be known of an image to move it; of a video, the id is that of its first frame."""


class HashedFile(Protocol):
    """A file and the SHA-256 of its bytes."""

    @property
    def item(self) -> SourceItem:
        """The file, as its source describes it."""
        ...

    @property
    def sha256(self) -> bytes:
        """The SHA-256 of its bytes."""
        ...


def find_moves(engine: Engine, decoded: Sequence[HashedFile]) -> list[MovedImage]:
    """Return which files that are not stored have the content of a stored image whose file was moved away."""
    files = [each for each in decoded if not each.item.is_url]
    if not files:
        return []
    nth = sa.func.row_number().over(partition_by=images.c.sha256).label("nth")
    hashes = {each.sha256 for each in files}
    numbered = sa.select(*COLUMNS, nth).where(images.c.sha256.in_(hashes), FIRST_OF_FILE).subquery()
    with engine.connect() as connection:
        rows = connection.execute(sa.select(numbered).where(numbered.c.nth <= MAX_COPIES + 1)).mappings().all()
    if not rows:
        return []
    stored: dict[bytes, list[Mapping[Any, Any]]] = defaultdict(list)
    for row in rows:
        stored[row["sha256"]].append(row)
    found: dict[bytes, list[SourceItem]] = defaultdict(list)
    for each in files:
        if len(stored[each.sha256]) <= MAX_COPIES:
            found[each.sha256].append(each.item)
    moves: list[MovedImage] = []
    for sha256, items in found.items():
        known = {row["image"] for row in stored[sha256]}
        gone = [
            row
            for row in stored[sha256]
            if row["source"] == items[0].source and was_moved(row["image"], stored_at=row["ingested_at"])
        ]
        moves += pair(gone, [item for item in items if item.image not in known])
    return moves


def pair(gone: Sequence[Mapping[Any, Any]], found: Sequence[SourceItem]) -> list[MovedImage]:
    """Return which of the images, all with the same content, are where now: by name, or if there is one of each.

    Images that could have become several files, or files that could be several images, are left alone.
    """
    by_name = [
        (old, new)
        for old in gone
        for new in found
        if _name(old["image"]) == _name(new.image)
        and sum(_name(other["image"]) == _name(new.image) for other in gone) == 1
        and sum(_name(other.image) == _name(new.image) for other in found) == 1
    ]
    old_left = [old for old in gone if not any(old is taken for taken, _ in by_name)]
    new_left = [new for new in found if not any(new is taken for _, taken in by_name)]
    pairs = [*by_name, (old_left[0], new_left[0])] if len(old_left) == len(new_left) == 1 else by_name
    return [
        MovedImage(id=old["id"], image=old["image"], item=new, tags=_moved_tags(old["tags"], old["source_id"], new))
        for old, new in pairs
    ]


def apply_moves(connection: Connection, moves: Iterable[MovedImage]) -> list[MovedImage]:
    """Give images their new paths in the caller's transaction; return those that have them now, or had them before."""
    done: list[MovedImage] = []
    for move in sorted(moves, key=lambda move: move.image):  # the order in which all writers lock rows
        item = move.item.in_nfc()
        moved = sa.select(images.c.id).where(
            (images.c.id == move.id) & images.c.image.in_([move.image, item.image])
            | images.c.video.in_([move.image, item.image])
        )
        locked = moved.add_columns(FILE.label("file")).order_by(images.c.image.collate("C")).with_for_update()
        rows = connection.execute(locked).all()
        ids = [row.id for row in rows]
        others = sa.exists().where(from_files([item.image]), images.c.id.not_in(ids))
        # Another worker may have stored the video under its new path.
        if len({row.file for row in rows}) != 1 or connection.scalar(sa.select(others)):
            continue
        is_frame = images.c.video.is_not(None)
        video = sa.func.jsonb_build_object("video", sa.cast(item.image, sa.Text))
        parts = images.c.metadata.op("-", return_type=JSONB())(sa.literal(list(PARTS), ARRAY(sa.Text)))
        metadata = parts.concat(sa.literal(part_paths(item), JSONB))
        connection.execute(
            sa.update(images)
            .where(images.c.id.in_(ids))
            .values(
                image=sa.case(
                    (is_frame, sa.literal(item.image) + sa.func.substring(images.c.image, "#t=[^#]*$")),
                    else_=item.image,
                ),
                video=sa.case((is_frame, item.image)),
                metadata=sa.case((is_frame, metadata.concat(video)), else_=metadata),
                source_id=item.source_id,
                folder=item.folder,
                tags=list(move.tags),
                byte_size=item.byte_size,
                modified_at=item.modified_at,
            )
        )
        done.append(move)
    return done


def with_other_companions(connection: Connection, items: Sequence[SourceItem]) -> set[str]:
    """Return which of these stored files have others beside them than the rows say, as one moved without its sidecar.

    What is stored with it from there must be read again.
    """
    if not items:
        return set()
    states = {item.image: companion_state(item) for item in items}
    stored = sa.select(FILE.label("file"), images.c.companion_state).where(from_files(list(states)), FIRST_OF_FILE)
    return {row.file for row in connection.execute(stored) if row.companion_state != states[row.file]}


def _moved_tags(tags: Sequence[str], source_id: str | None, item: SourceItem) -> list[str]:
    """Return the tags with the names of the old folders replaced by those of the new ones."""
    old_folders = set(map(nfc, PurePath(source_id or "").parts[:-1]))
    return list(dict.fromkeys([*map(nfc, item.tags), *(tag for tag in tags if tag not in old_folders)]))


def _name(path: str) -> str:
    return nfc(path.rpartition(os.sep)[2])
