"""Reads the metadata of an image file without decoding its pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO

from PIL import Image

from searchdb.media.formats import SNIFFED_BYTES, format_of
from searchdb.media.image_reader import open_image
from searchdb.media.regular_file import open_regular
from searchdb.media.written.file_metadata import read_file_metadata
from searchdb.records import WrittenMetadata

_OPENED = frozenset({"JPEG", "TIFF", "AVIF"})
"""Formats that open without decoding, nor memory for their pixels, and have their metadata by then."""
_SILENT = frozenset({"GIF", "BMP"})
"""Formats of which no metadata is read."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset({b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf"})
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_WEBP_CHUNKS = {b"EXIF": "exif", b"XMP ": "xmp"}
MAX_CHUNKS = 100_000
"""Chunks that are looked at: PNGs of hundreds of megapixels have thousands."""
MAX_CHUNK_BYTES = 8_000_000
"""Larger chunks are passed over. Metadata is far smaller, and so are the limits on it."""


def read_written(file: bytes | Path, *, max_pixels: int) -> WrittenMetadata | None:
    """Return what `decode` returns as `written`, at the cost of reading the file's headers.

    None if the format does not allow that: then the image has to be decoded. It is for files that have been decoded
    before, which is when they are inspected.

    Raises:
        FileUnreadableError: the file cannot be read.
        NotAnImageError: the content is in none of FORMATS.
        TooManyPixelsError: the header declares more than `max_pixels`.
        DamagedImageError: the headers are truncated or corrupt.
    """
    with nullcontext(BytesIO(file)) if isinstance(file, bytes) else open_regular(str(file)) as opened:
        name = format_of(opened.read(SNIFFED_BYTES))
        opened.seek(0)
        if name in _SILENT:
            return WrittenMetadata()
        if name == "WEBP":  # opening it takes memory for its pixels
            return _of_webp(opened)
        if name == "PNG":  # what is behind the pixels is read only after them
            opened = BytesIO(_without_pixels(opened))
        elif name not in _OPENED:
            return None
        with open_image(name, opened, max_pixels=max_pixels) as image:
            return read_file_metadata(image).written


def _of_webp(file: IO[bytes]) -> WrittenMetadata:
    carrier = Image.new("1", (1, 1))
    for name, value in _riff_chunks(file):
        carrier.info.setdefault(_WEBP_CHUNKS[name], value)
    return read_file_metadata(carrier).written


def _riff_chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    file.seek(12)
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return
        name, length = struct.unpack("<4sI", header)
        if name in _WEBP_CHUNKS and length <= MAX_CHUNK_BYTES:
            yield name, file.read(length)
            file.seek(length & 1, 1)
        else:
            file.seek(length + (length & 1), 1)


def _without_pixels(file: IO[bytes]) -> bytes:
    """Return a PNG that has only the header and the metadata of this one."""
    file.seek(len(_PNG_SIGNATURE))
    kept = [_PNG_SIGNATURE]
    size = 0
    for _ in range(MAX_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            break
        length, name = struct.unpack(">I4s", header)
        if name in _PNG_CHUNKS and size + length <= MAX_CHUNK_BYTES:
            kept += header, file.read(length + 4)  # with its checksum
            size += length
        else:
            file.seek(length + 4, 1)
        if name == b"IEND":
            break
    return b"".join([*kept, _PNG_END])
