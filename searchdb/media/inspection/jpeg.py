"""Counts the segments and scans of a JPEG."""

from __future__ import annotations

import re

from searchdb.errors import DecodeTooCostlyError
from searchdb.media.inspection.record import MAX_EXIF_BYTES, Inspection, refuse_beyond

ORDINARY_SCANS = 30
"""Always allowed. Encoders write 1 scan in a baseline and about 10 in a progressive JPEG, 18 with four colours."""
MAX_SCANS = 200
"""Never more, however small the image."""
SCANNED_PIXELS = 3_000_000_000
"""Pixels of all scans together that are allowed beyond ORDINARY_SCANS: an empty scan of a megapixel takes 1.3 ms."""
MAX_SEGMENTS = 2048
"""Segments before the first scan. The largest colour profile has 255, a phone's depth map in XMP some dozens."""
MAX_SEGMENTS_BETWEEN = 4096
"""Segments after it: each scan has one, and its tables."""
MAX_TABLE_BYTES = 64 * 1024
"""Quantization tables and frame headers: an honest file has under 1 kB, and Pillow reads them in Python."""
MAX_RESOURCES = 50_000
"""Photoshop's resource blocks, of which a file has some dozens; Pillow reads each in Python."""
MAX_STRAY_BYTES = 64 * 1024
"""Bytes outside segments in the header, which Pillow skips one by one in Python."""

_SCAN_PIXEL_S = 2e-9
"""Seconds per pixel and scan, with what an honest scan of high quality contains."""
_ARITHMETIC = 10
"""How much longer arithmetic decoding takes than Huffman decoding, at most."""

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_MARKER_IN_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE, _QUANTIZATION, _PHOTOSHOP, _EXIF = 0xDA, 0xD9, 0xDB, 0xED, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
WITHOUT_LENGTH = {0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)}


def inspect_jpeg(data: bytes) -> Inspection:
    """Return the size and cost of the first image; what follows its end, as in an MPO, costs nothing."""
    position, width, height, weight = 2, 0, 0, 1
    components, progressive = b"", True
    segments = stray = tables = resources = exif = 0
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            return Inspection(width=width, height=height)
        stray += found.end() - 2 - position
        position, marker = found.end(), found[1][0]
        segments += 1
        refuse_beyond(MAX_STRAY_BYTES, stray, "JPEG", "bytes between the segments of its header")
        refuse_beyond(MAX_SEGMENTS, segments, "JPEG", "segments in its header")
        if marker in WITHOUT_LENGTH:
            continue
        end = _end_of_segment(data, position)
        if marker == _START_OF_SCAN:
            break
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[position + at : position + at + 2]) for at in (3, 5))
            components = data[position + 7 : position + 8]
            progressive = marker in _PROGRESSIVE
            weight = _ARITHMETIC if marker > 0xC8 else 1
        if marker in _FRAMES or marker == _QUANTIZATION:
            tables += end - position
        elif marker == _PHOTOSHOP:
            resources += data.count(b"8BIM", position, end)
        elif marker == _EXIF and data.startswith(b"Exif\0\0", position + 2):
            exif += end - position
        refuse_beyond(MAX_TABLE_BYTES, tables, "JPEG", "bytes of tables in its header")
        refuse_beyond(MAX_RESOURCES, resources, "JPEG", "Photoshop resources")
        refuse_beyond(MAX_EXIF_BYTES, exif, "JPEG", "bytes of EXIF")
        position = end
    allowed = min(MAX_SCANS, max(ORDINARY_SCANS, SCANNED_PIXELS // max(1, width * height * weight)))
    if not progressive and data[position + 2 : position + 3] == components:
        # All colours in one scan: libjpeg reads no other. This is the usual JPEG, and counting takes 1 ms a megabyte.
        return Inspection(width=width, height=height, cost_s=width * height * weight * _SCAN_PIXEL_S)
    # The number of scans or more: this also finds those of thumbnails, further images, and an attached video.
    scans = 1 + data.count(b"\xff\xda", end)
    if scans > ORDINARY_SCANS:
        scans = _count_scans(data, end, allowed + 1)
    if scans > allowed:
        raise DecodeTooCostlyError(
            f"the JPEG has more than {allowed:,} scans, which is the limit for {width:,} x {height:,} pixels"
        )
    return Inspection(width=width, height=height, cost_s=width * height * scans * weight * _SCAN_PIXEL_S)


def frame_of(data: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Return the marker of the frame of the JPEG whose segments begin here, and its width and height; 0 for none."""
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, position, min(end, position + MAX_STRAY_BYTES))
        if found is None or found[1][0] in (_START_OF_SCAN, _END_OF_IMAGE):
            break
        position, marker = found.end(), found[1][0]
        if marker in _FRAMES:
            height, width = (int.from_bytes(data[position + at : position + at + 2]) for at in (3, 5))
            return marker, width, height
        if marker not in WITHOUT_LENGTH:
            position = _end_of_segment(data, position)
    return 0, 0, 0


def _count_scans(data: bytes, position: int, enough: int) -> int:
    """Count the scans of the image whose first scan's data begins here, up to `enough`."""
    scans, segments = 1, 0
    while scans < enough and (found := _MARKER_IN_SCAN.search(data, position)) is not None:
        position, marker = found.end(), found[1][0]
        segments += 1
        refuse_beyond(MAX_SEGMENTS_BETWEEN, segments, "JPEG", "segments between its scans")
        if marker == _END_OF_IMAGE:
            break
        if marker not in WITHOUT_LENGTH:
            scans += marker == _START_OF_SCAN
            position = _end_of_segment(data, position)
    return scans


def _end_of_segment(data: bytes, position: int) -> int:
    """Return the end of a segment whose length is at this position and counts its own two bytes."""
    return position + max(2, int.from_bytes(data[position : position + 2]))
