"""Opens a JPEG XL with libjxl, of the extra `jxl`: for helper processes only, because opening decodes."""

from __future__ import annotations

from io import BytesIO
from typing import cast

from PIL import ExifTags, Image, ImageFile
from pillow_jxl import JpegXLImagePlugin

from searchdb.errors import DamagedImageError
from searchdb.media.inspection.boxes import boxes

JpegXLImagePlugin.DECODE_THREADS = 0  # none besides the calling one

_Base = cast("type[ImageFile.ImageFile]", JpegXLImagePlugin.JXLImageFile)
_CONTAINER = b"\0\0\0\x0cJXL "


class JpegXLFile(_Base):
    """A JPEG XL, which libjxl turns upright, unless it is a recompressed JPEG that is restored."""

    jpeg: bool

    def getexif(self) -> Image.Exif:
        """Return the EXIF, without an orientation if the pixels are upright."""
        exif = super().getexif()
        if not self.jpeg and ExifTags.Base.Orientation in exif:
            del exif[ExifTags.Base.Orientation]
        return exif


def open_jpeg_xl(file: BytesIO) -> ImageFile.ImageFile:
    """Decode the first frame."""
    data = file.getvalue()
    try:
        image = JpegXLFile(file)  # pyright: ignore[reportAbstractUsage] - as typed; the plugin's class is not
    except RuntimeError as exc:  # its message is the same for all damage, and is for developers
        raise DamagedImageError("the image data ends early or is corrupt (JPEG XL)") from exc
    if data.startswith(_CONTAINER):
        for box in boxes(data, 0, len(data), "JPEG XL"):
            if box.kind == b"xml ":
                image.info.setdefault("xmp", data[box.start : box.end])
    return image
