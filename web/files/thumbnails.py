"""Makes WebP thumbnails and caches them on disk by the SHA-256 of the image."""

from __future__ import annotations

import logging
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from searchdb.errors import UnsafeFolderError
from searchdb.media.bounded_folder import BoundedFolder

LONGEST_SIDE = 512
"""Pixels: about twice the height of the grid's cells, because many screens have two pixels per CSS pixel."""
QUALITY = 80
SUFFIX = ".webp"

log = logging.getLogger(__name__)


def make_thumbnail(pixels: Image.Image) -> bytes:
    """Return an RGB image as a WebP file whose longer side is at most LONGEST_SIDE; `pixels` is resized in place."""
    pixels.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    pixels.save(encoded, "WEBP", quality=QUALITY)
    return encoded.getvalue()


class ThumbnailCache:
    """A folder of thumbnails, `<ab>/<sha256>.webp`, of at most `max_bytes`; the oldest make room for new ones.

    If the folder cannot be written, thumbnails are made on every request.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = BoundedFolder(folder, max_bytes)

    def get(self, sha256: bytes) -> bytes | None:
        """Return the thumbnail of the image with this checksum, None if it is not cached."""
        return self.folder.read(self.folder.path(sha256, SUFFIX))

    def put(self, sha256: bytes, data: bytes) -> None:
        """Store a thumbnail atomically."""
        try:
            self.folder.write(self.folder.path(sha256, SUFFIX), data, prune=True)
        except (OSError, UnsafeFolderError) as exc:
            log.warning("cannot cache a thumbnail: %s", exc)

    def forget(self, sha256: bytes) -> None:
        """Delete the thumbnail of the image with this checksum."""
        with suppress(OSError, UnsafeFolderError):
            self.folder.delete(self.folder.path(sha256, SUFFIX))
