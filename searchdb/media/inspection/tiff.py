"""Counts the values in the directories of a TIFF that Pillow reads."""

from __future__ import annotations

from searchdb.media.inspection.record import Inspection, refuse_beyond
from searchdb.media.inspection.tiff_directories import COMPRESSION, EXIF, Directory, TiffFile

MAX_STRIPS = 200_000
"""Strips or tiles of an uncompressed image: one row each is usual, and each takes Pillow 10 microseconds."""
MAX_VALUES = 200_000
"""Numbers in one field of the image: the largest usual one, a palette, has 196,608."""
MAX_FRACTIONS = 20_000
"""Fractions in the same fields, which usually have one; each takes Pillow 4 microseconds."""
MAX_EXIF_VALUES = 50_000
"""Numbers in the EXIF and GPS directories, each of which Pillow converts."""
SPARE_FIELD_BYTES = 64 * 1024
"""Bytes of fields that are allowed beyond twice the size of the file: of small ones, damage costs nothing."""

_PIXEL_S = 10e-9
_SCAN_PIXEL_S = 2e-9
_MAX_SCANS = 100
"""libtiff refuses progressive JPEGs with more scans."""
_FRACTIONS = {5, 10}
_STRIPS, _TILES, _GPS, _INTEROP = 273, 324, 0x8825, 0xA005
_BYTE_COUNTS = {279, 325}
_FIRST_PRIVATE = 32768
"""Tags from here on belong to other programs, and Pillow does not read their numbers."""
_UNCOMPRESSED, _JPEG = 1, (6, 7)


def inspect_tiff(data: bytes) -> Inspection:
    """Return the size and cost of the image that is read; further directories cost nothing."""
    tiff = TiffFile(data)
    check_directory(tiff, tiff.first, "TIFF")
    candidates = image_directories(tiff)
    for each in candidates:
        if each.offset != tiff.first:
            check_directory(tiff, each.offset, "TIFF")
    if not candidates:
        return Inspection()
    largest = candidates[0]
    cost = _PIXEL_S
    if any(each.value(COMPRESSION) in _JPEG for each in candidates) and b"\xff\xc2" in data:  # a progressive one
        cost += min(_MAX_SCANS, data.count(b"\xff\xda")) * _SCAN_PIXEL_S
    width, height = largest.size
    return Inspection(width=width, height=height, cost_s=width * height * cost)


def image_directories(tiff: TiffFile) -> list[Directory]:
    """Return the directories whose image may be read: the first one unless it is a reduced version of another.

    Then they are those of full resolution, the largest first; none if the file has only reduced ones. A reduced one
    that is the only one counts as the image.
    """
    first = tiff.first_directory()
    if not first.is_reduced:
        return [first]
    walk = tiff.walk()
    if walk.is_complete and len(walk.directories) == 1:
        return [first]
    full = [each for each in walk.directories if not each.is_reduced and each.pixels]
    return sorted(full, key=lambda each: each.pixels, reverse=True)


def check_directory(tiff: TiffFile, offset: int, kind: str) -> None:
    """Refuse a directory, and the EXIF that it names, if Pillow would read too much of it.

    Raises:
        DecodeTooCostlyError: it has more fields or values than an honest one.
    """
    strips, compression, field_bytes = 0, 0, 0
    for field in tiff.fields(offset):
        field_bytes += field.size
        if field.tag in (_STRIPS, _TILES):
            strips = max(strips, field.count)
        elif field.tag == COMPRESSION:
            compression = compression or field.value
        elif field.tag in (EXIF, _GPS, _INTEROP):
            numbers = 0
            for each in tiff.fields(field.value):
                numbers += each.count if each.is_number else 0
                field_bytes += each.size
            refuse_beyond(MAX_EXIF_VALUES, numbers, kind, "numbers in its EXIF")
        elif field.is_number and field.tag not in _BYTE_COUNTS and field.tag < _FIRST_PRIVATE:
            limit, things = (MAX_FRACTIONS, "fractions") if field.kind in _FRACTIONS else (MAX_VALUES, "numbers")
            refuse_beyond(limit, field.count, kind, f"{things} in the field {field.tag}")
    if compression in (0, _UNCOMPRESSED):
        refuse_beyond(MAX_STRIPS, strips, kind, "strips or tiles")
    # Before version 13, Pillow copies the bytes of all fields. Those of an honest file do not overlap.
    refuse_beyond(SPARE_FIELD_BYTES + 2 * len(tiff.data), field_bytes, kind, "bytes in the fields of a directory")
