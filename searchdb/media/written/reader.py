"""Reads the metadata of an image file without decoding its pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from PIL import Image

from searchdb.errors import DamagedImageError
from searchdb.media.formats import SNIFFED_BYTES, format_of
from searchdb.media.image_reader import open_image, prepare_pillow
from searchdb.media.inspection import inspect
from searchdb.media.inspection.jpeg import WITHOUT_LENGTH
from searchdb.media.inspection.raw import find_raw
from searchdb.media.raw_reader import exif_of_raw
from searchdb.media.regular_file import open_regular
from searchdb.media.tiff_reader import exif_of_first_directory
from searchdb.media.written.exif import Exif
from searchdb.media.written.file_metadata import read_file_metadata
from searchdb.media.written.heif import read_heif_blocks
from searchdb.records import WrittenMetadata

_SILENT = frozenset({"GIF", "BMP"})
"""Formats of which no metadata is read."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = frozenset({b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf"})
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_WEBP_CHUNKS = {b"EXIF": "exif", b"XMP ": "xmp"}
_SOI, _SOS = b"\xff\xd8", 0xDA
_TIFF_XMP = 700
MAX_PARTS = 100_000
"""Chunks or segments that are looked at: PNGs of hundreds of megapixels have thousands."""
MAX_METADATA_BYTES = 8_000_000
"""What is read of a file's chunks or segments of metadata: far more than the limits on it."""


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
    headers = read_headers(file, max_pixels=max_pixels)
    return None if headers is None else headers.written


def read_headers(file: bytes | Path, *, max_pixels: int) -> Exif | None:
    """Return how the image is to be turned, and what is written in it; see `read_written`."""
    with nullcontext(BytesIO(file)) if isinstance(file, bytes) else open_regular(str(file)) as opened:
        name = format_of(opened.read(SNIFFED_BYTES))
        opened.seek(0)
        if name in _SILENT:
            return Exif()
        if name == "TIFF":
            prepare_pillow(max_pixels)
            return read_file_metadata(_tiff_metadata(opened))
        if name in ("HEIC", "RAW"):
            return _of_photograph(name, opened.read(), max_pixels)
        if name == "WEBP":  # opening it takes memory for its pixels
            return read_file_metadata(_Carrier(dict(_riff_chunks(opened))))
        read = {"JPEG": _jpeg_head, "PNG": _without_pixels, "AVIF": _whole}.get(name)
        if read is None:
            return None
        with open_image(name, read(opened), max_pixels=max_pixels) as image:
            return read_file_metadata(_Carrier(image.info))


class _Carrier(Image.Image):
    """An image without pixels that has the metadata of another, as Pillow keeps it."""

    def __init__(self, info: dict[Any, Any], exif: Image.Exif | None = None) -> None:
        super().__init__()
        self.info = info
        self._own_exif = exif

    def getexif(self) -> Image.Exif:
        return super().getexif() if self._own_exif is None else self._own_exif


def _of_photograph(name: str, data: bytes, max_pixels: int) -> Exif | None:
    """Return what is written in a HEIC or RAW; neither libheif nor LibRaw, which odd files may crash, reads it."""
    inspection = inspect(name, data)
    if name == "HEIC":
        blocks = read_heif_blocks(data) if inspection.is_opened_here else None
        return None if blocks is None else read_file_metadata(_Carrier(blocks))
    raw = find_raw(data)
    if raw.preview is not None:
        with open_image(name, data, max_pixels=max_pixels) as image:
            return read_file_metadata(image)
    exif = exif_of_raw(data, raw)
    if exif is None:
        return None
    xmp = exif.get(_TIFF_XMP)
    return read_file_metadata(_Carrier({"xmp": xmp} if isinstance(xmp, bytes) else {}, exif))


def _whole(file: IO[bytes]) -> bytes:
    return file.read()


def _jpeg_head(file: IO[bytes]) -> bytes:
    """Return a JPEG up to its pixels, which Pillow can open, as it reads no further to open one.

    One with anything but segments in its header is returned with its pixels: Pillow skips that in ways of its own.
    """
    kept = [file.read(len(_SOI))]
    size = 0
    for _ in range(MAX_PARTS):
        marker = file.read(2)
        while marker == b"\xff\xff":  # padding
            marker = b"\xff" + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in WITHOUT_LENGTH:
            file.seek(0)
            whole = file.read(MAX_METADATA_BYTES)
            inspect("JPEG", whole)  # it limits what is skipped
            return whole
        length = file.read(2)
        body = file.read(max(0, int.from_bytes(length) - 2)) if len(length) == 2 else b""
        size += len(body)
        if size > MAX_METADATA_BYTES:
            break
        kept += marker, length, body
        if marker[1] == _SOS:
            break
    return b"".join(kept)


def _without_pixels(file: IO[bytes]) -> bytes:
    """Return a PNG that has only the header and the metadata of this one, also that behind the pixels."""
    file.seek(len(_PNG_SIGNATURE))
    kept = [_PNG_SIGNATURE]
    size = 0
    for _ in range(MAX_PARTS):
        header = file.read(8)
        if len(header) < 8:
            break
        length, name = struct.unpack(">I4s", header)
        if name in _PNG_CHUNKS and size + length <= MAX_METADATA_BYTES:
            kept += header, file.read(length + 4)  # with its checksum
            size += length
        else:
            file.seek(length + 4, 1)
        if name == b"IEND":
            break
    return b"".join([*kept, _PNG_END])


def _riff_chunks(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the names, as Pillow has them, and contents of the chunks of metadata in a WebP."""
    file.seek(12)
    found: set[bytes] = set()
    for _ in range(MAX_PARTS):
        header = file.read(8)
        if len(header) < 8:
            return
        name, length = struct.unpack("<4sI", header)
        if name in _WEBP_CHUNKS and name not in found and length <= MAX_METADATA_BYTES:
            found.add(name)
            yield _WEBP_CHUNKS[name], file.read(length)
            file.seek(length & 1, 1)
        else:
            file.seek(length + (length & 1), 1)


def _tiff_metadata(file: IO[bytes]) -> _Carrier:
    """Return the metadata of a TIFF's first directory, which also holds for an image in another one."""
    try:
        exif = exif_of_first_directory(file)
        xmp = exif.get(_TIFF_XMP)
    except Exception as exc:  # Pillow raises many kinds of errors on malformed directories
        raise DamagedImageError("the image data is corrupt (TIFF: its first directory cannot be read)") from exc
    return _Carrier({"xmp": xmp}, exif)
