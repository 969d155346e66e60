"""Reads the boxes of AVIF, HEIC and CR3 files: ISO/IEC 14496-12, and the items of 23008-12."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from searchdb.media.inspection.record import refuse_beyond

MAX_BOXES = 4096
"""Boxes beside each other. An ordinary file has three or four."""
MAX_ITEM_BYTES = 100_000
"""Tables of items, with 50 bytes for each: a grid of 1,000 tiles has 50,000. Decoders look each item up among all."""
MAX_MOVIE_BYTES = 256 * 1024
"""Tables of an animation, with 12 bytes for each of its frames; the decoders look each up in the others."""

_ITEM_TABLES = (b"iinf", b"iloc", b"iref", b"grpl")


class UnusualError(Exception):
    """The structure is not that of a plain still image, or damaged: nothing is known about its cost."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box: its four-character code, and where its content is in the file."""

    kind: bytes
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where an item's data is in the file."""

    start: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a file's items, and the list of their properties."""

    boxes: dict[bytes, Box]
    properties: list[Box]
    associations: list[Box]
    is_movie: bool


def boxes(data: bytes, position: int, end: int, name: str) -> Iterator[Box]:
    """Yield the boxes in a range of a file in the format `name`; a box that exceeds the range ends it."""
    count = 0
    while position + 8 <= end:
        size, kind, start = number(data, position, 4), data[position + 4 : position + 8], position + 8
        if size == 1:
            size, start = number(data, position + 8, 8), position + 16
        count += 1
        refuse_beyond(MAX_BOXES, count, name, "boxes beside each other")
        stop = end if size == 0 else position + size
        if stop < start or stop > end:
            return
        yield Box(kind=kind, start=start, end=stop)
        position = stop


def number(data: bytes, position: int, size: int) -> int:
    """Return a big-endian number of `size` bytes.

    Raises:
        UnusualError: the file ends before.
    """
    if position + size > len(data):
        raise UnusualError
    return int.from_bytes(data[position : position + size])


def read_tables(data: bytes, name: str) -> Tables:
    """Return the tables of items in the last `meta` box.

    Raises:
        DecodeTooCostlyError: they, or those of an animation, are longer than an honest file's.
    """
    item_bytes = 0
    tables: dict[bytes, Box] = {}
    properties: list[Box] = []
    associations: list[Box] = []
    is_movie = False
    for box in boxes(data, 0, len(data), name):
        if box.kind == b"moov":
            is_movie = True
            refuse_beyond(MAX_MOVIE_BYTES, box.end - box.start, name, "bytes of tables of frames")
        if box.kind != b"meta":
            continue
        for table in boxes(data, box.start + 4, box.end, name):
            tables[table.kind] = table
            if table.kind in _ITEM_TABLES:
                item_bytes += table.end - table.start
            if table.kind == b"iprp":
                for inner in boxes(data, table.start, table.end, name):
                    if inner.kind == b"ipma":
                        item_bytes += inner.end - inner.start
                        associations.append(inner)
                    elif inner.kind == b"ipco":
                        properties = list(boxes(data, inner.start, inner.end, name))
    refuse_beyond(MAX_ITEM_BYTES, item_bytes, name, "bytes of tables of items")
    return Tables(boxes=tables, properties=properties, associations=associations, is_movie=is_movie)


def size_in(data: bytes, box: Box) -> tuple[int, int] | None:
    """Return the size in pixels in an `ispe` box, None for any other."""
    if box.kind != b"ispe" or box.end - box.start < 12:
        return None
    return number(data, box.start + 4, 4), number(data, box.start + 8, 4)


def largest_size(data: bytes, tables: Tables) -> tuple[int, int]:
    """Return the largest size in pixels of any item."""
    sizes = (size_in(data, each) for each in tables.properties)
    return max(filter(None, sizes), default=(0, 0), key=lambda size: size[0] * size[1])


def item_kinds(data: bytes, table: Box, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield the number and kind of each item in an `iinf` box."""
    count_bytes = 2 if data[table.start] == 0 else 4
    for box in boxes(data, table.start + 4 + count_bytes, table.end, name):
        id_bytes = {2: 2, 3: 4}.get(data[box.start])
        if box.kind != b"infe" or id_bytes is None:
            raise UnusualError
        at = box.start + 4 + id_bytes + 2
        kind = data[at : at + 4]
        try:
            data[at : box.end].decode()
        except UnicodeDecodeError:  # pi-heif 1.4 crashes on such a kind or name of metadata
            raise UnusualError from None
        yield number(data, box.start + 4, id_bytes), kind


def item_locations(data: bytes, tables: Tables) -> Iterator[tuple[int, Location]]:
    """Yield the number and place of each item, which is in one piece, in the file or its `idat` box."""
    table, inside = tables.boxes[b"iloc"], tables.boxes.get(b"idat")
    version = data[table.start]
    offset_bytes, length_bytes = divmod(data[table.start + 4], 16)
    base_bytes, index_bytes = divmod(data[table.start + 5], 16)
    wide = 4 if version == 2 else 2
    count, position = number(data, table.start + 6, wide), table.start + 6 + wide
    for _ in range(count):
        item, position = number(data, position, wide), position + wide
        method = 0
        if version > 0:
            method, position = data[position + 1] & 15, position + 2
        base, position = number(data, position + 2, base_bytes), position + 2 + base_bytes
        if number(data, position, 2) != 1 or method > 1:
            raise UnusualError
        position += 2 + (index_bytes if version > 0 else 0)
        offset, position = number(data, position, offset_bytes), position + offset_bytes
        length, position = number(data, position, length_bytes), position + length_bytes
        start = base + offset
        if method == 1:
            if inside is None:
                raise UnusualError
            start += inside.start
        yield item, Location(start=start, size=length)


def item_references(data: bytes, table: Box, name: str) -> Iterator[tuple[bytes, int, list[int]]]:
    """Yield the kind, source and targets of each reference in an `iref` box."""
    wide = 2 if data[table.start] == 0 else 4
    for box in boxes(data, table.start + 4, table.end, name):
        position = box.start + wide
        count = number(data, position, 2)
        if position + 2 + wide * count > box.end:
            raise UnusualError
        targets = [number(data, position + 2 + wide * each, wide) for each in range(count)]
        yield box.kind, number(data, box.start, wide), targets


def item_properties(data: bytes, tables: Tables) -> dict[int, list[Box]]:
    """Return the properties of each item."""
    found: dict[int, list[Box]] = {}
    for table in tables.associations:
        id_bytes = 2 if data[table.start] == 0 else 4
        index_bytes = 2 if data[table.start + 3] & 1 else 1
        position = table.start + 8
        for _ in range(number(data, table.start + 4, 4)):
            item, position = number(data, position, id_bytes), position + id_bytes
            count, position = number(data, position, 1), position + 1
            for _ in range(count):
                index = number(data, position, index_bytes) & ((1 << (8 * index_bytes - 1)) - 1)
                position += index_bytes
                if 0 < index <= len(tables.properties):
                    found.setdefault(item, []).append(tables.properties[index - 1])
            if position > table.end:
                raise UnusualError
    return found
