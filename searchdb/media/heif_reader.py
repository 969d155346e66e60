"""Opens the primary image of a HEIC with libheif."""

from __future__ import annotations

from io import BytesIO
from typing import cast

import pi_heif  # pyright: ignore[reportMissingTypeStubs]
import pi_heif.options  # pyright: ignore[reportMissingTypeStubs]
from PIL import ExifTags, Image, ImageFile

# Threads decode already, one for each core, and what is beside the image is not read. Its security limits stay on.
pi_heif.options.DECODE_THREADS = 1
pi_heif.options.THUMBNAILS = False
pi_heif.options.DEPTH_IMAGES = False
pi_heif.options.AUX_IMAGES = False

_Base = cast("type[ImageFile.ImageFile]", pi_heif.HeifImageFile)


class HeifFile(_Base):
    """The primary image of a HEIC, which libheif turns upright: the orientation in its EXIF does not count."""

    def getexif(self) -> Image.Exif:
        """Return the EXIF without an orientation."""
        exif = super().getexif()
        if ExifTags.Base.Orientation in exif:
            del exif[ExifTags.Base.Orientation]
        return exif


def open_heif(file: BytesIO) -> ImageFile.ImageFile:
    """Open the primary image; nothing is decoded yet."""
    return HeifFile(file)  # pyright: ignore[reportAbstractUsage] - as typed; libheif's class is not
