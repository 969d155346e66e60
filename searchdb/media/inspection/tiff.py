"""Counts the values in the directories of a TIFF that Pillow reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from searchdb.media.inspection.record import Inspection, refuse_beyond

MAX_ENTRIES = 65_535
"""The most that a classic TIFF can have in a directory; BigTIFF counts with 64 bits."""
MAX_STRIPS = 200_000
"""Strips or tiles of an uncompressed image: one row each is usual, and each takes Pillow 10 microseconds."""
MAX_VALUES = 200_000
"""Numbers in one field of the image: the largest usual one, a palette, has 196,608."""
MAX_FRACTIONS = 20_000
"""Fractions in the same fields, which usually have one; each takes Pillow 4 microseconds."""
MAX_EXIF_VALUES = 50_000
"""Numbers in the EXIF and GPS directories, each of which Pillow converts."""

_PIXEL_S = 10e-9
_SCAN_PIXEL_S = 2e-9
_MAX_SCANS = 100
"""libtiff refuses progressive JPEGs with more scans."""
_NUMBERS = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The types of numbers, and their bytes."""
_FRACTIONS = {5, 10}
_WHOLE = {3: "H", 4: "I", 13: "I", 16: "Q"}
_WIDTH, _HEIGHT, _COMPRESSION, _STRIPS, _TILES, _EXIF, _GPS, _INTEROP = 256, 257, 259, 273, 324, 0x8769, 0x8825, 0xA005
_BYTE_COUNTS = {279, 325}
_FIRST_PRIVATE = 32768
"""Tags from here on belong to other programs, and Pillow does not read their numbers."""
_UNCOMPRESSED, _JPEG = 1, (6, 7)


@dataclass(frozen=True, kw_only=True)
class _Field:
    tag: int
    kind: int
    count: int
    value: int


def inspect_tiff(data: bytes) -> Inspection:
    """Return the size and cost of the first image; further directories cost nothing."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in (data[2], data[3])
    start = struct.Struct(order + ("Q" if big else "I"))
    if len(data) < 16:
        return Inspection()
    (offset,) = start.unpack_from(data, 8 if big else 4)
    fields = list(_fields(data, offset, order, big=big))
    strips = 0
    for field in fields:
        if field.tag in (_STRIPS, _TILES):
            strips = max(strips, field.count)
        elif field.tag in (_EXIF, _GPS, _INTEROP):
            numbers = sum(each.count for each in _fields(data, field.value, order, big=big))
            refuse_beyond(MAX_EXIF_VALUES, numbers, "TIFF", "numbers in its EXIF")
        elif field.tag not in _BYTE_COUNTS and field.tag < _FIRST_PRIVATE:
            limit, things = (MAX_FRACTIONS, "fractions") if field.kind in _FRACTIONS else (MAX_VALUES, "numbers")
            refuse_beyond(limit, field.count, "TIFF", f"{things} in the field {field.tag}")
    values = {field.tag: field.value for field in reversed(fields)}
    width, height, compression = (values.get(tag, 0) for tag in (_WIDTH, _HEIGHT, _COMPRESSION))
    if compression in (0, _UNCOMPRESSED):
        refuse_beyond(MAX_STRIPS, strips, "TIFF", "strips or tiles")
    cost = _PIXEL_S
    if compression in _JPEG and b"\xff\xc2" in data:  # a progressive one
        cost += min(_MAX_SCANS, data.count(b"\xff\xda")) * _SCAN_PIXEL_S
    return Inspection(width=width, height=height, cost_s=width * height * cost)


def _fields(data: bytes, offset: int, order: str, *, big: bool) -> Iterator[_Field]:
    """Yield the fields of numbers in a directory that fit into the file.

    `value` is that of a field with one whole number, else meaningless.
    """
    head, entry = (struct.Struct(order + form) for form in (("Q", "HHQ8s") if big else ("H", "HHI4s")))
    if offset + head.size > len(data):
        return
    (count,) = head.unpack_from(data, offset)
    refuse_beyond(MAX_ENTRIES, count, "TIFF", "fields in a directory")
    position = offset + head.size
    for _ in range(min(count, (len(data) - position) // entry.size)):
        tag, kind, values, raw = entry.unpack_from(data, position)
        position += entry.size
        if kind in _NUMBERS and values * _NUMBERS[kind] <= len(data):
            form = _WHOLE.get(kind, "H")
            fits = struct.calcsize(form) <= len(raw)
            value = struct.unpack_from(order + form, raw)[0] if fits else 0
            yield _Field(tag=tag, kind=kind, count=values, value=value)
