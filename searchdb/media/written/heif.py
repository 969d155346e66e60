"""Finds EXIF and XMP among the items of a HEIC, without libheif."""

from __future__ import annotations

import re

from searchdb.media.inspection.boxes import (
    UnusualError,
    item_kinds,
    item_locations,
    item_references,
    number,
    read_tables,
)
from searchdb.media.inspection.record import MAX_EXIF_BYTES
from searchdb.media.written.xmp_packet import MAX_PACKET_BYTES

_EXIF, _MIME, _DESCRIBES = b"Exif", b"mime", b"cdsc"
_OFFSET_BYTES = 4
"""In front of EXIF: how many bytes after these its TIFF header is."""
_COMPRESSED = re.compile(rb"\0(deflate|compress_zlib|gzip|br)\0")
"""Encodings of an item, named behind its kind."""
_NAMES = {_EXIF: "exif", _MIME: "xmp"}
_MAX_BYTES = {_EXIF: MAX_EXIF_BYTES, _MIME: MAX_PACKET_BYTES}


def read_heif_blocks(data: bytes) -> dict[str, bytes] | None:
    """Return the EXIF and XMP that describe the primary image, by the names that Pillow gives them.

    None if the structure is unusual, so that libheif might find something else.
    """
    try:
        return _blocks(data)
    except (UnusualError, IndexError, KeyError):
        return None


def _blocks(data: bytes) -> dict[str, bytes]:
    tables = read_tables(data, "HEIC")
    if tables.is_movie:
        raise UnusualError
    primary = tables.boxes[b"pitm"]
    image = number(data, primary.start + 4, 2 if data[primary.start] == 0 else 4)
    if b"iref" not in tables.boxes:
        return {}
    references = item_references(data, tables.boxes[b"iref"], "HEIC")
    describing = {item for kind, item, targets in references if kind == _DESCRIBES and image in targets}
    items = tables.boxes[b"iinf"]
    if _COMPRESSED.search(data, items.start, items.end):
        raise UnusualError
    found: dict[str, bytes] = {}
    places = dict(item_locations(data, tables)) if describing else {}
    for item, kind in sorted(item_kinds(data, items, "HEIC")):
        if item not in describing or kind not in _NAMES:
            continue
        start, size = places[item].start, places[item].size
        if size > _MAX_BYTES[kind] or start + size > len(data):
            raise UnusualError
        content = data[start : start + size]
        found.setdefault(_NAMES[kind], _after_offset(content) if kind == _EXIF else _in_utf_8(content))
    return {name: content for name, content in found.items() if content}


def _in_utf_8(packet: bytes) -> bytes:
    """Return a packet as pi-heif does: one that is not in UTF-8 counts as Latin-1."""
    try:
        packet.decode()
    except UnicodeDecodeError:
        return packet.decode("latin-1").encode()
    return packet


def _after_offset(content: bytes) -> bytes:
    start = _OFFSET_BYTES + int.from_bytes(content[:_OFFSET_BYTES])
    return content[start if start + _OFFSET_BYTES < len(content) else _OFFSET_BYTES :]
