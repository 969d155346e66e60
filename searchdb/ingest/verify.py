"""Compares the stored SHA-256s with the files, and gives moved images their new paths if asked to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import images
from searchdb.errors import FileUnreadableError
from searchdb.ingest.frames import FIRST_OF_FILE
from searchdb.ingest.moves import COLUMNS, apply_moves, pair
from searchdb.ingest.presence import is_gone
from searchdb.ingest.reread import hash_pool, sha256_or_error, stored_hashes
from searchdb.ingest.rows import UNSTORABLE
from searchdb.records import MovedImage, RejectedItem, SourceItem

BATCH = 1000
"""Rows read at a time: constant memory, and no transaction stays open while their files are read."""

Kind = Literal["changed", "missing", "moved", "unreadable"]
Row = Mapping[Any, Any]

_REMOTE = images.c.image.regexp_match("^https?://")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A stored image or video that is not what its file is now; `id` is the image's, or that of the first frame.

    `reason` says why the file is unreadable; `moved_to` is the new path of a moved one, `fixed` whether it was stored.
    """

    id: int
    image: str
    kind: Kind
    reason: str | None = None
    moved_to: str | None = None
    fixed: bool = False


@dataclass(kw_only=True)
class VerifyReport:
    """How many stored images and videos were compared with their files, and what was found.

    `counts` has the number of each kind of difference; `skipped` counts the images at URLs, which are not fetched.
    """

    checked: int = 0
    skipped: int = 0
    fixed: int = 0
    counts: Counter[Kind] = field(default_factory=Counter[Kind])

    @property
    def differing(self) -> int:
        """Images that differ from their files still."""
        return self.counts.total() - self.fixed

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        kinds: Sequence[Kind] = ("changed", "missing", "moved", "unreadable")
        numbers = {"checked": self.checked, "unchanged": self.checked - self.counts.total()}
        return numbers | {kind: self.counts[kind] for kind in kinds} | {"fixed": self.fixed, "skipped": self.skipped}


def verify(
    engine: Engine,
    *,
    folders: Sequence[str] | None = None,
    files: Sequence[str] = (),
    elsewhere: Iterable[SourceItem | RejectedItem] | None = None,
    fix_moved: bool = False,
    found: Callable[[Difference], None],
) -> VerifyReport:
    """Hash the files of stored images in parallel, call `found` with each difference, and return the numbers.

    Args:
        engine: the database; nothing is written to it without `fix_moved`.
        folders, files: only images below these folders, and from these files; all if None.
        elsewhere: the files among which missing ones are searched by their content.
        fix_moved: give moved images their new path.
        found: called with each difference; the missing ones come last if they are searched.
    """
    report = VerifyReport()
    missing: list[Row] = []

    def tell(row: Row, kind: Kind, **details: Any) -> None:
        difference = Difference(id=row["id"], image=row["image"], kind=kind, **details)
        report.counts[kind] += 1
        report.fixed += difference.fixed
        found(difference)

    selected = _selected(folders, files)
    with hash_pool() as pool:
        for rows in _batches(engine, selected):
            report.checked += len(rows)
            for row, sha256 in zip(rows, pool.map(sha256_or_error, [row["image"] for row in rows]), strict=True):
                if isinstance(sha256, FileUnreadableError):
                    if not is_gone(row["image"]):
                        tell(row, "unreadable", reason=str(sha256))
                    elif elsewhere is None:
                        tell(row, "missing")
                    else:
                        missing.append(row)
                elif row["sha256"] is not None and sha256 != row["sha256"]:  # a vector's file may never have been read
                    tell(row, "changed")
        moves = _find_moves(engine, missing, elsewhere or (), pool)
    fixed: set[int] = set()
    if fix_moved:
        with engine.begin() as connection:
            fixed = {move.id for move in apply_moves(connection, moves.values())}
    for row in missing:
        if row["id"] in moves:
            tell(row, "moved", moved_to=moves[row["id"]].item.image, fixed=row["id"] in fixed)
        else:
            tell(row, "missing")
    if folders is None:
        with engine.connect() as connection:
            report.skipped = (
                connection.scalar(sa.select(sa.func.count()).select_from(images).where(_REMOTE, FIRST_OF_FILE)) or 0
            )
    return report


def to_json(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON values, without what it does not have."""
    return {name: value for name, value in asdict(difference).items() if value is not None}


def _selected(folders: Sequence[str] | None, files: Sequence[str]) -> sa.ColumnElement[bool]:
    if folders is None:
        return ~_REMOTE & FIRST_OF_FILE
    storable = [folder.rstrip("/") + "/" for folder in folders if not UNSTORABLE.search(folder)]
    inside = [sa.func.starts_with(images.c.image, folder) for folder in storable]
    named = sa.literal([path for path in files if not UNSTORABLE.search(path)], ARRAY(sa.Text))
    by_name = (images.c.image == sa.any_(named)) | (images.c.video == sa.any_(named))
    return ~_REMOTE & FIRST_OF_FILE & sa.or_(by_name, *inside)


def _batches(engine: Engine, selected: sa.ColumnElement[bool]) -> Iterator[Sequence[Row]]:
    """Yield the selected rows in the order of their ids, each batch read in a transaction of its own."""
    statement = sa.select(*COLUMNS, images.c.byte_size).where(selected).order_by(images.c.id).limit(BATCH)
    last = -1
    while True:
        with engine.connect() as connection:
            rows = connection.execute(statement.where(images.c.id > last)).mappings().all()
        if not rows:
            return
        yield rows
        last = rows[-1]["id"]


def _find_moves(
    engine: Engine, missing: Sequence[Row], elsewhere: Iterable[SourceItem | RejectedItem], pool: ThreadPoolExecutor
) -> dict[int, MovedImage]:
    """Return where missing images are now, by their ids; only files of their size are read."""
    known = [row for row in missing if row["sha256"] is not None]  # of a vector's file the content may be unknown
    sizes = {row["byte_size"] for row in known}
    gone: dict[bytes, list[Row]] = defaultdict(list)
    for row in known:
        gone[row["sha256"]].append(row)
    new: dict[bytes, list[SourceItem]] = defaultdict(list)
    alike = (item for item in elsewhere if isinstance(item, SourceItem) and item.byte_size in sizes)
    while known and (items := list(islice(alike, BATCH))):
        stored = stored_hashes(engine, [item.image for item in items])
        unknown = {item.image: item for item in items if item.image not in stored}
        for item, sha256 in zip(unknown.values(), pool.map(sha256_or_error, unknown), strict=True):
            if isinstance(sha256, bytes) and sha256 in gone:
                new[sha256].append(item)
    return {move.id: move for sha256, items in new.items() for move in pair(gone[sha256], items)}
