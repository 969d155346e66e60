"""Counts the items and coded frames of an AVIF, with units of AV1."""

from __future__ import annotations

from searchdb.media.inspection.boxes import (
    Tables,
    UnusualError,
    item_kinds,
    item_locations,
    largest_size,
    read_tables,
)
from searchdb.media.inspection.record import MAX_EXIF_BYTES, UNBOUNDED, Inspection, refuse_beyond

MAX_UNITS = 16
"""Units of one coded image that are read: ordinary ones have three."""

_PIXEL_S = 50e-9
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6


def inspect_avif(data: bytes) -> Inspection:
    """Return the size and cost of a plain still image; that of others, as of animations, is UNBOUNDED."""
    try:
        return _inspect(data)
    except (UnusualError, IndexError, KeyError):
        return Inspection(cost_s=UNBOUNDED)


def _inspect(data: bytes) -> Inspection:
    tables = read_tables(data, "AVIF")
    if tables.is_movie:
        raise UnusualError
    width, height = largest_size(data, tables)
    pixels = max(_coded_pixels(data, tables), width * height)
    return Inspection(width=width, height=height, cost_s=pixels * _PIXEL_S)


def _coded_pixels(data: bytes, tables: Tables) -> int:
    """Return the pixels of all coded images together."""
    kinds = dict(item_kinds(data, tables.boxes[b"iinf"], "AVIF"))
    pixels = 0
    for item, place in item_locations(data, tables):
        kind = kinds.get(item)
        if kind == b"Exif":
            refuse_beyond(MAX_EXIF_BYTES, place.size, "AVIF", "bytes of EXIF")
        if kind == b"av01":
            pixels += _still_pixels(data, place.start, place.start + place.size)
    return pixels


def _still_pixels(data: bytes, position: int, end: int) -> int:
    """Return the pixels of a coded image of one frame, whose header says that no other can follow."""
    pixels = frames = 0
    for _ in range(MAX_UNITS):
        if position >= end:
            break
        kind, extended, sized = data[position] >> 3 & 15, data[position] >> 2 & 1, data[position] >> 1 & 1
        position += 1 + extended
        size = end - position
        if sized:
            size = shift = 0
            while True:
                byte, position = data[position], position + 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80 or shift > 35:
                    break
        if kind == _SEQUENCE_HEADER:
            pixels = max(pixels, _reduced_header_pixels(data[position : position + 16]))
        frames += kind in (_FRAME_HEADER, _FRAME)
        position += size
    if position < end or frames != 1:
        raise UnusualError
    return pixels


def _reduced_header_pixels(header: bytes) -> int:
    """Return the size in a sequence header with `reduced_still_picture_header`, after which frames cannot be hidden."""
    bits = int.from_bytes(header.ljust(16, b"\0"))

    def read(start: int, count: int) -> int:
        return bits >> (128 - start - count) & ((1 << count) - 1)

    if not read(4, 1):
        raise UnusualError
    width_bits, height_bits = read(10, 4) + 1, read(14, 4) + 1
    return (read(18, width_bits) + 1) * (read(18 + width_bits, height_bits) + 1)
