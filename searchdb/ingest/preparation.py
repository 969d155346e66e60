"""Fetches and decodes images within the limits of one process, and scales them for the models that take them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

from searchdb.embedder import Embedder
from searchdb.media.decode import decode
from searchdb.media.fetch import Fetcher
from searchdb.media.memory import FILES_BYTES, Hold, MemoryBudget
from searchdb.records import DecodedImage, SourceItem
from searchdb.video.recognition import is_video


class Preparation:
    """Prepares images for one process; many threads may do so at the same time.

    Args:
        fetcher: reads files and URLs.
        max_pixels: the largest image decoded, in pixels.
        memory: shared by all that is decoded in this process.
        stopping: ends what takes long when it is set.
    """

    def __init__(self, *, fetcher: Fetcher, max_pixels: int, memory: MemoryBudget, stopping: threading.Event) -> None:
        self._fetcher = fetcher
        self._max_pixels = max_pixels
        self._memory = memory
        self._stopping = stopping
        self._files = MemoryBudget(FILES_BYTES)
        # Many threads may wait for the network, but no more than one a core makes progress with decoding.
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)

    def prepare(self, item: SourceItem, embedders: Sequence[Embedder]) -> DecodedImage:
        """Return an image whose `pixels` are scaled for the first embedder, and `second_pixels` for the second.

        Raises:
            UnwantedContentError: it is a video.
            ImageError: it cannot be fetched or decoded.
            DecodeInterruptedError: `stopping` was set meanwhile.
        """
        with Hold(self._files) as hold:
            fetched = self._fetcher.fetch(item, hold, unwanted=is_video)
            with self._decoding:
                decoded = decode(
                    fetched,
                    max_pixels=self._max_pixels,
                    needed=max(each.shortest_edge for each in embedders),
                    memory=self._memory,
                    cancel=self._stopping,
                )
                scaled = [each.resize(decoded.pixels) for each in embedders]
                return replace(decoded, pixels=scaled[0], second_pixels=scaled[1] if len(scaled) > 1 else None)
