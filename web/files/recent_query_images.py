"""Keeps the images that visitors have just searched by, while the collection is about to change its model."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image

from searchdb.records import ModelIdentity

KEPT_S = 60.0
"""Seconds for which an image is kept: the browser asks for the page with its vector at once."""
MOST = 32
"""Images that are kept; each has at most a megabyte, because it is scaled for the model."""


@dataclass(frozen=True, kw_only=True)
class RecentImage:
    """An RGB image, scaled for the model that its vector in the address is from."""

    pixels: Image.Image
    model: ModelIdentity
    at: float = field(default_factory=time.monotonic)


class RecentQueryImages:
    """Images by their vectors' texts, in memory and for KEPT_S: the next model makes another vector of them.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images = OrderedDict[str, RecentImage]()

    def keep(self, vector: str, image: RecentImage) -> None:
        """Keep an image, and forget those that are too old or too many."""
        with self._lock:
            self._images[vector] = image
            self._forget()

    def get(self, vector: str) -> RecentImage | None:
        """Return the image that has this vector; None if it was not kept, or is not any more."""
        with self._lock:
            self._forget()
            return self._images.get(vector)

    def _forget(self) -> None:
        while self._images:
            oldest = next(iter(self._images))
            if len(self._images) <= MOST and time.monotonic() - self._images[oldest].at < KEPT_S:
                return
            del self._images[oldest]
