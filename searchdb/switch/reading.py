"""Reads what stored images show once more: files, URLs with their renditions, uploads, and frames of videos."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from PIL import Image
from sqlalchemy import Connection

from searchdb.batches import batched
from searchdb.db.tables import frame_previews, images
from searchdb.embedder import Embedder
from searchdb.errors import DamagedVideoError, FileUnreadableError, ImageError, NotAnImageError
from searchdb.ingest.preparation import Preparation
from searchdb.ingest.videos import BATCH, SHARPNESS, VideoLimits
from searchdb.media.fetch import Fetcher
from searchdb.media.formats import SNIFFED_BYTES
from searchdb.media.hashing import descriptor_sha256
from searchdb.media.local_files import UnwantedContentError
from searchdb.media.regular_file import open_regular
from searchdb.media.thumbnails import LONGEST_SIDE
from searchdb.records import SourceItem, is_url
from searchdb.video.helper import FRAME_CPU_S, open_frames
from searchdb.video.messages import Task
from searchdb.video.recognition import demuxer_of

_COLUMNS = ("id", "rendition", "sha256", "video_time", "ingested_at")
_ITEM_COLUMNS = (
    "source", "source_id", "description", "credit", "credit_url", "page_url", "taken_at", "camera", "country", "city",
    "latitude", "longitude", "tags", "metadata", "rating", "folder",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoredRow:
    """What must be known of a stored image to read it again; `file` is its path or URL, a video's for a frame."""

    id: int
    file: str
    rendition: str | None
    sha256: bytes | None
    video_time: float | None
    every_s: float | None
    ingested_at: datetime
    values: Mapping[str, Any]

    @property
    def is_frame(self) -> bool:
        """Whether it is a frame of a video."""
        return self.video_time is not None

    @property
    def item(self) -> SourceItem:
        """What to fetch."""
        return SourceItem(image=self.file, source=self.values["source"], rendition=self.rendition)

    def to_ingest(self) -> SourceItem:
        """Return the file with all that is stored of it, as for an ingest of it; of a file, with its size and time."""
        values = dict(self.values)
        if not isinstance(values["taken_at"], datetime):
            values["taken_at"] = None
        if self.is_frame:  # what a frame has beside its video's metadata is stored again with the frame
            values["metadata"] = {
                name: value
                for name, value in values["metadata"].items()
                if name not in ("video", "duration", "codec", "every", "partial", "time")
            }
        if not is_url(self.file):
            try:
                status = Path(self.file).stat()
            except OSError as exc:
                raise FileUnreadableError(f"the file cannot be read: {exc.strerror or exc}") from exc
            values |= {
                "byte_size": status.st_size,
                "modified_at": datetime.fromtimestamp(status.st_mtime, UTC),
            }
        values["tags"] = tuple(values["tags"])
        return SourceItem(image=self.file, rendition=self.rendition, every_s=self.every_s, **values)


@dataclass(frozen=True, kw_only=True)
class ReadImage:
    """A picture of a stored image, scaled for the model, and the SHA-256 of the bytes that it was read from.

    That is None where only a small preview of a frame was read.
    """

    row: StoredRow
    pixels: Image.Image
    sha256: bytes | None


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A stored image that could not be read again, and why."""

    row: StoredRow
    error: ImageError


@dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """A stored image whose file has other bytes than those stored."""

    row: StoredRow


ReadResult = ReadImage | Unreadable | ChangedImage


def rows_to_read(connection: Connection, ids: Sequence[int], condition: sa.ColumnElement[bool]) -> list[StoredRow]:
    """Return those of the images that a condition selects, in the order of their files."""
    return stored_rows(connection, images, ids, condition)


def stored_rows(
    connection: Connection, table: sa.Table, ids: Sequence[int], *conditions: sa.ColumnElement[bool]
) -> list[StoredRow]:
    """Return rows of `images`, or of `unembedded_images`, in the order of their files."""
    file = sa.func.coalesce(table.c.video, table.c.image)
    every = sa.case((table.c.video.is_not(None), sa.cast(table.c.metadata["every"].astext, sa.Double)))
    columns = [table.c[name] for name in (*_COLUMNS, *_ITEM_COLUMNS)]
    statement = (
        sa.select(file.label("file"), every.label("every_s"), *columns)
        .where(table.c.id.in_(ids), *conditions)
        .order_by(file, table.c.video_time, table.c.id)
    )
    return [
        StoredRow(
            values={name: row[name] for name in _ITEM_COLUMNS},
            **{name: row[name] for name in ("file", "every_s", *_COLUMNS)},
        )
        for row in connection.execute(statement).mappings()
    ]


class Reading:
    """Reads stored images again, within the limits of one process; several threads may do so at the same time.

    Args:
        embedder: the model that the images are scaled for.
        preparation: fetches and decodes images.
        fetcher: downloads videos.
        downloads: the folder for them.
        limits: of videos.
        stopping: ends what takes long when it is set.
    """

    def __init__(
        self,
        *,
        embedder: Embedder,
        preparation: Preparation,
        fetcher: Fetcher,
        downloads: Path,
        limits: VideoLimits,
        stopping: threading.Event,
    ) -> None:
        self._embedder = embedder
        self._preparation = preparation
        self._fetcher = fetcher
        self._downloads = downloads
        self._limits = limits
        self._stopping = stopping

    def read_image(self, row: StoredRow) -> ReadResult:
        """Read an image that is no frame.

        Raises:
            DecodeInterruptedError: `stopping` was set meanwhile.
        """
        try:
            decoded = self._preparation.prepare(row.item, [self._embedder])
        except UnwantedContentError:  # a video by now
            return ChangedImage(row=row)
        except ImageError as exc:
            return Unreadable(row=row, error=exc)
        if row.sha256 is not None and decoded.sha256 != row.sha256:
            return ChangedImage(row=row)
        return ReadImage(row=row, pixels=decoded.pixels, sha256=row.sha256)

    def read_frames(self, rows: Sequence[StoredRow], previews: Mapping[int, bytes]) -> Iterator[Sequence[ReadResult]]:
        """Yield the frames of one video, a few at a time: from the video, or if it cannot be read, its `previews`.

        Raises:
            DecodeInterruptedError: `stopping` was set meanwhile.
        """
        left = {row.id: row for row in rows}
        error: ImageError = DamagedVideoError("the video has no frame at the stored time any more")
        try:
            for found in self._from_video(rows):
                for each in found:
                    del left[each.row.id]
                yield found
                if all(isinstance(each, ChangedImage) for each in found):
                    return
        except ImageError as exc:
            error = exc
        for batch in batched(left.values(), BATCH):
            yield [self._from_preview(row, previews.get(row.id), error) for row in batch]

    def _from_video(self, rows: Sequence[StoredRow]) -> Iterator[Sequence[ReadResult]]:
        first = rows[0]
        with self._open(first) as file:
            size = os.fstat(file.fileno()).st_size
            demuxer = demuxer_of(os.pread(file.fileno(), SNIFFED_BYTES, 0))
            if demuxer is None:
                raise NotAnImageError("the video is no video any more")
            if first.sha256 is not None and descriptor_sha256(file.fileno(), size, self._stopping) != first.sha256:
                yield [ChangedImage(row=row) for row in rows]
                return
            task = Task(
                demuxer=demuxer,
                byte_size=size,
                every_s=1.0 if first.every_s is None else first.every_s,
                most=self._limits.frames,
                shorter_side=SHARPNESS * self._embedder.shortest_edge,
                longer_side=LONGEST_SIDE,
                max_pixels=self._limits.pixels,
                memory_bytes=self._limits.memory,
                frame_cpu_s=FRAME_CPU_S,
                parent=os.getpid(),
            )
            wanted = {row.video_time: row for row in rows}
            with open_frames(file.fileno(), task, cancel=self._stopping) as frames:
                for batch in batched(frames, BATCH):
                    found: list[ReadResult] = []
                    for frame in batch:
                        row = wanted.pop(math.ceil(frame.time * 1000 - 1e-6) / 1000, None)
                        if row is not None:
                            picture = Image.frombytes("RGB", (frame.width, frame.height), frame.pixels)
                            pixels = self._embedder.resize(picture)
                            found.append(ReadImage(row=row, pixels=pixels, sha256=row.sha256))
                    if found:
                        yield found
                if wanted and frames.error is not None:
                    raise frames.error

    def _open(self, row: StoredRow) -> AbstractContextManager[IO[bytes]]:
        if not is_url(row.file):
            return open_regular(row.file)
        return self._fetcher.download(row.item, self._downloads, max_bytes=self._limits.bytes, cancel=self._stopping)

    def _from_preview(self, row: StoredRow, preview: bytes | None, error: ImageError) -> ReadResult:
        if preview is None:
            return Unreadable(row=row, error=error)
        with Image.open(io.BytesIO(preview)) as picture:
            return ReadImage(row=row, pixels=self._embedder.resize(picture.convert("RGB")), sha256=row.sha256)


def previews_of(connection: Connection, ids: Sequence[int]) -> dict[int, bytes]:
    """Return the stored previews of frames, as WebP, by the frame's id."""
    statement = sa.select(frame_previews).where(frame_previews.c.image_id.in_(ids))
    return {row.image_id: bytes(row.webp) for row in connection.execute(statement)}
