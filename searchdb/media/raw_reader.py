"""Opens the preview in a RAW file, or what LibRaw makes of the sensor's data, with the EXIF of the RAW."""

from __future__ import annotations

from io import BytesIO
from typing import IO, Any

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PpmImagePlugin

from searchdb.errors import DamagedImageError, OnlyPreviewError
from searchdb.media.inspection.raw import SMALLEST_PREVIEW, RawStructure, find_raw
from searchdb.media.inspection.tiff_directories import TiffFile

_ORIENTATION = ExifTags.Base.Orientation
_XMP = 700
_EXIF_DIRECTORIES = {b"CMT2": ExifTags.IFD.Exif, b"CMT4": ExifTags.IFD.GPSInfo}
_LEAST_BYTES_A_PIXEL = 1 / 8
"""Sensor data is noise, which no camera packs into less than a bit. Of some formats, LibRaw takes what lies behind the
end of the file for data, and returns coloured noise."""
_ORIENTATIONS = {0: 1, 3: 3, 5: 8, 6: 6}
"""EXIF orientations of LibRaw's flips."""


class _WithExif(ImageFile.ImageFile):
    """An image whose EXIF is that of the RAW file around it."""

    raw_exif: Image.Exif | None = None

    def getexif(self) -> Image.Exif:
        """Return the EXIF of the RAW file, with the orientation of these pixels."""
        return self.raw_exif or super().getexif()


class RawPreview(_WithExif, JpegImagePlugin.JpegImageFile):
    """A JPEG out of a RAW file."""


class RawBitmap(_WithExif, PpmImagePlugin.PpmImageFile):
    """Pixels that LibRaw returned."""


def open_raw(file: BytesIO) -> ImageFile.ImageFile:
    """Open the largest JPEG that the directories of a RAW file name, else what LibRaw finds or develops.

    LibRaw is native code whose time and memory nothing bounds: only a helper process may get that far.

    Raises:
        OnlyPreviewError: there is only a small preview, and LibRaw cannot develop the sensor's data.
    """
    data = file.getvalue()
    raw = find_raw(data)
    if raw.preview is not None:
        preview = RawPreview(BytesIO(data[raw.preview.start : raw.preview.end]))
        return _with_exif(preview, data, raw, orientation=None)
    return _open_with_libraw(data, raw)


def _open_with_libraw(data: bytes, raw: RawStructure) -> ImageFile.ImageFile:
    import rawpy

    if raw.end > len(data):  # LibRaw would fill what is missing with black
        raise DamagedImageError(f"the image data ends early (RAW: {len(data):,} bytes instead of {raw.end:,})")
    try:
        with rawpy.RawPy() as opened:
            opened.open_buffer(BytesIO(data))
            sizes = opened.sizes
            orientation = _ORIENTATIONS.get(sizes.flip, 1)
            preview = _preview_of(opened)
            if preview is not None and _is_large_enough(preview.size, (sizes.width, sizes.height)):
                return _with_exif(preview, data, raw, orientation)
            least = int(sizes.raw_width * sizes.raw_height * _LEAST_BYTES_A_PIXEL)
            if len(data) < least:
                reason = f"{len(data):,} bytes for {sizes.raw_width:,} x {sizes.raw_height:,} sensor pixels"
                raise DamagedImageError(f"the image data ends early (RAW: {reason})")
            try:
                pixels = opened.postprocess(half_size=True, user_flip=0, use_camera_wb=True, output_bps=8)
            except rawpy.LibRawError as exc:
                if preview is None:
                    raise
                raise OnlyPreviewError("RAW", *preview.size, reason=_reason(exc)) from exc
            if pixels.min() == pixels.max():  # a sensor's noise is never so even: its data is missing
                raise DamagedImageError("the image data is corrupt (RAW: LibRaw returns a single colour)")
            return _with_exif(_bitmap(pixels), data, raw, orientation)
    except rawpy.LibRawIOError as exc:  # bytes in memory are always read, unless they end
        raise DamagedImageError("the image data ends early (RAW)") from exc
    except rawpy.LibRawError as exc:
        raise DamagedImageError(f"LibRaw cannot read the RAW file: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    message: Any = exc.args[0] if exc.args else type(exc).__name__
    return message.decode("ascii", "replace") if isinstance(message, bytes) else str(message)


def _preview_of(opened: Any) -> RawPreview | RawBitmap | None:
    """Return the largest preview that LibRaw finds; None if there is none that can be read."""
    import rawpy

    try:
        found = opened.extract_thumb()
        if found.format == rawpy.ThumbFormat.JPEG:
            return RawPreview(BytesIO(found.data))
        return _bitmap(found.data)
    except (rawpy.LibRawError, SyntaxError, OSError):
        return None


def _bitmap(pixels: Any) -> RawBitmap:
    """Return an array of shape (height, width, 3), of bytes, as an image."""
    height, width, colours = pixels.shape
    kind = b"P6" if colours == 3 else b"P5"
    return RawBitmap(BytesIO(b"%s\n%d %d\n255\n" % (kind, width, height) + pixels.tobytes()))


def _is_large_enough(size: tuple[int, int], photograph: tuple[int, int]) -> bool:
    smaller, larger = sorted(size), sorted(photograph)
    return smaller[0] >= SMALLEST_PREVIEW or 2 * smaller[0] >= larger[0]


def _with_exif(
    image: RawPreview | RawBitmap, data: bytes, raw: RawStructure, orientation: int | None
) -> ImageFile.ImageFile:
    """Give an image the EXIF and XMP of the RAW file.

    Its orientation is its own, if a JPEG has one, else `orientation`, else the RAW file's.
    """
    own: Any = _own_exif(image)
    found = exif_of_raw(data, raw) or own
    turned = own.get(_ORIENTATION) or orientation
    if turned:
        found[_ORIENTATION] = turned
    image.raw_exif = found
    xmp = found.get(_XMP)
    if isinstance(xmp, bytes):
        image.info["xmp"] = xmp
    return image


def _own_exif(image: ImageFile.ImageFile) -> Image.Exif:
    exif = Image.Exif()
    written = image.info.get("exif")
    if isinstance(written, bytes):
        try:
            exif.load(written)
        except Exception:  # noqa: BLE001 - cameras and editors write malformed blocks, on which Pillow raises many errors
            return Image.Exif()
    return exif


def exif_of_raw(data: bytes, raw: RawStructure) -> Image.Exif | None:
    """Return the EXIF of a RAW file; None if it is malformed, or in a place that only LibRaw knows."""
    exif = Image.Exif()
    try:
        for each in raw.exif:
            content = data if each.start == 0 else data[each.start : each.end]
            target = Image.Exif()
            _load(target, content)
            if each.kind in _EXIF_DIRECTORIES:
                exif.get_ifd(_EXIF_DIRECTORIES[each.kind]).update(dict(target))
            else:
                exif = target
    except Exception:  # noqa: BLE001 - as above
        return None
    return exif if raw.exif else None


def _load(exif: Image.Exif, content: bytes) -> None:
    tiff = TiffFile(content)
    exif.endian = tiff.order
    exif.bigtiff = tiff.is_big
    file: IO[bytes] = BytesIO(content)
    exif.load_from_fp(file, tiff.first)  # with an offset, the header is not read: that of some cameras is their own
