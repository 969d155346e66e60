"""Caches thumbnails and large previews on disk by the SHA-256 of the image."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from searchdb.errors import UnsafeFolderError
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.media.thumbnails import LONGEST_SIDE

PREVIEW_SIDE = 2048
"""Pixels: fills a screen. One of a photograph takes half a second of processor time and 600 KB, one of noise 2 MB."""
SUFFIXES = {LONGEST_SIDE: ".webp", PREVIEW_SIDE: "-large.webp"}
"""Ends of the file names, by the length of the longest side."""

log = logging.getLogger(__name__)


class ThumbnailCache:
    """A folder of thumbnails and previews, of at most `max_bytes` in all; the oldest make room for new ones.

    They are named `<ab>/<sha256>.webp` and `<ab>/<sha256>-large.webp`. If the folder cannot be written, they are made
    on every request.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = BoundedFolder(folder, max_bytes)

    def get(self, sha256: bytes, side: int = LONGEST_SIDE) -> bytes | None:
        """Return what was made of the image with this checksum for a side in SUFFIXES, None if it is not cached."""
        return self.folder.read(self.folder.path(sha256, SUFFIXES[side]))

    def put(self, sha256: bytes, data: bytes, side: int = LONGEST_SIDE) -> None:
        """Store a thumbnail or preview atomically."""
        try:
            self.folder.write(self.folder.path(sha256, SUFFIXES[side]), data, prune=True)
        except (OSError, UnsafeFolderError) as exc:
            log.warning("cannot cache a thumbnail: %s", exc)

    def forget(self, sha256: bytes) -> None:
        """Delete the thumbnail and the preview of the image with this checksum."""
        for suffix in SUFFIXES.values():
            with suppress(OSError, UnsafeFolderError):
                self.folder.delete(self.folder.path(sha256, suffix))
