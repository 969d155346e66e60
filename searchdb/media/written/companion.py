"""Reads the metadata from the files beside an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from searchdb.errors import FileUnreadableError, MetadataError
from searchdb.media.regular_file import open_regular
from searchdb.media.written.takeout import MAX_JSON_BYTES, read_takeout
from searchdb.media.written.xmp import read_xmp
from searchdb.media.written.xmp_packet import MAX_PACKET_BYTES
from searchdb.records import Companion, CompanionKind, WrittenMetadata

_READERS: Mapping[CompanionKind, tuple[Callable[[bytes], WrittenMetadata], int]] = {
    "xmp": (read_xmp, MAX_PACKET_BYTES),
    "takeout": (read_takeout, MAX_JSON_BYTES),
}


def read_companion(companion: Companion) -> WrittenMetadata:
    """Return what a file beside an image says; nothing of a RAW file, whose metadata the image has, too.

    Raises:
        MetadataError: it cannot be read, or is too large, damaged or of another kind. The message names it.
    """
    if companion.kind not in _READERS:
        return WrittenMetadata()
    read, limit = _READERS[companion.kind]
    try:
        with open_regular(companion.path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise MetadataError(f"the file is larger than {limit:,} bytes, which is the limit")
        return read(data)
    except (FileUnreadableError, MetadataError) as exc:
        raise MetadataError(f"{companion.path}: {exc}") from exc
