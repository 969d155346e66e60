"""Walks the directories of a TIFF, and of the RAW files that are built like one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from searchdb.media.inspection.record import refuse_beyond

MAX_ENTRIES = 65_535
"""The most that a classic TIFF can have in a directory; BigTIFF counts with 64 bits."""
MAX_DIRECTORIES = 64
"""Directories that are looked at: a RAW file has up to ten."""
MAX_WALKED_ENTRIES = 20_000
"""Fields of all of them: a RAW file has some hundred."""
MAX_DEPTH = 2
"""Directories below those of the file: a DNG has them in its first one, and nothing is known to nest them deeper."""

CHAINED_JPEG_START, CHAINED_JPEG_SIZE = 513, 514
NEW_SUBFILE_TYPE, SUBFILE_TYPE, WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 259, 262
STRIPS, STRIP_SIZES, TILES, TILE_SIZES, SUB_DIRECTORIES, EXIF = 273, 279, 324, 325, 330, 0x8769
DNG_VERSION, DNG_CROP_SIZE = 50706, 50720
COLOUR_FILTERS, LINEAR_RAW = 32803, 34892
"""Photometric interpretations of sensor data, which only RAW converters read."""

_NUMBERS = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The types of numbers, and their bytes."""
_BYTES = {1: 1, 2: 1, 7: 1}
_WHOLE = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q"}
_KEPT = frozenset(
    {
        NEW_SUBFILE_TYPE,
        SUBFILE_TYPE,
        WIDTH,
        HEIGHT,
        COMPRESSION,
        PHOTOMETRIC,
        STRIPS,
        STRIP_SIZES,
        TILES,
        TILE_SIZES,
        SUB_DIRECTORIES,
        EXIF,
        CHAINED_JPEG_START,
        CHAINED_JPEG_SIZE,
        DNG_VERSION,
        DNG_CROP_SIZE,
    }
)


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a directory. `position` is that of its values; `value` its number if it has one, else 0."""

    tag: int
    kind: int
    count: int
    value: int
    position: int

    @property
    def size(self) -> int:
        """Size of its values in bytes."""
        return self.count * (_NUMBERS.get(self.kind) or _BYTES.get(self.kind, 0))

    @property
    def is_number(self) -> bool:
        """Whether it consists of numbers, not of bytes or text."""
        return self.kind in _NUMBERS


@dataclass(frozen=True, kw_only=True)
class Directory:
    """A directory at an offset. `is_nested`: another one names it as its sub-directory."""

    offset: int
    is_nested: bool
    fields: dict[int, Field] = field(default_factory=dict[int, Field])

    def value(self, tag: int) -> int:
        """Return the number in a field, 0 if there is none."""
        found = self.fields.get(tag)
        return 0 if found is None else found.value

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its image in pixels."""
        return self.value(WIDTH), self.value(HEIGHT)

    @property
    def pixels(self) -> int:
        """Width times height of its image."""
        return self.value(WIDTH) * self.value(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """Whether its image is a smaller version of another one in the file."""
        return bool(self.value(NEW_SUBFILE_TYPE) & 1) or self.value(SUBFILE_TYPE) == 2

    @property
    def is_sensor_data(self) -> bool:
        """Whether only a RAW converter reads its image."""
        return self.value(PHOTOMETRIC) in (COLOUR_FILTERS, LINEAR_RAW)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The directories that were found. `is_complete`: all that are named could be read."""

    directories: list[Directory]
    is_complete: bool


class TiffFile:
    """The directories of a file that begins as a TIFF does; the third and fourth byte of the header do not matter."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self.is_big = len(data) >= 16 and 43 in (data[2], data[3])
        self._offset = struct.Struct(self.order + ("Q" if self.is_big else "I"))
        self.first = self._offset.unpack_from(data, 8 if self.is_big else 4)[0] if len(data) >= 16 else len(data)

    def fields(self, offset: int) -> Iterator[Field]:
        """Yield the fields of a directory that fit into the file."""
        head, entry = (struct.Struct(self.order + form) for form in (("Q", "HHQ8s") if self.is_big else ("H", "HHI4s")))
        if offset + head.size > len(self.data):
            return
        (count,) = head.unpack_from(self.data, offset)
        refuse_beyond(MAX_ENTRIES, count, "TIFF", "fields in a directory")
        position = offset + head.size
        for _ in range(min(count, (len(self.data) - position) // entry.size)):
            tag, kind, values, raw = entry.unpack_from(self.data, position)
            size = values * (_NUMBERS.get(kind) or _BYTES.get(kind, 0))
            at = position + entry.size - len(raw)
            if size > len(raw):
                at = self._offset.unpack(raw)[0]
            position += entry.size
            if (kind in _NUMBERS or kind in _BYTES) and size <= len(self.data):
                form = _WHOLE.get(kind, "H")
                fits = struct.calcsize(form) <= len(raw)
                value = struct.unpack_from(self.order + form, raw)[0] if fits else 0
                yield Field(tag=tag, kind=kind, count=values, value=value, position=at)

    def numbers(self, found: Field | None, most: int) -> list[int]:
        """Return up to `most` of a field's whole numbers that are in the file."""
        form = None if found is None else _WHOLE.get(found.kind)
        if found is None or form is None:
            return []
        size = struct.calcsize(form)
        count = min(found.count, most, (len(self.data) - found.position) // size)
        if count <= 0:
            return []  # struct refuses a position beyond the end, even for no numbers
        return list(struct.unpack_from(f"{self.order}{count}{form}", self.data, found.position))

    def walk(self) -> Walk:
        """Return all directories, first those in a row and then those nested in them, each once.

        It ends at MAX_DIRECTORIES and MAX_WALKED_ENTRIES.
        """
        found: list[Directory] = []
        seen: set[int] = set()
        entries = 0
        complete = True
        waiting = [(self.first, 0)]
        while waiting:
            offset, depth = waiting.pop(0)
            if offset in seen:
                continue
            seen.add(offset)
            fields: dict[int, Field] = {}
            for each in self.fields(offset):
                entries += 1
                if entries > MAX_WALKED_ENTRIES:
                    return Walk(directories=found, is_complete=False)
                if each.tag in _KEPT:
                    fields.setdefault(each.tag, each)
            if not fields or len(found) == MAX_DIRECTORIES:
                complete = False
                continue
            found.append(Directory(offset=offset, is_nested=depth > 0, fields=fields))
            following = self._next(offset)
            if following and not depth:
                waiting.insert(0, (following, 0))
            if depth < MAX_DEPTH:
                nested = self.numbers(fields.get(SUB_DIRECTORIES), MAX_DIRECTORIES)
                waiting += [(each, depth + 1) for each in nested if each]
        return Walk(directories=found, is_complete=complete)

    def first_directory(self) -> Directory:
        """Return the first directory; without fields if it cannot be read."""
        kept: dict[int, Field] = {}
        for each in self.fields(self.first):
            if each.tag in _KEPT:
                kept.setdefault(each.tag, each)
        return Directory(offset=self.first, is_nested=False, fields=kept)

    def _next(self, offset: int) -> int:
        head, entry_bytes = (
            (struct.Struct(self.order + "Q"), 20) if self.is_big else (struct.Struct(self.order + "H"), 12)
        )
        end = offset + head.size + entry_bytes * head.unpack_from(self.data, offset)[0]
        return self._offset.unpack_from(self.data, end)[0] if end + self._offset.size <= len(self.data) else 0
