"""Counts the items and coded images of a HEIC, with units of HEVC."""

from __future__ import annotations

import math
from dataclasses import dataclass

from searchdb.media.inspection.boxes import (
    Box,
    Location,
    Tables,
    UnusualError,
    item_kinds,
    item_locations,
    item_properties,
    item_references,
    largest_size,
    number,
    read_tables,
    size_in,
)
from searchdb.media.inspection.record import MAX_EXIF_BYTES, UNBOUNDED, Inspection, refuse_beyond

MAX_UNITS = 20_000
"""Units of all coded images together: a phone writes one for each of up to 100 tiles, a camera some dozens."""
MAX_METADATA_BYTES = 64 * 1024 * 1024
"""EXIF and XMP of all images of the file: the decoder copies them for each image that they describe."""

_PIXEL_S = 40e-9
_BYTE_S = 50e-9
_CODED = (b"hvc1", b"hev1")
_GRID = b"grid"
_PARAMETERS = range(32, 35)
_SEQUENCE_PARAMETERS = 33
_BLOCK = 64
"""Coded sizes are multiples of a block of at most this many pixels."""
_HEADER_BYTES = 96
"""Enough of the sequence parameters to hold the size."""


def inspect_heif(data: bytes) -> Inspection:
    """Return the size and cost of the primary image if it is one coded image or a grid of them.

    That of others, as of overlays, is UNBOUNDED. Further images, as of a burst, cost nothing; the depth maps and other
    auxiliary images that belong to the primary one are included.
    """
    tables = None
    try:
        tables = read_tables(data, "HEIC")
        return _Inspector(data, tables).inspection()
    except (UnusualError, IndexError, KeyError, RecursionError):
        width, height = (0, 0) if tables is None else _largest(data, tables)
        return Inspection(width=width, height=height, cost_s=UNBOUNDED, is_opened_here=False)


def _largest(data: bytes, tables: Tables) -> tuple[int, int]:
    try:
        return largest_size(data, tables)
    except UnusualError:
        return 0, 0


@dataclass(kw_only=True)
class _Coded:
    pixels: int = 0
    size: int = 0


class _Inspector:
    def __init__(self, data: bytes, tables: Tables) -> None:
        self._data = data
        self._kinds = dict(item_kinds(data, tables.boxes[b"iinf"], "HEIC"))
        self._places = dict(item_locations(data, tables))
        self._properties = item_properties(data, tables)
        primary = tables.boxes[b"pitm"]
        self._primary = number(data, primary.start + 4, 2 if data[primary.start] == 0 else 4)
        self._tiles: dict[int, list[int]] = {}
        self._auxiliary: list[int] = []
        self._metadata_bytes = 0
        self._coded: dict[int, _Coded] = {}
        self._units = 0
        if b"iref" in tables.boxes:
            self._read_references(tables.boxes[b"iref"])

    def inspection(self) -> Inspection:
        """Return the size and cost of the primary image."""
        for item, kind in self._kinds.items():
            if kind == b"Exif" and item in self._places:
                refuse_beyond(MAX_EXIF_BYTES, self._places[item].size, "HEIC", "bytes of EXIF")
        if self._metadata_bytes > MAX_METADATA_BYTES:
            raise UnusualError
        width, height = self._size(self._primary)
        coded = self._image(self._primary)
        for item in self._auxiliary:
            each = self._image(item)
            coded = _Coded(pixels=coded.pixels + each.pixels, size=coded.size + each.size)
        pixels = max(width * height, coded.pixels)
        return Inspection(width=width, height=height, cost_s=pixels * _PIXEL_S + coded.size * _BYTE_S)

    def _read_references(self, table: Box) -> None:
        for kind, source, targets in item_references(self._data, table, "HEIC"):
            if kind == b"dimg":
                self._tiles.setdefault(source, []).extend(targets)
            elif kind == b"auxl" and self._primary in targets:
                self._auxiliary.append(source)
            elif kind == b"cdsc" and source in self._places:
                self._metadata_bytes += self._places[source].size * len(targets)

    def _size(self, item: int) -> tuple[int, int]:
        sizes = [size for each in self._properties[item] if (size := size_in(self._data, each))]
        if not sizes:
            raise UnusualError
        return sizes[0]

    def _image(self, item: int) -> _Coded:
        """Return what decoding an item takes: a coded image, or a grid, whose tiles count as often as it names them."""
        if self._kinds.get(item) == _GRID:
            width, height = self._size(item)
            if self._grid_pixels(self._places[item]) > width * height:
                raise UnusualError
            tiles = [self._still(tile) for tile in self._tiles[item]]
            return _Coded(pixels=sum(each.pixels for each in tiles), size=sum(each.size for each in tiles))
        return self._still(item)

    def _grid_pixels(self, place: Location) -> int:
        side_bytes = 4 if number(self._data, place.start + 1, 1) & 1 else 2
        width, height = (number(self._data, place.start + 4 + at * side_bytes, side_bytes) for at in (0, 1))
        return width * height

    def _still(self, item: int) -> _Coded:
        """Return the pixels and bytes of a coded image, which has the size that the file declares."""
        known = self._coded.get(item)
        if known is not None:
            return known
        if self._kinds.get(item) not in _CODED:
            raise UnusualError
        place = self._places[item]
        configuration = next((each for each in self._properties[item] if each.kind == b"hvcC"), None)
        if configuration is None:
            raise UnusualError
        width, height = self._size(item)
        length_bytes = (number(self._data, configuration.start + 21, 1) & 3) + 1
        pixels = max(self._configured_pixels(configuration), width * height)
        images = 0
        position, end = place.start, place.start + place.size
        while position < end:
            size, position = number(self._data, position, length_bytes), position + length_bytes
            kind = number(self._data, position, 1) >> 1 & 63
            self._units += 1
            if kind == _SEQUENCE_PARAMETERS:
                pixels = max(pixels, _coded_pixels(self._data[position : position + min(size, _HEADER_BYTES)]))
            images += kind < _PARAMETERS.start and number(self._data, position + 2, 1) >> 7
            position += size
            if self._units > MAX_UNITS:
                raise UnusualError
        padded = math.prod(-(-side // _BLOCK) * _BLOCK for side in (width, height))
        if images != 1 or pixels > padded:
            raise UnusualError
        found = _Coded(pixels=pixels, size=place.size)
        self._coded[item] = found
        return found

    def _configured_pixels(self, box: Box) -> int:
        """Return the largest size in the parameters that an `hvcC` box holds."""
        pixels, position = 0, box.start + 23
        for _ in range(number(self._data, box.start + 22, 1)):
            kind, count = number(self._data, position, 1) & 63, number(self._data, position + 1, 2)
            position += 3
            for _ in range(count):
                size, position = number(self._data, position, 2), position + 2
                self._units += 1
                if position + size > box.end or self._units > MAX_UNITS:
                    raise UnusualError
                if kind == _SEQUENCE_PARAMETERS:
                    pixels = max(pixels, _coded_pixels(self._data[position : position + min(size, _HEADER_BYTES)]))
                position += size
        return pixels


def _coded_pixels(unit: bytes) -> int:
    """Return the size in pixels in sequence parameters of HEVC (ITU-T H.265, 7.3.2.2)."""
    body = unit[2:].replace(b"\0\0\3", b"\0\0")
    bits = _Bits(body)
    bits.skip(4)
    layers = bits.read(3)
    bits.skip(1 + 96)
    flags = [bits.read(2) for _ in range(layers)]
    if layers:
        bits.skip(2 * (8 - layers))
    for flag in flags:
        bits.skip(88 * (flag >> 1) + 8 * (flag & 1))
    bits.read_counted()
    if bits.read_counted() == 3:
        bits.skip(1)
    return bits.read_counted() * bits.read_counted()


class _Bits:
    """Reads bits from the highest of each byte on."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        self.skip(count)
        return self._value >> self._left & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise UnusualError

    def read_counted(self) -> int:
        """Return a number that is written after as many zeros as it has further bits (Exp-Golomb)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
