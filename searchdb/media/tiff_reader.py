"""Opens the image of full resolution in a TIFF."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import IO

from PIL import ExifTags, Image, TiffImagePlugin

from searchdb.errors import OnlyPreviewError
from searchdb.media.inspection.tiff import image_directories
from searchdb.media.inspection.tiff_directories import COMPRESSION, Directory, TiffFile

_ORIENTATION = ExifTags.Base.Orientation
_XMP = 700
_UNKNOWN_FORMS = (SyntaxError, OSError, KeyError, ValueError)
"""What Pillow raises on a mode or a compression that it does not know."""


class TiffSubImage(TiffImagePlugin.TiffImageFile):
    """An image whose directory is not the file's first, with the EXIF of the first."""

    first_exif: Image.Exif | None = None

    def getexif(self) -> Image.Exif:
        """Return the EXIF of the first directory, which also holds for this image."""
        return self.first_exif or super().getexif()

    def load_end(self) -> None:
        """Let Pillow turn the image by the orientation of its own directory only; it knew the size by that."""
        if _ORIENTATION in self.tag_v2:
            super().load_end()


def open_tiff(file: BytesIO) -> TiffImagePlugin.TiffImageFile:
    """Open the first image, or if that is a reduced version of another, the largest one that can be read.

    Raises:
        OnlyPreviewError: only a reduced version can be read.
    """
    data = file.getvalue()
    tiff = TiffFile(data)
    candidates = image_directories(tiff)
    if [each.offset for each in candidates] == [tiff.first] or not tiff.first_directory().fields:
        return TiffImagePlugin.TiffImageFile(file)
    first = _opened_first(file)
    reason = "its full image is missing"
    for each in candidates:
        try:
            found = TiffSubImage(BytesIO(_beginning_at(tiff, each)))
        except _UNKNOWN_FORMS:
            reason = f"its full image is in a form that cannot be read (compression {each.value(COMPRESSION)})"
            continue
        found.first_exif = exif_of_first_directory(BytesIO(data)) if first is None else first.getexif()
        if _ORIENTATION in found.tag_v2:
            found.first_exif[_ORIENTATION] = found.tag_v2[_ORIENTATION]
        kept = first.info if first is not None else {"xmp": found.first_exif.get(_XMP)}
        for name in ("xmp", "icc_profile"):
            if kept.get(name) is not None:
                found.info.setdefault(name, kept[name])
        return found
    if first is None:  # nothing can be read: this says why
        return TiffImagePlugin.TiffImageFile(file)
    raise OnlyPreviewError("TIFF", *first.size, reason=reason)


def exif_of_first_directory(file: IO[bytes]) -> Image.Exif:
    """Return the EXIF of a TIFF's first directory, whatever its image is like.

    Raises many kinds of errors on malformed directories, as Pillow does.
    """
    exif = Image.Exif()
    head = file.read(16)
    exif.endian = "<" if head.startswith(b"II") else ">"
    exif.bigtiff = 43 in head[2:4]
    place, kind = (8, "Q") if exif.bigtiff else (4, "I")
    exif.load_from_fp(file, struct.unpack_from(exif.endian + kind, head, place)[0])
    return exif


def _opened_first(file: BytesIO) -> TiffImagePlugin.TiffImageFile | None:
    """Open the image of the first directory; None if Pillow does not know its mode or compression."""
    try:
        return TiffImagePlugin.TiffImageFile(file)
    except _UNKNOWN_FORMS:
        return None


def _beginning_at(tiff: TiffFile, directory: Directory) -> bytes:
    """Return the file with this directory as its first one."""
    place, size = (8, 8) if tiff.is_big else (4, 4)
    order = "little" if tiff.order == "<" else "big"
    return b"".join((tiff.data[:place], directory.offset.to_bytes(size, order), memoryview(tiff.data)[place + size :]))
