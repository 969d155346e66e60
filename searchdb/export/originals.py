"""Gets the files of stored images, the previews of frames, and thumbnails, within limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import Engine

from searchdb.db.tables import frame_previews
from searchdb.errors import FileUnreadableError
from searchdb.export.rows import Row
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.media.memory import FILES_BYTES, Hold, MemoryBudget
from searchdb.media.thumbnails import make_thumbnail
from searchdb.records import FetchedImage, SourceItem

THREADS = 8
"""Images that are fetched at a time: most of the time is waiting for servers, of which each gets few requests."""
THUMBNAIL_SIDE = 400
"""Longest side in pixels: the cells of a contact sheet are about half as wide, and many screens have two pixels per CSS
pixel, as printers do."""
THUMBNAIL_QUALITY = 75

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small WebP file and its size in pixels."""

    data: bytes
    width: int
    height: int


class Originals:
    """Gets what images are made of; thread-safe.

    Args:
        engine: the database, which has the previews of frames.
        fetcher: reads files and URLs.
        max_pixels: the largest image that is decoded.
        memory: for decoding.
    """

    def __init__(self, engine: Engine, fetcher: Fetcher, *, max_pixels: int, memory: MemoryBudget) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._max_pixels = max_pixels
        self._memory = memory
        self._files = MemoryBudget(FILES_BYTES)

    @contextmanager
    def downloaded(self, row: Row) -> Generator[bytes]:
        """Yield the bytes of the image at the row's URL, not of its rendition; their memory is free afterwards.

        Raises:
            FetchError: it cannot be fetched.
        """
        with Hold(self._files) as hold:
            yield self._fetcher.fetch(SourceItem(image=row["image"], source=row["source"]), hold).data

    def preview(self, row: Row) -> bytes:
        """Return the stored preview of a video's frame, a WebP file.

        Raises:
            FileUnreadableError: there is none.
        """
        statement = sa.select(frame_previews.c.webp).where(frame_previews.c.image_id == row["id"])
        with self._engine.connect() as connection:
            webp = connection.scalar(statement)
            connection.commit()
        if webp is None:
            raise FileUnreadableError("the frame has no preview: ingest its video again")
        return bytes(webp)

    def thumbnail(self, row: Row) -> Thumbnail:
        """Return a thumbnail of a stored image or frame.

        Raises:
            FetchError: the image, or its rendition, cannot be fetched.
            DecodeError: it cannot be decoded, or takes too much memory.
        """
        item = SourceItem(image=row["image"], rendition=row["rendition"], source=row["source"])
        with Hold(self._files) as hold:
            if row["video"] is not None:
                fetched = FetchedImage(item=item, data=self.preview(row))
            else:
                fetched = self._fetcher.fetch(item, hold)
            decoded = decode(fetched, max_pixels=self._max_pixels, needed=THUMBNAIL_SIDE, memory=self._memory)
        pixels = decoded.pixels
        data = make_thumbnail(pixels, THUMBNAIL_SIDE, quality=THUMBNAIL_QUALITY)
        return Thumbnail(data=data, width=pixels.width, height=pixels.height)


def in_order(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Generator[_Result]:
    """Yield the results of `work` in the order of the items, THREADS at a time and as many ahead.

    Close it if it is not read to the end: items that have begun are then completed, and no others.
    """
    with ThreadPoolExecutor(THREADS, thread_name_prefix="export") as threads:
        begun = deque[Future[_Result]]()
        try:
            for item in items:
                begun.append(threads.submit(work, item))
                if len(begun) > 2 * THREADS:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
