"""Counts the parts of GIF, WebP and BMP files."""

from __future__ import annotations

import struct

from searchdb.media.inspection.record import MAX_EXIF_BYTES, Inspection, refuse_beyond

MAX_GIF_BLOCKS = 65_536
"""Blocks of comments and extensions before the first frame, of up to 255 bytes: 16 MB. Pillow reads each in Python."""
MAX_WEBP_CHUNKS = 65_536
"""Chunks and frames: half an hour of animation."""
MAX_RUN_LENGTH_PIXELS = 20_000_000
MAX_RUN_LENGTH_BYTES = 20_000_000
"""Pillow decodes run-length encoded BMPs in Python, at 0.25 microseconds per pixel and per two bytes. Programs write
this encoding only for images of 256 colours."""

_GIF_PIXEL_S = 10e-9
_WEBP_PIXEL_S = 25e-9
_BMP_PIXEL_S = 5e-9
_RUN_LENGTH_S = 0.25e-6
_SURPLUS_BYTE_S = 1e-7
"""Seconds per byte of lossless WebP beyond what uncompressed pixels take: tables of codes."""


def inspect_gif(data: bytes) -> Inspection:
    """Return the size and cost of the first frame, which may enlarge the canvas."""
    if len(data) < 13:
        return Inspection()
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, blocks = 13 + _palette_bytes(flags), 0
    while position + 10 <= len(data):
        if data[position] == 0x2C:  # an image
            left, top, wide, high = struct.unpack_from("<4H", data, position + 1)
            width, height = max(width, left + wide), max(height, top + high)
            break
        if data[position] == 0x3B:  # the end
            break
        blocks += 1
        if data[position] == 0x21:  # an extension, of sub-blocks up to an empty one
            position += 2
            while position < len(data) and (size := data[position]):
                position += 1 + size
                blocks += 1
                refuse_beyond(MAX_GIF_BLOCKS, blocks, "GIF", "blocks before its first frame")
        refuse_beyond(MAX_GIF_BLOCKS, blocks, "GIF", "blocks before its first frame")
        position += 1
    return Inspection(width=width, height=height, cost_s=width * height * _GIF_PIXEL_S)


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def inspect_webp(data: bytes) -> Inspection:
    """Return the size of the canvas and the cost of the first frame."""
    width = height = 0
    if data[12:16] == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    position, chunks, lossless = 12, 0, 0
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        chunks += 1
        refuse_beyond(MAX_WEBP_CHUNKS, chunks, "WebP", "chunks")
        if kind == b"EXIF":
            refuse_beyond(MAX_EXIF_BYTES, size, "WebP", "bytes of EXIF")
        elif kind == b"VP8L" or (chunks <= 8 and kind == b"ANMF"):
            lossless = max(lossless, size)
        position += 8 + size + size % 2
    surplus = max(0, min(lossless, len(data)) - width * height * 4)
    return Inspection(width=width, height=height, cost_s=width * height * _WEBP_PIXEL_S + surplus * _SURPLUS_BYTE_S)


def inspect_bmp(data: bytes) -> Inspection:
    """Return the size and cost."""
    if len(data) < 34:
        return Inspection()
    if int.from_bytes(data[14:18], "little") == 12:  # OS/2
        width, height, compression = *struct.unpack_from("<HH", data, 18), 0
    else:
        width, height, compression = *(abs(side) for side in struct.unpack_from("<ii", data, 18)), data[30]
    pixels = width * height
    if compression not in (1, 2):
        return Inspection(width=width, height=height, cost_s=pixels * _BMP_PIXEL_S)
    refuse_beyond(MAX_RUN_LENGTH_PIXELS, pixels, "BMP", "run-length encoded pixels")
    refuse_beyond(MAX_RUN_LENGTH_BYTES, len(data), "BMP", "run-length encoded bytes")
    return Inspection(width=width, height=height, cost_s=(pixels + len(data) / 2) * _RUN_LENGTH_S)
