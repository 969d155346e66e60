"""Writes the files of phones and cameras: HEIC, JPEG XL, DNG and other RAW, and TIFFs of several directories."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, SRATIONAL = 1, 2, 3, 4, 5, 10
_FORMS = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", RATIONAL: "II", SRATIONAL: "ii"}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, SAMPLES = 256, 257, 258, 259, 262, 273, 277
ROWS, STRIP_SIZES, SUB_DIRECTORIES, EXIF, GPS, ORIENTATION, SUBFILE = 278, 279, 330, 0x8769, 0x8825, 0x112, 254
REDUCED = {SUBFILE: (LONG, [1])}
FULL = {SUBFILE: (LONG, [0])}
_FAST = {"preset": "ultrafast"}
"""Of x265, whose usual effort takes most of the time of the tests of HEIC."""

Values = dict[int, tuple[int, Any]]


def heic(image: Image.Image, *, frames: Sequence[Image.Image] = (), primary: int = 0, **options: Any) -> bytes:
    """Return images as a HEIC; `options` are those of pillow-heif."""
    file = pillow_heif.from_pillow(image)
    for each in frames:
        file.add_from_pillow(each)
    written = BytesIO()
    file.save(written, **({"quality": 90, "primary_index": primary, "enc_params": _FAST} | options))
    return written.getvalue()


def deep_heic(pixels: np.ndarray, *, twelve: bool = False) -> bytes:
    """Return an array of shape (height, width, 3) and 16 bits as a HEIC of 10 or 12 bits."""
    size = pixels.shape[1], pixels.shape[0]
    usual, pillow_heif.options.SAVE_HDR_TO_12_BIT = pillow_heif.options.SAVE_HDR_TO_12_BIT, twelve
    try:
        file = pillow_heif.from_bytes("RGB;16", size, pixels.astype(np.uint16).tobytes())
        written = BytesIO()
        file.save(written, quality=90, enc_params=_FAST)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = usual
    return written.getvalue()


def box(kind: bytes, body: bytes) -> bytes:
    """Return a box of the ISO base media file format."""
    return struct.pack(">I", 8 + len(body)) + kind + body


def grid_heic(tile: Image.Image, columns: int, rows: int, *, names: int | None = None) -> bytes:
    """Return a HEIC as phones write it: a grid of equal tiles. `names`: how many the grid names, by default all.

    Tiles have sides of 64 pixels or more.
    """
    whole = heic(tile)
    configuration = _box_in(whole, b"hvcC")
    coded = whole[whole.index(b"mdat") + 4 :]
    count = columns * rows
    width, height = tile.width * columns, tile.height * rows
    infe = [box(b"infe", struct.pack(">IHH4sB", 2 << 24, number, 0, b"hvc1", 0)) for number in range(2, 2 + count)]
    infe.insert(0, box(b"infe", struct.pack(">IHH4sB", 2 << 24, 1, 0, b"grid", 0)))
    tables = [
        box(b"hdlr", bytes(8) + b"pict" + bytes(13)),
        box(b"pitm", struct.pack(">IH", 0, 1)),
        box(b"iinf", struct.pack(">IH", 0, len(infe)) + b"".join(infe)),
    ]
    ispe = [box(b"ispe", struct.pack(">III", 0, *size)) for size in ((width, height), tile.size)]
    ipco = box(b"ipco", b"".join(ispe) + configuration)
    links = struct.pack(">HBB", 1, 1, 1) + b"".join(
        struct.pack(">HBBB", number, 2, 2, 0x80 | 3) for number in range(2, 2 + count)
    )
    tables.append(box(b"iprp", ipco + box(b"ipma", struct.pack(">II", 0, 1 + count) + links)))
    named = [2 + number % count for number in range(count if names is None else names)]
    references = struct.pack(f">HH{len(named)}H", 1, len(named), *named)
    tables.append(box(b"iref", bytes(4) + box(b"dimg", references)))
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    tables.append(box(b"idat", layout))
    ftyp = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    iloc_size = 8 + 4 + 4 + 16 + 16 * count
    meta_size = 12 + sum(map(len, tables)) + iloc_size
    start = len(ftyp) + meta_size + 8
    entry = struct.Struct(">HHHHII")
    places = entry.pack(1, 1, 0, 1, 0, len(layout))
    places += b"".join(entry.pack(number, 0, 0, 1, start, len(coded)) for number in range(2, 2 + count))
    iloc = box(b"iloc", struct.pack(">IBBH", 1 << 24, 0x44, 0, 1 + count) + places)
    return ftyp + box(b"meta", bytes(4) + b"".join(tables) + iloc) + box(b"mdat", coded)


def _box_in(data: bytes, kind: bytes) -> bytes:
    start = data.index(kind) - 4
    return data[start : start + int.from_bytes(data[start : start + 4])]


def jpeg_xl(image: Image.Image, **options: Any) -> bytes:
    """Return an image as JPEG XL."""
    import pillow_jxl  # noqa: F401 - registers the format with Pillow

    written = BytesIO()
    image.save(written, "JXL", **({"effort": 1} | options))
    return written.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    """Return an image as JPEG."""
    written = BytesIO()
    image.save(written, "JPEG", **({"quality": 95} | options))
    return written.getvalue()


def encoded_as(image: Image.Image, name: str) -> bytes:
    """Return an image encoded in one of searchdb's formats; as RAW, the photograph and its preview are of its size."""
    if name == "HEIC":
        return heic(image)
    if name == "JPEG XL":
        return jpeg_xl(image)
    if name == "RAW":
        return dng(image, preview=image)
    written = BytesIO()
    image.save(written, name)
    return written.getvalue()


# --- TIFF -----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Directory:
    """A directory to write: its fields by tag, the data of its only strip, and what is nested in it.

    Values are lists of numbers, of pairs for fractions, or bytes.
    """

    fields: Values = field(default_factory=dict[int, tuple[int, Any]])
    strip: bytes | None = None
    nested: Sequence[Directory] = ()
    exif: Values | None = None
    gps: Values | None = None


def pixels_directory(image: Image.Image, fields: Values | None = None, **others: Any) -> Directory:
    """Return a directory with an uncompressed image, grey or RGB."""
    samples = len(image.getbands())
    usual: Values = {
        WIDTH: (LONG, [image.width]),
        HEIGHT: (LONG, [image.height]),
        BITS: (SHORT, [8] * samples),
        COMPRESSION: (SHORT, [1]),
        PHOTOMETRIC: (SHORT, [2 if samples == 3 else 1]),
        SAMPLES: (SHORT, [samples]),
        ROWS: (LONG, [image.height]),
    }
    return Directory(fields=usual | (fields or {}), strip=image.tobytes(), **others)


def jpeg_directory(image: Image.Image, fields: Values | None = None, **others: Any) -> Directory:
    """Return a directory with a JPEG in its only strip, as a DNG's preview is stored."""
    found = pixels_directory(image, {COMPRESSION: (SHORT, [7]), PHOTOMETRIC: (SHORT, [6])} | (fields or {}), **others)
    found.strip = jpeg(image)
    return found


def tiff_of(*directories: Directory, mark: bytes = b"") -> bytes:
    """Return a little-endian TIFF with these directories in a row.

    As in the files of cameras, the directories are at the beginning, behind `mark`, and pixels at the end.
    """
    nodes = [_node(each) for each in directories]
    place = 8 + len(mark)
    ordered = [inner for node in nodes for inner in node.all()]
    for node in ordered:
        node.start, place = place, place + node.size()
    for node in ordered:
        if node.directory.strip is not None:
            node.strip_start, place = place, place + len(node.directory.strip)
    data = bytearray(b"II*\0" + struct.pack("<I", nodes[0].start) + mark)
    for node in ordered:
        following = nodes[nodes.index(node) + 1].start if node in nodes[:-1] else 0
        data += node.written(following)
    for node in ordered:
        data += node.directory.strip or b""
    return bytes(data)


@dataclass(kw_only=True, eq=False)
class _Node:
    directory: Directory
    nested: list[_Node]
    below: dict[int, _Node]
    start: int = 0
    strip_start: int = 0

    def all(self) -> list[_Node]:
        inner = [*self.below.values(), *self.nested]
        return [self, *(each for node in inner for each in node.all())]

    def fields(self) -> Values:
        fields = dict(self.directory.fields)
        if self.directory.strip is not None:
            fields[STRIPS] = LONG, [self.strip_start]
            fields.setdefault(STRIP_SIZES, (LONG, [len(self.directory.strip)]))
        if self.nested:
            fields[SUB_DIRECTORIES] = LONG, [each.start for each in self.nested]
        return fields | {tag: (LONG, [each.start]) for tag, each in self.below.items()}

    def size(self) -> int:
        return len(self.written(0))

    def written(self, following: int) -> bytes:
        fields = self.fields()
        place = self.start + 2 + 12 * len(fields) + 4
        entries = values = b""
        for tag, (kind, numbers) in sorted(fields.items()):
            packed, count = _packed(kind, numbers)
            held = packed.ljust(4, b"\0")
            if len(packed) > 4:
                held = struct.pack("<I", place + len(values))
                values += packed + bytes(len(packed) % 2)
            entries += struct.pack("<HHI4s", tag, kind, count, held)
        return struct.pack("<H", len(fields)) + entries + struct.pack("<I", following) + values


def _node(directory: Directory) -> _Node:
    below = {EXIF: directory.exif, GPS: directory.gps}
    return _Node(
        directory=directory,
        nested=[_node(each) for each in directory.nested],
        below={tag: _node(Directory(fields=values)) for tag, values in below.items() if values is not None},
    )


def _packed(kind: int, values: Any) -> tuple[bytes, int]:
    if isinstance(values, str):
        values = values.encode() + b"\0"
    if isinstance(values, bytes):
        return values, len(values)
    flat = [number for each in values for number in (each if isinstance(each, tuple) else (each,))]
    return struct.pack(f"<{len(flat)}{_FORMS[kind][0]}", *flat), len(values)


# --- RAW ------------------------------------------------------------------------------------------

CAMERA: Values = {0x10F: (ASCII, "Maker"), 0x110: (ASCII, "Model 7")}
SHOT: Values = {0x9003: (ASCII, "2024:05:31 18:30:00"), 0x9011: (ASCII, "+02:00")}
PLACE: Values = {
    1: (ASCII, "N"),
    2: (RATIONAL, [(48, 1), (51, 1), (30, 1)]),
    3: (ASCII, "W"),
    4: (RATIONAL, [(2, 1), (21, 1), (0, 1)]),
}
_DNG: Values = {
    50706: (BYTE, [1, 4, 0, 0]),
    50708: (ASCII, "Maker Model 7"),
    50721: (SRATIONAL, [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]),
    50728: (RATIONAL, [(1, 1), (1, 1), (1, 1)]),
    50778: (SHORT, [21]),
}


def sensor_directory(image: Image.Image, fields: Values | None = None) -> Directory:
    """Return a directory with what a sensor behind a Bayer filter (RGGB) sees of an RGB image, in 16 bits."""
    rgb = np.asarray(image).astype(np.uint16) * 257
    mosaic = rgb[:, :, 1].copy()
    mosaic[0::2, 0::2] = rgb[0::2, 0::2, 0]
    mosaic[1::2, 1::2] = rgb[1::2, 1::2, 2]
    usual: Values = {
        WIDTH: (LONG, [image.width]),
        HEIGHT: (LONG, [image.height]),
        BITS: (SHORT, [16]),
        COMPRESSION: (SHORT, [1]),
        PHOTOMETRIC: (SHORT, [32803]),
        SAMPLES: (SHORT, [1]),
        ROWS: (LONG, [image.height]),
        33421: (SHORT, [2, 2]),
        33422: (BYTE, [0, 1, 1, 2]),
        50714: (LONG, [0]),
        50717: (LONG, [65535]),
    }
    return Directory(fields=FULL | usual | (fields or {}), strip=mosaic.astype("<u2").tobytes())


def dng(
    image: Image.Image, *, preview: Image.Image | None, orientation: int = 1, thumbnail: tuple[int, int] = (160, 120)
) -> bytes:
    """Return a DNG whose first directory is a thumbnail, and where the sensor's data and a JPEG preview are nested."""
    nested = [sensor_directory(image)]
    if preview is not None:
        nested.append(jpeg_directory(preview, REDUCED))
    fields = REDUCED | CAMERA | _DNG | {ORIENTATION: (SHORT, [orientation])}
    first = pixels_directory(image.resize(thumbnail), fields, nested=nested, exif=SHOT, gps=PLACE)
    return tiff_of(first)


def cr2(preview: Image.Image) -> bytes:
    """Return the beginning of a CR2: its first directory is a JPEG, and sensor data is missing."""
    first = jpeg_directory(preview, CAMERA | {COMPRESSION: (SHORT, [6]), ORIENTATION: (SHORT, [6])})
    first.exif = SHOT
    return tiff_of(first, mark=b"CR\2\0" + bytes(4))


def raf(preview: Image.Image, size: tuple[int, int]) -> bytes:
    """Return a RAF of Fujifilm with a JPEG, and the size of the photograph in its table."""
    data = jpeg(preview, exif=_exif_of_jpeg())
    table = struct.pack(">IHHHH", 1, 0x111, 4, size[1], size[0])
    head = b"FUJIFILMCCD-RAW 0201FF383501".ljust(84, b"\0")
    start = 160
    places = struct.pack(">IIII", start, len(data), start + len(data), len(table))
    return (head + places).ljust(start, b"\0") + data + table


def _exif_of_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x110] = "X-T9"
    exif[ORIENTATION] = 8
    return exif.tobytes()


def cr3(preview: Image.Image, size: tuple[int, int]) -> bytes:
    """Return a CR3 of Canon: EXIF in three boxes, and a preview."""
    data = jpeg(preview)
    image = tiff_of(
        Directory(fields=CAMERA | {WIDTH: (SHORT, [size[0]]), HEIGHT: (SHORT, [size[1]]), ORIENTATION: (SHORT, [6])})
    )
    tables = [(b"CMT1", image), (b"CMT2", tiff_of(Directory(fields=SHOT))), (b"CMT4", tiff_of(Directory(fields=PLACE)))]
    canon = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + b"".join(box(*each) for each in tables)
    shown = bytes.fromhex("eaf42b5e1c984b88b9fbb7dc406e4d16") + bytes(8)
    shown += box(b"PRVW", bytes(6) + struct.pack(">HHHHI", 1, *preview.size, 1, len(data)) + data)
    ftyp = box(b"ftyp", b"crx \0\0\0\1crx isom")
    return ftyp + box(b"moov", box(b"uuid", canon)) + box(b"uuid", shown)
