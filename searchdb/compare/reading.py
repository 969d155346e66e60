"""Reads the images of a sample again, within the limits of an ingest, and scales them for the models."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

from PIL import Image

from searchdb.compare.records import LeftOut
from searchdb.compare.sample import SampledImage
from searchdb.embedder import Embedder
from searchdb.errors import FileUnreadableError, ImageError
from searchdb.export.originals import Thumbnail, in_order
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.media.local_files import UnwantedContentError
from searchdb.media.memory import FILES_BYTES, Hold, MemoryBudget
from searchdb.media.thumbnails import make_thumbnail
from searchdb.records import FetchedImage, SourceItem, mask_credentials
from searchdb.video.recognition import is_video

THUMBNAIL_SIDE = 256
"""Longest side in pixels: up to ten images are side by side on a page of 1,600 CSS pixels, and many screens have two
pixels per CSS pixel."""
THUMBNAIL_QUALITY = 70


@dataclass(frozen=True, kw_only=True)
class ReadImage:
    """An image of the sample, scaled for each model.

    `unchanged`: its content is what the collection's vector was made of.
    """

    image: SampledImage
    pixels: Sequence[Image.Image]
    thumbnail: Thumbnail | None
    unchanged: bool


class SampleReader:
    """Reads images for several models.

    Frames of videos are read from their stored previews. The collection's vectors come from the larger frames, so they
    do not count as unchanged: all models embed the previews.

    Args:
        embedders: the models.
        fetcher, max_pixels, memory: as for an ingest.
        thumbnails: whether to make thumbnails.
    """

    def __init__(
        self,
        embedders: Sequence[Embedder],
        *,
        fetcher: Fetcher,
        max_pixels: int,
        memory: MemoryBudget,
        thumbnails: bool,
    ) -> None:
        self._embedders = embedders
        self._fetcher = fetcher
        self._max_pixels = max_pixels
        self._memory = memory
        self._thumbnails = thumbnails
        self._needed = max(embedder.shortest_edge for embedder in embedders)
        self._files = MemoryBudget(FILES_BYTES)
        # Many threads may wait for the network, but no more than one a core makes progress with decoding.
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._cancel = threading.Event()

    def read(self, images: Iterable[SampledImage]) -> Generator[ReadImage | LeftOut]:
        """Yield each image as it was read, in the same order; threads read the next ones meanwhile."""
        with closing(in_order(self._read, images)) as read:
            try:
                yield from read
            finally:
                self._cancel.set()

    def _read(self, image: SampledImage) -> ReadImage | LeftOut:
        item = SourceItem(image=image.image, rendition=image.rendition, source=image.source)
        try:
            with Hold(self._files) as hold:
                fetched = self._fetched(image, item, hold)
                with self._decoding:
                    decoded = decode(
                        fetched,
                        max_pixels=self._max_pixels,
                        needed=self._needed,
                        memory=self._memory,
                        cancel=self._cancel,
                    )
                    unchanged = image.video is None and decoded.sha256 == image.sha256
                    pixels = [embedder.resize(decoded.pixels) for embedder in self._embedders]
                    thumbnail = _thumbnail(decoded.pixels) if self._thumbnails else None
        except UnwantedContentError:
            return LeftOut(image=mask_credentials(image.image), error="NotAnImageError", message="it is now a video")
        except ImageError as exc:
            return LeftOut(image=mask_credentials(image.image), error=type(exc).__name__, message=str(exc))
        return ReadImage(image=image, pixels=pixels, thumbnail=thumbnail, unchanged=unchanged)

    def _fetched(self, image: SampledImage, item: SourceItem, hold: Hold) -> FetchedImage:
        if image.video is None:
            return self._fetcher.fetch(item, hold, unwanted=is_video)
        if image.preview is None:
            raise FileUnreadableError("the frame has no preview: ingest its video again")
        return FetchedImage(item=item, data=image.preview)


def _thumbnail(pixels: Image.Image) -> Thumbnail:
    data = make_thumbnail(pixels, THUMBNAIL_SIDE, quality=THUMBNAIL_QUALITY)
    return Thumbnail(data=data, width=pixels.width, height=pixels.height)
