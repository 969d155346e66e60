"""The thumbnail cache: bounded, and never half a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from web.files.thumbnails import ThumbnailCache


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_stored_value_is_returned(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path)
    cache.put(key(1), b"one")
    assert cache.get(key(1)) == b"one"
    assert cache.get(key(2)) is None
    assert len(files(tmp_path)) == 1


def test_the_oldest_are_removed_when_there_are_too_many(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, max_bytes=1000, prune_every=1000)
    for number in range(20):
        cache.put(key(number), b"x" * 100)
        [path] = tmp_path.glob(f"*/{key(number).hex()}.webp")
        os.utime(path, (number, number))
    cache.prune()
    assert [number for number in range(20) if cache.get(key(number))] == list(range(11, 20))


def test_writing_prunes_now_and_then(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, max_bytes=1000, prune_every=10)
    for number in range(100):
        cache.put(key(number), b"x" * 100)
    assert len(files(tmp_path)) <= 20


def test_small_cache_is_not_pruned(tmp_path: Path) -> None:
    cache = ThumbnailCache(tmp_path, max_bytes=10_000)
    for number in range(20):
        cache.put(key(number), b"x" * 100)
    cache.prune()
    assert len(files(tmp_path)) == 20
