"""Fetches the images at URLs that visitors name: few at a time, and each for a short time only."""

from __future__ import annotations

from collections.abc import Callable

from searchdb.config import Settings
from searchdb.media.fetch import Fetcher
from searchdb.media.memory import Hold
from searchdb.records import FetchedImage, SourceItem

from ..slots import Slots

VISITOR_DEADLINE_S = 12.0
"""Time limit for one image, with the lookup of its host and all redirects: the visitor waits, and so does a thread."""
VISITOR_READ_TIMEOUT_S = 8.0
"""Longest wait for data; servers that compute an image rarely take longer."""
VISITOR_CONNECT_TIMEOUT_S = 5.0
"""Time limit for connecting to each of a host's addresses."""


class VisitorFetcher(Fetcher):
    """A Fetcher that tries once, holds a slot meanwhile, and has shorter limits: visitors can try again themselves."""

    def __init__(self, settings: Settings, slots: Slots) -> None:
        super().__init__(
            max_bytes=settings.max_image_bytes,
            allow_private_addresses=settings.allow_private_addresses,
            connect_timeout_s=VISITOR_CONNECT_TIMEOUT_S,
            read_timeout_s=VISITOR_READ_TIMEOUT_S,
            deadline_s=VISITOR_DEADLINE_S,
            attempts=1,
        )
        self._fetches = slots

    def fetch(
        self, item: SourceItem, hold: Hold | None = None, *, unwanted: Callable[[bytes], bool] | None = None
    ) -> FetchedImage:
        """Return the item's bytes, for which `hold` takes memory when they have arrived.

        Not before, as `Fetcher` does: the slots limit what is on its way, and slow servers must not keep memory from
        thumbnails and uploads.

        Raises:
            FetchError: the fetch failed.
            MemoryBusyError: other requests hold too many bytes of files.
            ServiceUnavailable: too many other images are being fetched.
        """
        with self._fetches:
            fetched = super().fetch(item, unwanted=unwanted)
            if hold is not None:
                hold.take(len(fetched.data))
            return fetched
