"""Counts the items and coded frames of an AVIF: boxes of ISO/IEC 14496-12 and 23008-12, with units of AV1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from searchdb.media.inspection.record import MAX_EXIF_BYTES, UNBOUNDED, Inspection, refuse_beyond

MAX_BOXES = 4096
"""Boxes beside each other. An ordinary file has three or four."""
MAX_ITEM_BYTES = 100_000
"""Tables of items, with 50 bytes for each: a grid of 1,000 tiles has 50,000. libavif looks each item up among all."""
MAX_MOVIE_BYTES = 256 * 1024
"""Tables of an animation, with 12 bytes for each of its frames; libavif looks each up in the others."""
MAX_UNITS = 16
"""Units of one coded image that are read: ordinary ones have three."""

_PIXEL_S = 50e-9
_ITEM_TABLES = (b"iinf", b"iloc", b"iref", b"grpl")
_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6


class _UnusualError(Exception):
    """The structure is not that of a plain still image, or damaged: nothing is known about its cost."""


@dataclass(frozen=True, kw_only=True)
class _Box:
    kind: bytes
    start: int
    end: int


def inspect_avif(data: bytes) -> Inspection:
    """Return the size and cost of a plain still image; that of others, as of animations, is UNBOUNDED."""
    try:
        return _inspect(data)
    except (_UnusualError, IndexError, KeyError):
        return Inspection(cost_s=UNBOUNDED)


def _inspect(data: bytes) -> Inspection:
    width = height = item_bytes = 0
    tables: dict[bytes, _Box] = {}
    usual = True
    for box in _boxes(data, 0, len(data)):
        if box.kind == b"moov":
            usual = False
            refuse_beyond(MAX_MOVIE_BYTES, box.end - box.start, "AVIF", "bytes of tables of frames")
        if box.kind != b"meta":
            continue
        for table in _boxes(data, box.start + 4, box.end):
            tables[table.kind] = table
            if table.kind in _ITEM_TABLES:
                item_bytes += table.end - table.start
            if table.kind == b"iprp":
                for properties in _boxes(data, table.start, table.end):
                    if properties.kind == b"ipma":
                        item_bytes += properties.end - properties.start
                    elif properties.kind == b"ipco":
                        width, height = max(
                            _sizes(data, properties), default=(0, 0), key=lambda size: size[0] * size[1]
                        )
    refuse_beyond(MAX_ITEM_BYTES, item_bytes, "AVIF", "bytes of tables of items")
    if not usual:
        raise _UnusualError
    pixels = max(_coded_pixels(data, tables), width * height)
    return Inspection(width=width, height=height, cost_s=pixels * _PIXEL_S)


def _boxes(data: bytes, position: int, end: int) -> Iterator[_Box]:
    count = 0
    while position + 8 <= end:
        size, kind, start = _number(data, position, 4), data[position + 4 : position + 8], position + 8
        if size == 1:
            size, start = _number(data, position + 8, 8), position + 16
        count += 1
        refuse_beyond(MAX_BOXES, count, "AVIF", "boxes beside each other")
        stop = end if size == 0 else position + size
        if stop < start or stop > end:
            return
        yield _Box(kind=kind, start=start, end=stop)
        position = stop


def _number(data: bytes, position: int, size: int) -> int:
    if position + size > len(data):
        raise _UnusualError
    return int.from_bytes(data[position : position + size])


def _sizes(data: bytes, properties: _Box) -> Iterator[tuple[int, int]]:
    for box in _boxes(data, properties.start, properties.end):
        if box.kind == b"ispe" and box.end - box.start >= 12:
            yield _number(data, box.start + 4, 4), _number(data, box.start + 8, 4)


def _coded_pixels(data: bytes, tables: dict[bytes, _Box]) -> int:
    """Return the pixels of all coded images together."""
    kinds = dict(_item_kinds(data, tables[b"iinf"]))
    inside = tables.get(b"idat")
    pixels = 0
    for item, start, size, from_tables in _locations(data, tables[b"iloc"]):
        kind = kinds.get(item)
        if kind == b"Exif":
            refuse_beyond(MAX_EXIF_BYTES, size, "AVIF", "bytes of EXIF")
        if kind == b"av01":
            if from_tables:
                if inside is None:
                    raise _UnusualError
                start += inside.start
            pixels += _still_pixels(data, start, start + size)
    return pixels


def _item_kinds(data: bytes, table: _Box) -> Iterator[tuple[int, bytes]]:
    """Yield the number and kind of each item."""
    count_bytes = 2 if data[table.start] == 0 else 4
    for box in _boxes(data, table.start + 4 + count_bytes, table.end):
        id_bytes = {2: 2, 3: 4}.get(data[box.start])
        if box.kind != b"infe" or id_bytes is None:
            raise _UnusualError
        at = box.start + 4 + id_bytes + 2
        yield _number(data, box.start + 4, id_bytes), data[at : at + 4]


def _locations(data: bytes, table: _Box) -> Iterator[tuple[int, int, int, bool]]:
    """Yield the number, start and size of each item, and whether it is in the `idat` box; each in one piece."""
    version = data[table.start]
    offset_bytes, length_bytes = divmod(data[table.start + 4], 16)
    base_bytes, index_bytes = divmod(data[table.start + 5], 16)
    wide = 4 if version == 2 else 2
    count, position = _number(data, table.start + 6, wide), table.start + 6 + wide
    for _ in range(count):
        item, position = _number(data, position, wide), position + wide
        method = 0
        if version > 0:
            method, position = data[position + 1] & 15, position + 2
        base, position = _number(data, position + 2, base_bytes), position + 2 + base_bytes
        if _number(data, position, 2) != 1 or method > 1:
            raise _UnusualError
        position += 2 + (index_bytes if version > 0 else 0)
        offset, position = _number(data, position, offset_bytes), position + offset_bytes
        length, position = _number(data, position, length_bytes), position + length_bytes
        yield item, base + offset, length, method == 1


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
        raise _UnusualError
    return pixels


def _reduced_header_pixels(header: bytes) -> int:
    """Return the size in a sequence header with `reduced_still_picture_header`, after which frames cannot be hidden."""
    bits = int.from_bytes(header.ljust(16, b"\0"))

    def read(start: int, count: int) -> int:
        return bits >> (128 - start - count) & ((1 << count) - 1)

    if not read(4, 1):
        raise _UnusualError
    width_bits, height_bits = read(10, 4) + 1, read(14, 4) + 1
    return (read(18, width_bits) + 1) * (read(18 + width_bits, height_bits) + 1)
