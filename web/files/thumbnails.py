"""Thumbnails: made by Pillow as WebP, and kept on disk by the SHA-256 of the picture they show."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from searchdb.media.write import write_atomically

LONGEST_SIDE = 512
"""Pixels; the grid shows cells of about half that height, and screens with twice the pixels are common."""
QUALITY = 80
MAX_CACHE_BYTES = 2 * 1024**3
"""About 80,000 thumbnails; beyond it the oldest go, and are made again when asked for."""
PRUNE_EVERY = 500
"""Thumbnails written between two looks at the whole cache: a look takes tenths of a second."""
PRUNE_TO = 0.9
"""Part of the limit that pruning leaves, so that it does not start over at once."""

log = logging.getLogger(__name__)


def make_thumbnail(pixels: Image.Image) -> bytes:
    """Return an RGB picture as a WebP file whose longer side is at most LONGEST_SIDE. `pixels` is shrunk in place."""
    pixels.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    pixels.save(encoded, "WEBP", quality=QUALITY)
    return encoded.getvalue()


class ThumbnailCache:
    """A folder of thumbnails, `<ab>/<sha256>.webp`, of at most `max_bytes`.

    A folder that cannot be written costs time, never a thumbnail: each is then made anew.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_CACHE_BYTES, prune_every: int = PRUNE_EVERY) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._prune_every = prune_every
        self._written = 0
        self._lock = threading.Lock()

    def get(self, sha256: bytes) -> bytes | None:
        """Return the thumbnail of the picture with this checksum, None when it is not here."""
        try:
            return self._path(sha256).read_bytes()
        except OSError:
            return None

    def put(self, sha256: bytes, data: bytes) -> None:
        """Keep a thumbnail; one that is written halfway is never seen."""
        path = self._path(sha256)
        try:
            write_atomically(path, data)
        except OSError as exc:
            log.warning("cannot keep a thumbnail: %s", exc)
            return
        with self._lock:
            self._written += 1
            due = self._written % self._prune_every == 0
        if due:
            self.prune()

    def forget(self, sha256: bytes) -> None:
        """Delete the thumbnail of the picture with this checksum."""
        with suppress(OSError):
            self._path(sha256).unlink()

    def prune(self) -> None:
        """Delete the oldest thumbnails if all together are larger than allowed."""
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError):  # another process prunes too
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in found)
        if total <= self._max_bytes:
            return
        for _, size, path in sorted(found):
            if total <= self._max_bytes * PRUNE_TO:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _path(self, sha256: bytes) -> Path:
        name = sha256.hex()
        return self._folder / name[:2] / f"{name}.webp"
