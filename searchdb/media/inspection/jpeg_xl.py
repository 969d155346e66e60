"""Reads the size of a JPEG XL from its header: ISO/IEC 18181-1, D.2."""

from __future__ import annotations

from searchdb.media.inspection.boxes import UnusualError, boxes
from searchdb.media.inspection.record import MAX_EXIF_BYTES, UNBOUNDED, Inspection, refuse_beyond

_CODESTREAM = b"\xff\x0a"
_PARTIAL_HEADER_BYTES = 4
"""In front of each part of a codestream that is in several: its number."""
_HEADER_BYTES = 16
_SIDE_BITS = (9, 13, 18, 30)
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def inspect_jpeg_xl(data: bytes) -> Inspection:
    """Return the size; the cost is UNBOUNDED, because nothing in the header bounds it.

    The reader decodes on opening, so a helper process has to open it.
    """
    width, height = _size(data)
    return Inspection(width=width, height=height, cost_s=UNBOUNDED, is_opened_here=False)


def _size(data: bytes) -> tuple[int, int]:
    if data.startswith(_CODESTREAM):
        return _codestream_size(data[:_HEADER_BYTES])
    try:
        found = None
        for box in boxes(data, 0, len(data), "JPEG XL"):
            if box.kind == b"Exif":
                refuse_beyond(MAX_EXIF_BYTES, box.end - box.start, "JPEG XL", "bytes of EXIF")
            elif box.kind in (b"jxlc", b"jxlp") and found is None:
                found = box.start + (_PARTIAL_HEADER_BYTES if box.kind == b"jxlp" else 0)
    except UnusualError:
        return 0, 0
    return (0, 0) if found is None else _codestream_size(data[found : found + _HEADER_BYTES])


def _codestream_size(header: bytes) -> tuple[int, int]:
    if not header.startswith(_CODESTREAM):
        return 0, 0
    bits = int.from_bytes(header[2:].ljust(_HEADER_BYTES, b"\0"), "little")

    def read(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = read(1)

    def side() -> int:
        return 8 * (read(5) + 1) if small else 1 + read(_SIDE_BITS[read(2)])

    height = side()
    ratio = read(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio]
    return height * across // down, height
