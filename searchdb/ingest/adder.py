"""Adds and removes single images, for programs that have one image rather than a folder."""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from searchdb.db.tables import images
from searchdb.embedder import Embedder
from searchdb.errors import ImageNotFoundError, StorageError, TooManyBytesError, UploadsFullError
from searchdb.ingest.store import Store, upsert_images
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.media.formats import format_of
from searchdb.media.memory import Hold, MemoryBudget
from searchdb.records import EmbeddedImage, FetchedImage, SourceItem, StoredImage

SOURCE = "api"
"""`images.source` of images added this way."""
CONTENT_LOCK, REFERENCE_LOCK = 0x5EA2C4DC, 0x5EA2C4DD
"""First halves of advisory lock keys; the second half comes from a hash. The reference's lock is taken first."""

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "HEIC": ".heic",
    "JPEG XL": ".jxl",
    "RAW": ".raw",
}
_COLUMNS = [images.c[f.name] for f in fields(StoredImage)]


@dataclass(frozen=True, kw_only=True)
class Addition:
    """The row of an image that was added, or was stored already with the same bytes or URL."""

    image: StoredImage
    created: bool


class Adder:
    """Adds images to one collection, and removes them; several threads and processes may do so at the same time.

    If an image cannot be added, nothing is stored, not even a failure; the caller gets the exception.

    Args:
        engine: the database.
        embedder: the model.
        fetcher: downloads URLs.
        uploads: the folder for images that come as bytes, as `<ab>/<sha256>.<format>`, and its bound.
        max_bytes: the largest file accepted.
        max_pixels: the largest image decoded, in pixels.
        memory: shared by all that is decoded in this process.
        timeout_s: seconds to wait for memory; by default without limit.
        cancel: ends what takes long when it is set.
        decoding: held while an image is decoded, which takes hundreds of MB for a large one.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        embedder: Embedder,
        fetcher: Fetcher,
        uploads: BoundedFolder,
        max_bytes: int,
        max_pixels: int,
        memory: MemoryBudget | None = None,
        timeout_s: float | None = None,
        cancel: threading.Event | None = None,
        decoding: AbstractContextManager[object] | None = None,
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._fetcher = fetcher
        self._uploads = uploads
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._memory = memory
        self._timeout_s = timeout_s
        self._cancel = cancel
        self._decoding = nullcontext() if decoding is None else decoding

    def add(self, data: bytes, item: SourceItem) -> Addition:
        """Write the bytes to the uploads folder and store the image; `item.image` is ignored.

        Raises:
            ImageError: the bytes are not an image, or too large.
            BusyError: there is no memory for decoding it within `timeout_s`, or others that take long are decoded.
            DecodeInterruptedError: `cancel` was set.
            ModelError: the model cannot be loaded or is not the collection's.
            UploadsFullError: the uploads have the size that they may have.
            StorageError: the folder cannot be written.
            DiskFullError: the database has no space left.
        """
        if len(data) > self._max_bytes:
            raise TooManyBytesError(self._max_bytes, len(data))
        known = self._find(images.c.sha256 == hashlib.sha256(data).digest())
        if known is not None:
            return Addition(image=known, created=False)
        self._require_room(data)
        embedded = self._embedded(FetchedImage(item=item, data=data))
        path = self._path(embedded.decoded.sha256, data)
        decoded = replace(embedded.decoded, item=replace(item, image=str(path)))
        return self._store(replace(embedded, decoded=decoded), data)

    def add_url(self, item: SourceItem, hold: Hold | None = None) -> Addition:
        """Fetch and store the image at `item.image`, a URL as `clean_url` returns it; its bytes are not kept.

        `hold` takes the memory for its bytes.

        Raises:
            ImageError: the URL cannot be fetched, or is not an image, or too large.
            ModelError: the model cannot be loaded or is not the collection's.
        """
        known = self._find(images.c.image == item.image)
        if known is not None:
            return Addition(image=known, created=False)
        return self._store(self._embedded(self._fetcher.fetch(item, hold)), None)

    def remove(self, image_id: int) -> StoredImage:
        """Delete an image, and its file if it is in the uploads folder; return the deleted row.

        Raises:
            ImageNotFoundError: no image has this id.
            StorageError: its file cannot be deleted; the row is.
        """
        with self._engine.begin() as connection:
            image = _find_one(connection, images.c.id == image_id)
            if image is not None and image.sha256 is not None:
                _lock(connection, CONTENT_LOCK, image.sha256)
            if image is None or not connection.execute(sa.delete(images).where(images.c.id == image_id)).rowcount:
                raise ImageNotFoundError(image_id)
        path = Path(image.image)
        # An upload's row always has the digest; one without came in as a vector, and its file is not ours.
        if image.sha256 is not None and path.is_relative_to(self._uploads.folder):
            # After the row, so that no row is ever without its file; unless the same bytes were added again meanwhile.
            with self._engine.begin() as connection:
                _lock(connection, CONTENT_LOCK, image.sha256)
                if _find_one(connection, images.c.image == image.image) is None:
                    with self._storage_errors():
                        self._uploads.delete(path)
        return image

    def _embedded(self, fetched: FetchedImage) -> EmbeddedImage:
        Store(self._engine).check_model(self._embedder.identity)
        with self._decoding:
            decoded = decode(
                fetched,
                max_pixels=self._max_pixels,
                needed=self._embedder.shortest_edge,
                memory=self._memory,
                timeout_s=self._timeout_s,
                cancel=self._cancel,
            )
            decoded = replace(decoded, pixels=self._embedder.resize(decoded.pixels))
        return EmbeddedImage(decoded=decoded, embedding=self._embedder.embed_images([decoded.pixels])[0])

    def _store(self, embedded: EmbeddedImage, data: bytes | None) -> Addition:
        """Write file and row, unless they exist by now; the file first, so that no row is ever without it."""
        decoded = embedded.decoded
        reference = decoded.item.image
        with self._engine.begin() as connection:
            _lock(connection, REFERENCE_LOCK, hashlib.sha256(reference.encode()).digest())
            _lock(connection, CONTENT_LOCK, decoded.sha256)
            known = _find_one(connection, sa.or_(images.c.sha256 == decoded.sha256, images.c.image == reference))
            if known is not None:
                return Addition(image=known, created=False)
            if data is not None:
                self._write(Path(reference), data)
            try:
                upsert_images(connection, [embedded], self._embedder.identity)
                stored = _find_one(connection, images.c.image == reference)
                assert stored is not None  # noqa: S101 - written one line above, in this transaction
            except BaseException:
                if data is not None:
                    self._uploads.delete(Path(reference))  # nothing else refers to it: the lock is held
                raise
        return Addition(image=stored, created=True)

    def _require_room(self, data: bytes) -> None:
        """Refuse early what will not fit, before the model runs."""
        with self._storage_errors():
            if not self._uploads.has_room(len(data)):
                raise UploadsFullError(self._uploads.size, self._uploads.max_bytes)

    def _write(self, path: Path, data: bytes) -> None:
        with self._storage_errors():
            if not self._uploads.write(path, data):
                raise UploadsFullError(self._uploads.size, self._uploads.max_bytes)

    @contextmanager
    def _storage_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StorageError(str(self._uploads.folder), exc.strerror or str(exc), full=full) from exc

    def _find(self, condition: sa.ColumnElement[bool]) -> StoredImage | None:
        with self._engine.connect() as connection:
            return _find_one(connection, condition)

    def _path(self, sha256: bytes, data: bytes) -> Path:
        return self._uploads.path(sha256, _SUFFIXES[format_of(data)])


def _lock(connection: Connection, kind: int, sha256: bytes) -> None:
    """Lock a content or a reference against other additions and removals until the transaction ends."""
    key = int.from_bytes(sha256[:4], "big", signed=True)
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.cast(kind, sa.Integer), sa.cast(key, sa.Integer))))


def _find_one(connection: Connection, condition: sa.ColumnElement[bool]) -> StoredImage | None:
    row = connection.execute(sa.select(*_COLUMNS).where(condition).order_by(images.c.id).limit(1)).mappings().first()
    return None if row is None else StoredImage.from_row(row)
