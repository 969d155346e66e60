"""Finds files whose content has changed although their size and time have not."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import Engine

from searchdb.db.tables import images
from searchdb.errors import FileUnreadableError
from searchdb.ingest.frames import FILE, FIRST_OF_FILE, from_files
from searchdb.media.hashing import file_sha256
from searchdb.records import FailedImage, RejectedItem, SourceItem

HASH_THREADS = min(8, 2 * (os.cpu_count() or 1))
"""Files read at a time: a disk or a network share serves a few better than one, and hashing takes a core each."""


@contextmanager
def hash_pool() -> Generator[ThreadPoolExecutor]:
    """Yield threads for reading files; at the end, also when interrupted, only the files begun are read."""
    pool = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="hash")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def sha256_or_error(path: str) -> bytes | FileUnreadableError:
    """Return the SHA-256 of a file, or why it cannot be read."""
    try:
        return file_sha256(path)
    except FileUnreadableError as exc:
        return exc


def stored_hashes(engine: Engine, references: Sequence[str]) -> dict[str, bytes]:
    """Return the SHA-256 of those references that are stored."""
    statement = sa.select(FILE.label("file"), images.c.sha256).where(from_files(references), FIRST_OF_FILE)
    with engine.connect() as connection:
        return {row.file: row.sha256 for row in connection.execute(statement)}


def find_changed(
    engine: Engine, items: Sequence[SourceItem | RejectedItem]
) -> tuple[list[SourceItem], list[FailedImage]]:
    """Return which of these stored files differ from their stored SHA-256, and which cannot be read."""
    stored = stored_hashes(engine, [item.image for item in items])
    files = [item for item in items if isinstance(item, SourceItem) and not item.is_url and item.image in stored]
    changed: list[SourceItem] = []
    unreadable: list[FailedImage] = []
    with hash_pool() as pool:
        for item, found in zip(files, pool.map(sha256_or_error, [item.image for item in files]), strict=True):
            if isinstance(found, FileUnreadableError):
                unreadable.append(FailedImage(image=item.image, source=item.source, error=found, item=item))
            elif found != stored[item.image]:
                changed.append(item)
    return changed, unreadable


def mark_changed(engine: Engine, items: Sequence[SourceItem]) -> None:
    """Make stored files count as changed until they are ingested again, also by another process."""
    if items:
        changed = from_files([item.image for item in items])
        with engine.begin() as connection:
            connection.execute(sa.update(images).where(changed).values(modified_at=None))
