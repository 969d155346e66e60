"""Names the format of an image by its content."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping

from searchdb.errors import ExtraMissingError, NotAnImageError
from searchdb.media.inspection.raw import is_raw_tiff

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIC", "JPEG XL", "RAW")
"""Supported formats, recognised by content and never by name. Of an animation or a multi-image file the first image is
read, or the one that the file names as its primary image. HEIC stands for all HEIF files with HEVC, RAW for the sensor
data of all cameras that LibRaw knows."""

READABLE = f"searchdb reads {', '.join(FORMATS[:-1])} and {FORMATS[-1]}"
"""The end of the message about any other format: a failure with another list comes from another version."""

EXTRAS: Mapping[str, str] = {"JPEG XL": "jxl"}
"""The extra of searchdb that reads a format, where the base does not."""
_MODULES = {"jxl": "pillow_jxl", "video": "av"}

SNIFFED_BYTES = 1024
"""Enough for an XML declaration and a comment before `<svg` or `<html`."""

_SIGNATURES = (
    ("JPEG", re.compile(rb"\xff\xd8\xff")),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("WEBP", re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL)),
    ("BMP", re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL)),  # including the reserved zeros: text may begin with "BM"
    ("TIFF", re.compile(rb"MM\0\*|II\*\0|MM\*\0|II\0\*|MM\0\+|II\+\0")),
    ("AVIF", re.compile(rb"\0\0..ftyp(avi[fs]|m[is]f1.{4}(.{4}){0,15}avif)", re.DOTALL)),
    ("HEIC", re.compile(rb"\0\0..ftyp(he[iv][cmsx]|m[is]f1|.{8}(.{4}){0,15}he[iv][cmsx])", re.DOTALL)),
    ("JPEG XL", re.compile(rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a")),
    (
        "RAW",
        re.compile(rb"FUJIFILMCCD-RAW |IIR[OS]|MMOR|IIU\0|II\x1a\0\0\0HEAPCCDR|\0MRM|FOVb|....ftypcrx ", re.DOTALL),
    ),
)

HEIF_WITHOUT_HEVC: Mapping[str, bytes] = {
    "JPEG": b"jpeg|jpgs",
    "JPEG 2000": b"j2ki|j2is",
    "H.264": b"avci|avcs",
    "H.266": b"vvic|vvis",
    "another codec": b"mif2|miaf|unif",
}
"""Brands of images in the container of HEIC and of videos, by their codec, which nothing here decodes."""

_LOOKALIKES = (
    ("SVG", re.compile(rb"(?s)\s*(\xef\xbb\xbf)?(<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE svg.*?>|\s)*+<svg[\s>]")),
    ("HTML", re.compile(rb"(?si)\s*(\xef\xbb\xbf)?(<\?xml.*?\?>|<!--.*?-->|\s)*+<(!doctype html|html|head|body)")),
    ("XML", re.compile(rb"\s*<\?xml")),
    ("JSON", re.compile(rb'\s*[\[{]\s*["{\[]')),
    ("a PDF", re.compile(rb"%PDF-")),
    ("PostScript", re.compile(rb"%!PS|\xc5\xd0\xd3\xc6")),
    ("a zip archive", re.compile(rb"PK\x03\x04|PK\x05\x06")),
    ("a gzip archive", re.compile(rb"\x1f\x8b")),
    ("a Photoshop file", re.compile(rb"8BPS")),
    ("an icon", re.compile(rb"\0\0[\x01\x02]\0.\0", re.DOTALL)),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    *(
        (f"HEIF with {codec}", re.compile(rb"....ftyp(%b)" % brands, re.DOTALL))
        for codec, brands in HEIF_WITHOUT_HEVC.items()
    ),
    ("a video", re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]", re.DOTALL)),
    ("text", re.compile(rb"[\t\n\r\x20-\x7e]+\Z")),
)


def format_of(data: bytes) -> str:
    """Return the format in FORMATS of the content (MPO counts as JPEG).

    Its first SNIFFED_BYTES are enough, but for a RAW that is built like a TIFF: it counts as TIFF unless its
    directories are among them.

    Raises:
        NotAnImageError: it is in none of them; the message says what it looks like instead.
    """
    head = data[:SNIFFED_BYTES]
    for name, signature in _SIGNATURES:
        if signature.match(head):
            return "RAW" if name == "TIFF" and is_raw_tiff(data) else name
    looks = next(
        (f"looks like {name}" for name, pattern in _LOOKALIKES if pattern.match(head)), "is in no known format"
    )
    raise NotAnImageError(f"the content {looks}; {READABLE}")


def is_extra_installed(extra: str) -> bool:
    """Whether an extra that reads images or videos is installed."""
    module = _MODULES.get(extra)
    return module is not None and importlib.util.find_spec(module) is not None


def require_reader(name: str) -> None:
    """Raise ExtraMissingError if the format is read by an extra that is not installed."""
    extra = EXTRAS.get(name)
    if extra is not None and not is_extra_installed(extra):
        raise ExtraMissingError(name, extra)
