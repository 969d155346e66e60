"""Opens the image of full resolution in a TIFF."""

from __future__ import annotations

from io import BytesIO

from PIL import ExifTags, Image, TiffImagePlugin

from searchdb.errors import OnlyPreviewError
from searchdb.media.inspection.tiff import image_directories
from searchdb.media.inspection.tiff_directories import COMPRESSION, Directory, TiffFile

_ORIENTATION = ExifTags.Base.Orientation


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
    first = TiffImagePlugin.TiffImageFile(file)
    reason = "its full image is missing"
    for each in candidates:
        try:
            found = TiffSubImage(BytesIO(_beginning_at(tiff, each)))
        except (SyntaxError, OSError, KeyError, ValueError):  # a mode or a compression that Pillow does not know
            reason = f"its full image is in a form that cannot be read (compression {each.value(COMPRESSION)})"
            continue
        found.first_exif = first.getexif()
        if _ORIENTATION in found.tag_v2:
            found.first_exif[_ORIENTATION] = found.tag_v2[_ORIENTATION]
        for name in ("xmp", "icc_profile"):
            if name in first.info:
                found.info.setdefault(name, first.info[name])
        return found
    raise OnlyPreviewError("TIFF", *first.size, reason=reason)


def _beginning_at(tiff: TiffFile, directory: Directory) -> bytes:
    """Return the file with this directory as its first one."""
    place, size = (8, 8) if tiff.is_big else (4, 4)
    order = "little" if tiff.order == "<" else "big"
    return b"".join((tiff.data[:place], directory.offset.to_bytes(size, order), memoryview(tiff.data)[place + size :]))
