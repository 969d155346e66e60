"""Reads what an opened image says: EXIF, IPTC, XMP, and the texts of a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import iTXt

from searchdb.errors import MetadataError
from searchdb.media.written import text
from searchdb.media.written.combination import combine_within_file
from searchdb.media.written.exif import Exif, read_exif, undecoded_tag
from searchdb.media.written.iptc import read_iptc
from searchdb.media.written.xmp import read_xmp
from searchdb.records import WrittenMetadata

_PHOTOSHOP_IPTC = 0x0404
_TIFF_IPTC = 33723
_NOTHING = WrittenMetadata()


def read_file_metadata(image: Image.Image) -> Exif:
    """Return the orientation and the metadata of an image that Pillow has opened; what is malformed is left out.

    Of a PNG, what is behind the pixels is found only once it is loaded.
    """
    exif = read_exif(image)
    written = combine_within_file(exif=exif.written, iptc=_iptc(image), xmp=_xmp(image), texts=_texts(image.info))
    return Exif(orientation=exif.orientation, written=written)


def _iptc(image: Image.Image) -> WrittenMetadata:
    photoshop: Any = image.info.get("photoshop") or {}
    block: Any = photoshop.get(_PHOTOSHOP_IPTC)
    if block is None:  # a TIFF's, before Pillow unpacks it: Photoshop declares the bytes as integers
        block = undecoded_tag(image, _TIFF_IPTC)
    return read_iptc(block) if isinstance(block, bytes) else _NOTHING


def _xmp(image: Image.Image) -> WrittenMetadata:
    packet: Any = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    packet = packet.encode("utf-8", "replace") if isinstance(packet, str) else packet
    with suppress(MetadataError):  # the image itself is usable
        return read_xmp(packet) if isinstance(packet, bytes) else _NOTHING
    return _NOTHING


def _texts(info: Mapping[Any, Any]) -> WrittenMetadata:
    """Return what the texts of a PNG say."""

    def read(key: str) -> str:
        value = info.get(key)
        if isinstance(value, iTXt):  # it is in UTF-8; the others should be in Latin-1
            return str(value)
        return text.exif_text(value)

    return WrittenMetadata(
        title=text.title(read("Title")),
        description=text.description(read("Description")),
        creator=text.one_line(read("Author")),
        copyright=text.one_line(read("Copyright")),
    )
