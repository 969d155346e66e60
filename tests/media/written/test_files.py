"""What images of all formats say, decoded or not, and the files beside them."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from searchdb.errors import ImageError, MetadataError
from searchdb.media.decode import decode
from searchdb.media.written.companion import read_companion
from searchdb.media.written.reader import read_written
from searchdb.records import Companion, CompanionKind, FetchedImage, SourceItem, WrittenMetadata
from tests.helpers.hostile_files import encoded, exif_bytes, png_chunk
from tests.helpers.metadata_blocks import UTF_8, array, iptc, languages, with_iptc, xmp
from tests.helpers.photo_files import box, cr2, cr3, dng, heic, raf

MAX_PIXELS = 1_000_000
EXIF = exif_bytes(tags={0x010E: "of EXIF", 0x013B: "Ann", 0x4746: 2}, orientation=6)
XMP = xmp(languages("dc:description", x_default="of XMP") + array("dc:subject", "lion"), 'xmp:Label="Red"')
IPTC = iptc(UTF_8, (2, 120, b"of IPTC"), (2, 25, "Löwe".encode()), (2, 90, "Zürich".encode()))
IMAGE = Image.new("RGB", (32, 16))


def decoded(data: bytes) -> WrittenMetadata:
    item = SourceItem(image="/a", source="test")
    return decode(FetchedImage(item=item, data=data), max_pixels=MAX_PIXELS).written


def said(data: bytes, folder: Path) -> WrittenMetadata:
    """Return what an image says, which is the same whether it is decoded or not, and in memory or not."""
    path = folder / "image"
    path.write_bytes(data)
    whole = decoded(data)
    assert read_written(data, max_pixels=MAX_PIXELS) == whole
    assert read_written(path, max_pixels=MAX_PIXELS) == whole
    return whole


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_and_xmp_in_each_format(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"exif": EXIF, "xmp": XMP}
    if kind == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options = {"exif": EXIF, "pnginfo": info}
    elif kind == "TIFF":
        options = {"exif": EXIF, "tiffinfo": {700: XMP, 270: "of EXIF", 315: "Ann"}}
    found = said(encoded(IMAGE, kind, **options), tmp_path)
    assert (found.description, found.keywords, found.label, found.creator) == ("of XMP", ("lion",), "Red", "Ann")
    if kind != "TIFF":
        assert (found.rating, found.camera) == (2, "Canon EOS R5")
        assert found.latitude == pytest.approx(48.858333)


def test_exif_and_xmp_of_heic(tmp_path: Path) -> None:
    data = heic(IMAGE, exif=EXIF, xmp=XMP)
    found = said(data, tmp_path)
    assert (found.description, found.keywords, found.label, found.creator) == ("of XMP", ("lion",), "Red", "Ann")
    assert (found.rating, found.camera) == (2, "Canon EOS R5")
    assert found.latitude == pytest.approx(48.858333)
    assert said(heic(IMAGE), tmp_path) == WrittenMetadata()
    latin = XMP.replace(b"of XMP", "Löwe".encode("latin-1"))
    assert said(heic(IMAGE, xmp=latin), tmp_path).description == "Löwe"


def test_only_what_describes_the_primary_image_of_a_heic_counts(tmp_path: Path) -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    data = heic(images[0], exif=EXIF, frames=images[1:])
    assert said(data, tmp_path).creator == "Ann"
    primary = b"pitm" + bytes(4) + b"\0"
    assert data.count(primary + b"\1") == 1
    assert said(data.replace(primary + b"\1", primary + b"\3"), tmp_path) == WrittenMetadata()


@pytest.mark.parametrize(
    "change",
    [
        (b"pitm", b"free"),
        (b"Exif\0", b"E\xeaif\0"),  # on which libheif crashes
        (b"application/rdf+xml\0", b"application/rdf\0br\0\0"),
    ],
)
def test_an_unusual_heic_is_not_read_without_decoding(change: tuple[bytes, bytes]) -> None:
    data = heic(IMAGE, exif=EXIF, xmp=XMP)
    assert data.count(change[0]) >= 1
    assert read_written(data.replace(*change, 1), max_pixels=MAX_PIXELS) is None
    assert read_written(data + box(b"moov", bytes(8)), max_pixels=MAX_PIXELS) is None


def test_metadata_of_raw_is_read_without_its_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a preview or without one; where only LibRaw knows, the image is decoded."""
    photograph, preview = Image.new("RGB", (1000, 800), "red"), Image.new("RGB", (700, 500), "red")
    files = [dng(photograph, preview=each) for each in (preview, None)]
    files += [cr2(preview), cr3(preview, (1200, 800)), raf(preview, (1200, 800))]
    expected = [said(data, tmp_path) for data in files]
    assert [each.camera for each in expected] == ["Maker Model 7"] * 4 + ["X-T9"]
    monkeypatch.setitem(sys.modules, "rawpy", None)
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    assert [read_written(data, max_pixels=MAX_PIXELS) for data in files] == expected
    assert read_written(b"IIU\0" + bytes(1000), max_pixels=MAX_PIXELS) is not None
    assert read_written(b"FOVb" + bytes(1000), max_pixels=MAX_PIXELS) is None


@pytest.mark.parametrize("junk", [b"\0\0junk", b"\xff\xd0", b"\xff\xff\xff", b"\xff\0"])
def test_what_is_between_the_segments_of_a_jpeg_is_skipped(junk: bytes, tmp_path: Path) -> None:
    data = encoded(IMAGE, "JPEG", exif=EXIF)
    end = 4 + int.from_bytes(data[4:6])
    assert said(data[:end] + junk + data[end:], tmp_path).creator == "Ann"


def test_iptc_in_jpeg_between_xmp_and_exif(tmp_path: Path) -> None:
    jpeg = encoded(IMAGE, "JPEG", exif=EXIF)
    found = said(with_iptc(jpeg, IPTC), tmp_path)
    assert (found.description, found.keywords, found.city) == ("of IPTC", ("Löwe",), "Zürich")
    found = said(with_iptc(encoded(IMAGE, "JPEG", exif=EXIF, xmp=XMP), IPTC), tmp_path)
    assert (found.description, found.keywords, found.city) == ("of XMP", ("lion", "Löwe"), "Zürich")


@pytest.mark.parametrize("kind", [7, 4])
@pytest.mark.parametrize("big", [False, True])
def test_iptc_in_tiff(kind: int, big: bool, tmp_path: Path) -> None:
    """Photoshop declares the bytes as integers of 4 bytes."""
    block = IPTC + bytes(-len(IPTC) % 4)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[33723] = 7
    tags[33723] = block
    entry = "<HHQ" if big else "<HHI"
    bytes_entry, integers_entry = (
        struct.pack(entry, 33723, 7, len(block)),
        struct.pack(entry, 33723, 4, len(block) // 4),
    )
    data = encoded(IMAGE, "TIFF", tiffinfo=tags, big_tiff=big)
    assert data.count(bytes_entry) == 1
    found = said(data if kind == 7 else data.replace(bytes_entry, integers_entry), tmp_path)
    assert (found.description, found.keywords) == ("of IPTC", ("Löwe",))


def png(*behind: bytes, info: PngInfo | None = None) -> bytes:
    data = encoded(IMAGE, "PNG", pnginfo=info)
    return data[:-12] + b"".join(behind) + data[-12:]


def test_texts_of_png(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("Title", "Löwe")
    info.add_text("Description", "A lion", zip=True)
    info.add_itxt("Author", "Ann Löw 🦁")
    info.add_text("Copyright", "© Ann")
    found = said(png(info=info), tmp_path)
    assert (found.title, found.description, found.creator, found.copyright) == ("Löwe", "A lion", "Ann Löw 🦁", "© Ann")


def test_what_is_behind_the_pixels_of_png(tmp_path: Path) -> None:
    text = b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
    found = said(png(png_chunk(b"iTXt", text), png_chunk(b"eXIf", EXIF.removeprefix(b"Exif\0\0"))), tmp_path)
    assert (found.description, found.creator, found.rating) == ("of XMP", "Ann", 2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF", "BMP"])
def test_images_without_metadata_say_nothing(kind: str, tmp_path: Path) -> None:
    assert said(encoded(IMAGE, kind), tmp_path) == WrittenMetadata()


@pytest.mark.parametrize("bad", [b"", b"<", b"\0" * 100, b"<!DOCTYPE a>" + XMP, XMP[:-200], b"<a>" * 5000])
def test_malformed_xmp_is_ignored(bad: bytes, tmp_path: Path) -> None:
    found = said(encoded(IMAGE, "JPEG", exif=EXIF, xmp=bad), tmp_path)
    assert (found.description, found.label) == ("of EXIF", None)


_FILES = [
    with_iptc(encoded(IMAGE, "JPEG", exif=EXIF, xmp=XMP), IPTC),
    png(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), png_chunk(b"eXIf", EXIF.removeprefix(b"Exif\0\0"))),
    encoded(IMAGE, "WEBP", exif=EXIF, xmp=XMP),
    encoded(IMAGE, "TIFF", exif=EXIF, tiffinfo={700: XMP}),
    encoded(IMAGE, "AVIF", exif=EXIF, xmp=XMP),
    heic(IMAGE, exif=EXIF, xmp=XMP),
]


@settings(max_examples=150, deadline=None)
@given(
    whole=st.sampled_from(_FILES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=10),
    end=st.floats(0, 1),
)
def test_mutated_images_raise_only_our_errors(whole: bytes, changes: list[tuple[float, int]], end: float) -> None:
    data = bytearray(whole)
    for place, value in changes:
        data[int(place * len(data))] = value
    for read in (lambda cut: read_written(cut, max_pixels=MAX_PIXELS), decoded):
        try:
            read(bytes(data[: max(1, int(end * len(data)))]))
        except ImageError:
            continue


# --- Files beside images --------------------------------------------------------------------------


def companion(path: Path, kind: CompanionKind) -> Companion:
    return Companion(path=str(path), kind=kind, byte_size=1)


def test_companions_are_read_by_their_kind(tmp_path: Path) -> None:
    sidecar, takeout, raw = tmp_path / "a.xmp", tmp_path / "a.jpg.json", tmp_path / "a.dng"
    sidecar.write_bytes(XMP)
    takeout.write_text(json.dumps({"description": "of Google", "people": [{"name": "Ann"}]}))
    raw.write_bytes(b"raw")
    assert read_companion(companion(sidecar, "xmp")).description == "of XMP"
    assert read_companion(companion(takeout, "takeout")).keywords == ("Ann",)
    assert read_companion(companion(raw, "raw")) == WrittenMetadata()


@pytest.mark.parametrize("kind", ["xmp", "takeout"])
def test_companions_that_cannot_be_read_are_one_error_that_names_them(kind: CompanionKind, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("gone", "folder", "pipe", "huge", "binary", "empty")]
    gone, folder, pipe, huge, binary, empty = paths
    folder.mkdir()
    os.mkfifo(pipe)
    with huge.open("wb") as file:
        file.truncate(10**12)
    binary.write_bytes(os.urandom(1000))
    empty.touch()
    for path in (gone, folder, pipe, huge, binary, empty, Path("/dev/zero"), tmp_path / "a\0b", tmp_path / "a\nb"):
        with pytest.raises(MetadataError) as caught:
            read_companion(companion(path, kind))
        assert path.name.replace("\0", "\ufffd").replace("\n", "\ufffd") in str(caught.value)
        assert str(caught.value).isprintable()
