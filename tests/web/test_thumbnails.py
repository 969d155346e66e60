"""The thumbnail cache: bounded, and never half a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from searchdb.media.bounded_folder import BLOCK
from web.files.thumbnails import ThumbnailCache


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_stored_value_is_returned_until_it_is_forgotten(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path / "thumbnails", max_bytes=10 * BLOCK)
    cache.forget(key(1))
    cache.put(key(1), b"one")
    assert cache.get(key(1)) == b"one"
    assert cache.get(key(2)) is None
    assert len(files(tmp_path / "thumbnails")) == 1
    cache.forget(key(1))
    assert cache.get(key(1)) is None


def test_the_cache_never_exceeds_its_bound(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path / "thumbnails", max_bytes=10 * BLOCK)
    for number in range(100):
        cache.put(key(number), b"x" * 100)
        assert cache.get(key(number)) is not None
        assert len(files(tmp_path / "thumbnails")) <= 10
    cache.put(key(1000), b"x" * 11 * BLOCK)
    assert cache.get(key(1000)) is None
