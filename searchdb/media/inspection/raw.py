"""Finds the preview, the size and the EXIF in RAW files of cameras, as far as their directories name them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from searchdb.errors import DecodeTooCostlyError
from searchdb.media.inspection.boxes import Box, UnusualError, boxes, number
from searchdb.media.inspection.jpeg import frame_of, inspect_jpeg
from searchdb.media.inspection.record import UNBOUNDED, Inspection
from searchdb.media.inspection.tiff import MAX_STRIPS, check_directory
from searchdb.media.inspection.tiff_directories import (
    CHAINED_JPEG_SIZE,
    CHAINED_JPEG_START,
    COMPRESSION,
    DNG_CROP_SIZE,
    DNG_VERSION,
    EXIF,
    LINEAR_RAW,
    PHOTOMETRIC,
    STRIP_SIZES,
    STRIPS,
    SUB_DIRECTORIES,
    TILE_SIZES,
    TILES,
    Directory,
    TiffFile,
)

SMALLEST_PREVIEW = 480
"""Pixels of the shorter side of a preview that is used: twice what the default model needs, and nearly a thumbnail of
the page. A smaller one is used only if it has half the sides of the photograph."""
LONGEST_SIDE = 100_000
"""No sensor has more pixels in a row: a size beyond it is damage."""
MAX_RECORDS = 256
"""Records of a RAF's table, and tracks of a CR3: there are some dozens, and up to five."""

_TIFF_HEADERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
_PANASONIC, _PANASONIC_JPEG, _PANASONIC_EDGES = b"IIU\0", 0x2E, (4, 5, 6, 7)
_RAF, _RAF_JPEG, _RAF_TABLE, _RAF_CROPPED = b"FUJIFILMCCD-RAW ", 84, 92, 0x111
_CR3 = b"ftypcrx "
_CANON_TABLES = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_CANON_PREVIEW = bytes.fromhex("eaf42b5e1c984b88b9fbb7dc406e4d16")
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003
_JPEG_COMPRESSIONS = (6, 7)
_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)
_SENSOR_COLOURS = 3
"""What is assumed of a sensor of unknown kind: most have one, for one colour."""
_UNKNOWN_OFFSET = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A JPEG within a RAW file: its place in bytes, and its size in pixels."""

    start: int
    end: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class RawStructure:
    """What the directories of a RAW file name.

    `width` and `height` are those of the photograph as stored, 0 if unknown. `preview` is the largest JPEG, None if
    none is as large as SMALLEST_PREVIEW asks. `exif` are places of TIFF structures with the EXIF: one for the whole
    file, in a CR3 one each for the image, the shot and the place. `samples` are those of a pixel of the sensor's data.
    `end` is where the last data ends that they name.
    """

    width: int = 0
    height: int = 0
    preview: Preview | None = None
    exif: tuple[Box, ...] = ()
    samples: int = _SENSOR_COLOURS
    end: int = 0


def inspect_raw(data: bytes) -> Inspection:
    """Return the size and cost of the preview that is read.

    Without a preview that is large enough, the cost is UNBOUNDED, and a helper process lets LibRaw look for one.
    """
    raw = find_raw(data)
    for each in raw.exif:
        tiff = TiffFile(data[each.start : each.end] if each.start else data)
        check_directory(tiff, tiff.first, "RAW")
    size = raw.width, raw.height
    if raw.preview is None:
        return Inspection(
            width=raw.width, height=raw.height, cost_s=UNBOUNDED, is_opened_here=False, samples=raw.samples
        )
    found = inspect_jpeg(data[raw.preview.start : raw.preview.end])
    return replace(found, full_size=size if all(size) else None)


def find_raw(data: bytes) -> RawStructure:
    """Return what the directories of a RAW file in any of the known layouts name; of others, nothing."""
    try:
        if data.startswith(_RAF):
            return _fujifilm(data)
        if data[4:12] == _CR3:
            return _canon(data)
        if data[:4] in _TIFF_HEADERS:
            return _tiff(data)
    except (UnusualError, IndexError):
        pass
    return RawStructure()


def is_raw_tiff(data: bytes) -> bool:
    """Whether a file that begins as a TIFF is the RAW of a camera: it is a DNG, or holds data of a sensor.

    The first directory of such a file is often an ordinary image: a thumbnail.
    """
    if data[8:10] == b"CR" or data[8:12] in (b"IIII", b"MMMM"):  # Canon's CR2, Phase One's IIQ
        return True
    tiff = TiffFile(data)
    try:
        first = tiff.first_directory()
        if DNG_VERSION in first.fields or first.is_sensor_data:
            return True
        if SUB_DIRECTORIES not in first.fields and not first.is_reduced:
            return False
        return any(each.is_sensor_data for each in tiff.walk().directories)
    except DecodeTooCostlyError:  # raised again by the inspection
        return False


def _structure(
    data: bytes,
    size: tuple[int, int],
    places: list[tuple[int, int]],
    *,
    exif: tuple[Box, ...] = (),
    samples: int = 1,
    end: int = 0,
) -> RawStructure:
    """Return the structure of a photograph of this size, with the starts and sizes of what may be previews."""
    previews = list(_jpegs(data, places))
    largest = max(previews, key=lambda each: each.width * each.height, default=None)
    width, height = size if max(size) <= LONGEST_SIDE else (0, 0)
    if largest is not None:
        sides = sorted((largest.width, largest.height))
        wanted = sorted((width, height))
        if sides[0] < SMALLEST_PREVIEW and not (wanted[0] and 2 * sides[0] >= wanted[0] and 2 * sides[1] >= wanted[1]):
            largest = None
        elif sides[0] * sides[1] > width * height:
            width, height = largest.width, largest.height
        elif (largest.width > largest.height) != (width > height):  # one of them is stored upright
            width, height = height, width
    return RawStructure(width=width, height=height, preview=largest, exif=exif, samples=samples, end=end)


def _jpegs(data: bytes, places: list[tuple[int, int]]) -> Iterator[Preview]:
    for start, size in places:
        end = start + size
        if size and end <= len(data) and data.startswith(b"\xff\xd8\xff", start):
            kind, width, height = frame_of(data, start + 2, end)
            if width and height and kind not in _LOSSLESS_FRAMES:
                yield Preview(start=start, end=end, width=width, height=height)


# --- TIFF: CR2, NEF, ARW, DNG, PEF, SRW, ORF, RW2 -------------------------------------------------


def _tiff(data: bytes) -> RawStructure:
    tiff = TiffFile(data)
    places: list[tuple[int, int]] = []
    sizes: list[tuple[int, int]] = []
    crop = shot = (0, 0)
    is_linear, end = False, 0
    for directory in tiff.walk().directories:
        places += _places(tiff, directory)
        is_linear |= directory.value(PHOTOMETRIC) == LINEAR_RAW
        end = max(end, _end(tiff, directory))
        if not directory.is_reduced:
            sizes.append(directory.size)
        cropped = tiff.numbers(directory.fields.get(DNG_CROP_SIZE), 2)
        if len(cropped) == 2 and not directory.is_reduced:
            crop = max(crop, (cropped[0], cropped[1]))
        if directory.value(EXIF) and not any(shot):
            shot = _pixel_size(tiff, directory.value(EXIF))
    if data[:4] == _PANASONIC:
        found = {each.tag: each for each in tiff.fields(tiff.first)}
        jpeg = found.get(_PANASONIC_JPEG)
        if jpeg is not None:
            places.append((jpeg.position, jpeg.count))
        top, left, bottom, right = (found[tag].value if tag in found else 0 for tag in _PANASONIC_EDGES)
        sizes.append((max(0, right - left), max(0, bottom - top)))
    largest = max(sizes, key=lambda each: each[0] * each[1], default=(0, 0))
    # The EXIF has the size of the photograph, without the edges of the sensor; of an edited copy, another one.
    if all(crop):
        size = crop
    elif not any(largest) or (2 * min(shot) > min(largest) and shot[0] * shot[1] <= largest[0] * largest[1]):
        size = shot
    else:
        size = largest
    return _structure(
        data,
        size,
        places,
        exif=(Box(kind=b"TIFF", start=0, end=len(data)),),
        samples=_SENSOR_COLOURS if is_linear else 1,
        end=end,
    )


def _places(tiff: TiffFile, directory: Directory) -> Iterator[tuple[int, int]]:
    """Yield the places of data in a directory that may be a JPEG."""
    if CHAINED_JPEG_START in directory.fields:
        yield directory.value(CHAINED_JPEG_START), directory.value(CHAINED_JPEG_SIZE)
    strips = directory.fields.get(STRIPS)
    is_jpeg = directory.value(COMPRESSION) in _JPEG_COMPRESSIONS and not directory.is_sensor_data
    if is_jpeg and strips is not None and strips.count == 1:
        yield strips.value, directory.value(STRIP_SIZES)


def _end(tiff: TiffFile, directory: Directory) -> int:
    """Return where the last strip or tile of a directory ends, as far as it tells."""
    ends = [0]
    for starts, sizes in ((STRIPS, STRIP_SIZES), (TILES, TILE_SIZES)):
        lists = (tiff.numbers(directory.fields.get(tag), MAX_STRIPS) for tag in (starts, sizes))
        ends += [start + size for start, size in zip(*lists, strict=False) if start < _UNKNOWN_OFFSET]
    return max(ends)


def _pixel_size(tiff: TiffFile, offset: int) -> tuple[int, int]:
    values = {each.tag: each.value for each in tiff.fields(offset)}
    return values.get(_PIXEL_WIDTH, 0), values.get(_PIXEL_HEIGHT, 0)


# --- RAF ------------------------------------------------------------------------------------------


def _fujifilm(data: bytes) -> RawStructure:
    start, size = number(data, _RAF_JPEG, 4), number(data, _RAF_JPEG + 4, 4)
    photograph = 0, 0
    position = number(data, _RAF_TABLE, 4)
    count, position = number(data, position, 4), position + 4
    for _ in range(min(count, MAX_RECORDS)):
        tag, length = number(data, position, 2), number(data, position + 2, 2)
        if tag == _RAF_CROPPED and length == 4:
            photograph = number(data, position + 6, 2), number(data, position + 4, 2)
        position += 4 + length
    return _structure(data, photograph, [(start, size)])


# --- CR3 ------------------------------------------------------------------------------------------


def _canon(data: bytes) -> RawStructure:
    places: list[tuple[int, int]] = []
    tables: dict[bytes, Box] = {}
    size = 0, 0
    for box in boxes(data, 0, len(data), "CR3"):
        if box.kind == b"uuid" and data.startswith(_CANON_PREVIEW, box.start):
            for each in boxes(data, box.start + 24, box.end, "CR3"):
                if each.kind == b"PRVW":
                    at = data.find(b"\xff\xd8\xff", each.start, each.start + 64)
                    places.append((max(0, at), each.end - at))
        elif box.kind == b"moov":
            for each in list(boxes(data, box.start, box.end, "CR3"))[:MAX_RECORDS]:
                if each.kind == b"uuid" and data.startswith(_CANON_TABLES, each.start):
                    tables |= {found.kind: found for found in boxes(data, each.start + 16, each.end, "CR3")}
                elif each.kind == b"trak":
                    places += _sample(data, each)
    exif = tuple(tables[kind] for kind in (b"CMT1", b"CMT2", b"CMT4") if kind in tables)
    if b"CMT1" in tables:
        tiff = TiffFile(data[tables[b"CMT1"].start : tables[b"CMT1"].end])
        size = tiff.first_directory().size
    return _structure(data, size, places, exif=exif)


def _sample(data: bytes, track: Box) -> Iterator[tuple[int, int]]:
    """Yield the place of the only sample of a track."""
    inner = track
    for kind in (b"mdia", b"minf", b"stbl"):
        found = [each for each in boxes(data, inner.start, inner.end, "CR3") if each.kind == kind]
        if not found:
            return
        inner = found[0]
    tables = {each.kind: each for each in boxes(data, inner.start, inner.end, "CR3")}
    if b"stsz" in tables and b"co64" in tables:
        size = number(data, tables[b"stsz"].start + 4, 4) or number(data, tables[b"stsz"].start + 12, 4)
        yield number(data, tables[b"co64"].start + 8, 8), size
