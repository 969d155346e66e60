"""Counts the chunks of a PNG."""

from __future__ import annotations

import struct

from searchdb.media.inspection.record import MAX_EXIF_BYTES, Inspection, refuse_beyond

MAX_CHUNKS = 65_536
"""Encoders write pixels in chunks of 8 kB or more, so the largest files have a few thousand. Pillow reads each in
Python."""
MAX_COMPRESSED_CHUNKS = 256
"""Profiles and compressed texts: files have a handful. A kilobyte takes a millisecond, as it unpacks to a megabyte."""

_PIXEL_S = 25e-9
_SURPLUS_BYTE_S = 1e-7
"""Seconds per byte of pixel data beyond what uncompressed pixels take: empty blocks of deflate, which have tables."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COMPRESSED = (b"iCCP", b"zTXt", b"iTXt")
_RAW_PROFILE = b"Raw profile type exif"
_CHUNK = struct.Struct(">I4s")
_HEADER = struct.Struct(">IIBB")


def inspect_png(data: bytes) -> Inspection:
    """Return the size and cost; an animation's further frames cost nothing."""
    position, chunks, compressed, pixel_bytes = 8, 0, 0, 0
    width = height = depth = colour = 0
    while position + 8 <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        body = position + 8
        chunks += 1
        refuse_beyond(MAX_CHUNKS, chunks, "PNG", "chunks")
        if kind == b"IDAT":
            pixel_bytes += length
        elif kind == b"IHDR" and body + _HEADER.size <= len(data):
            width, height, depth, colour = _HEADER.unpack_from(data, body)
        elif kind in _COMPRESSED:
            compressed += 1
            refuse_beyond(MAX_COMPRESSED_CHUNKS, compressed, "PNG", "compressed texts and profiles")
        elif kind == b"eXIf":
            refuse_beyond(MAX_EXIF_BYTES, length, "PNG", "bytes of EXIF")
        elif kind == b"tEXt" and data.startswith(_RAW_PROFILE, body):
            refuse_beyond(2 * MAX_EXIF_BYTES, length, "PNG", "hexadecimal digits of EXIF")
        elif kind == b"IEND" or not kind.isalpha():
            break
        position = body + length + 4
    raw = height * (1 + width * _CHANNELS.get(colour, 4) * depth // 8)
    surplus = max(0, min(pixel_bytes, len(data)) - raw)
    return Inspection(width=width, height=height, cost_s=width * height * _PIXEL_S + surplus * _SURPLUS_BYTE_S)
