"""Finds out about image files what needs no decoding: their content, size in pixels, and what is written in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from searchdb.errors import ImageError
from searchdb.media.formats import SNIFFED_BYTES, format_of
from searchdb.media.inspection import inspect
from searchdb.media.local_files import read_file
from searchdb.media.written.exif import SIDEWAYS
from searchdb.media.written.reader import read_headers
from searchdb.records import GivenVector, WrittenMetadata

THREADS = 4
"""Files that are read at a time."""
_TURNED_BY_EXIF = frozenset({"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"})
"""Formats whose upright size EXIF alone tells; others say in several places how they are turned."""


def with_file_facts(given: Sequence[GivenVector], *, max_bytes: int, max_pixels: int) -> list[GivenVector]:
    """Return the images with what their files tell, where `reads_file` says that they do.

    Files of more than `max_bytes`, and what is no image, tell nothing more than their size in bytes.
    """
    found = list(given)
    local = [at for at, each in enumerate(given) if each.reads_file]
    if local:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="file-facts") as pool:
            facts = pool.map(
                partial(_with_facts, max_bytes=max_bytes, max_pixels=max_pixels), map(given.__getitem__, local)
            )
            for at, each in zip(local, facts, strict=True):
                found[at] = each
    return found


def _with_facts(given: GivenVector, *, max_bytes: int, max_pixels: int) -> GivenVector:
    try:
        data = read_file(given.item.image, max_bytes)
    except ImageError:
        return given
    known = replace(given, sha256=hashlib.sha256(data).digest(), byte_size=len(data))
    try:
        name = format_of(data[:SNIFFED_BYTES])
        inspection = inspect(name, data)
        exif = read_headers(data, max_pixels=max_pixels)
    except ImageError:
        return known
    width, height = inspection.width, inspection.height
    if exif is None or name not in _TURNED_BY_EXIF or not (width and height):
        return replace(known, written=WrittenMetadata() if exif is None else exif.written)
    if exif.orientation in SIDEWAYS:
        width, height = height, width
    return replace(known, width=width, height=height, written=exif.written)
