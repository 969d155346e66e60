"""Reads how much space the parts of a collection take, and what bounds each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.config import THUMBNAILS, UPLOADS, Settings
from searchdb.db.embedded_log import LOG_NAME, MAX_LOG_BYTES
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.search.query_cache import stored_bytes

_DATABASE_BYTES = sa.select(sa.func.pg_database_size(sa.func.current_database()))
_MAX_WAL_BYTES = sa.select(sa.func.pg_size_bytes(sa.func.current_setting("max_wal_size")))


@dataclass(frozen=True, kw_only=True)
class SpaceUse:
    """What one part takes, in bytes, its limit in bytes, and the setting behind the limit; None where there is none."""

    name: str
    bytes: int
    limit: int | None
    setting: str | None


def space_use(connection: Connection, settings: Settings, *, embedded: bool) -> Iterator[SpaceUse]:
    """Yield what takes space in the home on this machine, and in the database."""
    uploads = BoundedFolder(settings.home / UPLOADS, settings.max_uploads_bytes)
    thumbnails = BoundedFolder(settings.home / THUMBNAILS, settings.max_thumbnails_bytes)
    texts, cache = stored_bytes(connection), "SEARCHDB_MAX_CACHE_BYTES"
    yield SpaceUse(name="uploads", bytes=uploads.size, limit=uploads.max_bytes, setting="SEARCHDB_MAX_UPLOADS_BYTES")
    yield SpaceUse(name="thumbnails", bytes=thumbnails.size, limit=thumbnails.max_bytes, setting=cache)
    yield SpaceUse(name="cached texts", bytes=texts, limit=settings.max_query_cache_bytes, setting=cache)
    database = connection.scalar(_DATABASE_BYTES) or 0
    yield SpaceUse(name="database", bytes=database, limit=None, setting=None)
    if embedded:
        data = settings.home / "postgres"
        wal = connection.scalar(_MAX_WAL_BYTES)
        yield SpaceUse(name="server's log", bytes=_size(data / LOG_NAME), limit=MAX_LOG_BYTES, setting=None)
        yield SpaceUse(name="write-ahead log", bytes=_size(data / "pg_wal"), limit=wal, setting="max_wal_size")


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder; 0 if we may not read them."""
    with suppress(OSError):
        if not path.is_dir():
            return path.lstat().st_size
        with os.scandir(path) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    return 0
