"""The files of phones and cameras: HEIC, JPEG XL, RAW, TIFFs of several directories, and motion photos."""

from __future__ import annotations

import random
import struct
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageStat

from searchdb.errors import (
    DamagedImageError,
    DecoderBusyError,
    ExtraMissingError,
    ImageError,
    NotAnImageError,
    OnlyPreviewError,
)
from searchdb.media import decode as decoding
from searchdb.media.decode import decode
from searchdb.media.formats import format_of
from searchdb.media.helper import helper_turn
from searchdb.media.image_reader import open_image
from searchdb.media.inspection import inspect
from searchdb.media.inspection.raw import SMALLEST_PREVIEW
from searchdb.media.inspection.tiff_directories import MAX_DIRECTORIES, TiffFile
from searchdb.records import DecodedImage, FetchedImage, SourceItem
from searchdb.video.recognition import is_video
from tests.helpers import photo_files
from tests.helpers.hostile_files import drawn, encoded, exif_bytes
from tests.helpers.photo_files import (
    CAMERA,
    COMPRESSION,
    FULL,
    LONG,
    ORIENTATION,
    PHOTOMETRIC,
    REDUCED,
    SHORT,
    SHOT,
    SUB_DIRECTORIES,
    box,
    cr2,
    cr3,
    dng,
    heic,
    jpeg_directory,
    pixels_directory,
    raf,
    tiff_of,
)

MAX_PIXELS = 10_000_000
RED, BLUE = (230, 20, 20), (20, 20, 230)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
VIDEO = box(b"ftyp", b"mp42\0\0\0\0mp42") + box(b"mdat", random.Random(1).randbytes(5000))
TAKEN = datetime(2024, 5, 31, 16, 30, tzinfo=UTC)


def decoded(data: bytes, *, needed: int | None = None, **options: Any) -> DecodedImage:
    item = SourceItem(image="/images/a", source="test")
    return decode(FetchedImage(item=item, data=data), max_pixels=MAX_PIXELS, needed=needed, **options)


def upright(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Return a white image whose top left quarter is red."""
    image = Image.new("RGB", size, (255, 255, 255))
    image.paste(RED, (0, 0, size[0] // 2, size[1] // 2))
    return image


def assert_upright(result: DecodedImage, size: tuple[int, int] = (96, 64)) -> None:
    assert (result.width, result.height) == size
    assert (result.pixels.width > result.pixels.height) == (size[0] > size[1])
    width, height = result.pixels.size
    for place, red in (((0.25, 0.25), True), ((0.75, 0.25), False), ((0.25, 0.75), False), ((0.75, 0.75), False)):
        pixel: Any = result.pixels.getpixel((int(place[0] * width), int(place[1] * height)))
        assert (pixel[0] - pixel[1] > 90) == red, place


def without_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("an ordinary image was given to a helper")

    monkeypatch.setattr(decoding, "load_in_helper", fail)


def is_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(ImageStat.Stat(image).mean, colour)).max() < 12)


# --- HEIC -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_turned_once(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stores the turn as a property of the image and in the EXIF, as phones do."""
    without_helper(monkeypatch)
    turns = Image.Transpose
    stored = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    image = upright() if orientation == 1 else upright().transpose(stored[orientation])
    assert_upright(decoded(heic(image, exif=exif_bytes(orientation=orientation))))


@pytest.mark.parametrize("twelve", [False, True])
def test_heic_of_10_and_12_bits_keeps_its_colours(twelve: bool) -> None:
    pixels = np.empty((64, 64, 3), np.uint16)
    pixels[:] = np.array(RED, np.uint16) * 257
    assert is_colour(decoded(photo_files.deep_heic(pixels, twelve=twelve)).pixels, RED)


def test_the_primary_image_of_a_heic_is_decoded() -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in (RED, BLUE)]
    assert is_colour(decoded(heic(images[0], frames=images[1:])).pixels, RED)
    assert is_colour(decoded(heic(images[0], frames=images[1:], primary=1)).pixels, BLUE)


def test_transparent_parts_of_a_heic_become_white() -> None:
    image = Image.new("RGBA", (64, 64), (*BLUE, 0))
    assert is_colour(decoded(heic(image)).pixels, (255, 255, 255))


def test_a_grid_of_tiles_is_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    without_helper(monkeypatch)
    data = photo_files.grid_heic(Image.new("RGB", (128, 64), BLUE), 3, 4)
    result = decoded(data)
    assert (result.width, result.height) == (384, 256)
    assert is_colour(result.pixels, BLUE)
    assert (inspect("HEIC", data).width, inspect("HEIC", data).height) == (384, 256)


def test_metadata_of_a_heic_is_read() -> None:
    exif = exif_bytes(make="Maker", model="Model 7", taken="2024:05:31 18:30:00", offset="+02:00")
    data = heic(upright(), exif=exif, xmp=XMP)
    result = decoded(data)
    assert (result.written.camera, result.written.taken_at) == ("Maker Model 7", TAKEN)
    with open_image("HEIC", data, max_pixels=MAX_PIXELS) as image:
        assert image.info["xmp"] == XMP


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"miaf"])
def test_every_brand_of_heif_is_recognised(brand: bytes) -> None:
    data = heic(upright())
    assert format_of(data[:8] + brand + data[12:]) == "HEIC"
    assert format_of(encoded(upright(), "AVIF", speed=10)) == "AVIF"
    if brand != b"miaf":  # a brand that the decoder does not know as the main one
        assert decoded(data[:8] + brand + data[12:]).width == 96


def test_a_heic_that_may_crash_the_decoder_is_opened_by_a_helper() -> None:
    """pi-heif 1.4 ends the process over a kind of metadata that is not UTF-8."""
    data = heic(upright(), exif=exif_bytes(orientation=1)).replace(b"\0\0Exif\0", b"\0\0E\xeaif\0", 1)
    assert not inspect("HEIC", data).is_opened_here
    try:
        assert decoded(data).width == 96
    except DamagedImageError as exc:
        assert "the decoder ended with" in str(exc)  # noqa: PT017 - a later version may read it


def test_a_coded_image_larger_than_the_file_says_is_decoded_by_a_helper() -> None:
    small, large = heic(Image.new("RGB", (64, 64))), heic(Image.new("RGB", (1024, 1024)))
    data = large.replace(struct.pack(">II", 1024, 1024), struct.pack(">II", 64, 64))
    assert inspect("HEIC", small).is_opened_here
    assert not inspect("HEIC", data).is_opened_here


@pytest.mark.parametrize("kind", ["heic", "grid"])
def test_a_heic_that_is_cut_anywhere_is_damaged(kind: str) -> None:
    data = heic(upright()) if kind == "heic" else photo_files.grid_heic(upright((64, 64)), 2, 2)
    places = [60, data.index(b"iloc"), data.index(b"hvcC") + 30, data.index(b"mdat") + 10, len(data) - 5]
    for place in places:
        with pytest.raises(DamagedImageError):
            decoded(data[:place])


# --- Motion photos and MPO ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "HEIC"])
def test_the_video_of_a_motion_photo_costs_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_helper(monkeypatch)
    still = photo_files.encoded_as(upright(), kind)
    tail = box(b"mpvd", VIDEO) if kind == "HEIC" else VIDEO
    assert_upright(decoded(still + tail))
    assert inspect(kind, still + tail) == inspect(kind, still)


# --- JPEG XL --------------------------------------------------------------------------------------


def test_jpeg_xl_is_decoded_by_a_helper() -> None:
    image = upright()
    image.putalpha(128)
    data = photo_files.jpeg_xl(
        image, exif=exif_bytes(make="Canon", model="Model 7", orientation=6), xmp=XMP, use_container=True
    )
    result = decoded(data)
    assert_upright(result)  # the image is stored upright, and its EXIF's orientation does not count
    assert result.written.camera == "Canon Model 7"
    assert is_colour(result.pixels.crop((60, 40, 90, 60)), (255, 255, 255))


@pytest.mark.parametrize("size", [(1, 1), (64, 32), (17, 33), (1920, 1080), (4000, 2001)])
@pytest.mark.parametrize("container", [False, True])
def test_the_size_of_a_jpeg_xl_is_read_from_its_header(size: tuple[int, int], container: bool) -> None:
    found = inspect("JPEG XL", photo_files.jpeg_xl(Image.new("RGB", size), use_container=container, effort=1))
    assert (found.width, found.height) == size


def test_a_damaged_jpeg_xl_is_named_without_advice_to_developers() -> None:
    data = photo_files.jpeg_xl(upright())
    for damaged in (data[:22], data[: len(data) // 2], data[:12] + bytes(30)):
        with pytest.raises(DamagedImageError, match=r"^the image data ends early or is corrupt \(JPEG XL\)$"):
            decoded(damaged)


@pytest.mark.parametrize("brand", [b"jpeg", b"j2ki", b"j2is", b"avci", b"vvic", b"miaf", b"unif"])
def test_heif_with_another_codec_is_named_and_is_no_video(brand: bytes) -> None:
    head = box(b"ftyp", brand + b"\0\0\0\0mif1") + bytes(100)
    with pytest.raises(NotAnImageError, match="the content looks like HEIF with "):
        format_of(head)
    assert not is_video(head)


def test_without_its_extra_a_jpeg_xl_is_a_failure_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = photo_files.jpeg_xl(upright())
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(ExtraMissingError, match=r"reading JPEG XL needs the extra jxl: pip install 'searchdb\[jxl\]'"):
        decoded(data)


def test_visitors_wait_a_limited_time_for_what_only_a_helper_reads() -> None:
    data = photo_files.jpeg_xl(upright())
    with helper_turn(wait_s=None), helper_turn(wait_s=None), pytest.raises(DecoderBusyError):
        decoded(data, timeout_s=0.1)
    held = helper_turn(wait_s=None)
    with helper_turn(wait_s=None):
        held.__enter__()
        timer = threading.Timer(0.2, held.__exit__, (None, None, None))
        timer.start()
        assert decoded(data, timeout_s=60).width == 96
        timer.join()


# --- RAW ------------------------------------------------------------------------------------------

PHOTOGRAPH = (1200, 800)


@pytest.mark.parametrize(("orientation", "size"), [(1, PHOTOGRAPH), (6, PHOTOGRAPH[::-1])])
def test_the_preview_of_a_dng_is_read(orientation: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    without_helper(monkeypatch)
    image = upright(size)
    stored = image if orientation == 1 else image.transpose(Image.Transpose.ROTATE_90)
    result = decoded(dng(stored, preview=stored.resize((900, 600)), orientation=orientation))
    assert_upright(result, size)
    assert sorted(result.pixels.size) == [600, 900]
    assert (result.written.camera, result.written.taken_at) == ("Maker Model 7", TAKEN)
    assert (result.written.latitude, result.written.longitude) == pytest.approx((48.858333, -2.35), abs=1e-5)


@pytest.mark.parametrize(("orientation", "size"), [(1, PHOTOGRAPH), (6, PHOTOGRAPH[::-1])])
@pytest.mark.parametrize("preview", [None, (240, 160)])
def test_without_a_usable_preview_a_raw_is_developed(
    preview: tuple[int, int] | None, orientation: int, size: tuple[int, int]
) -> None:
    stored = upright(size) if orientation == 1 else upright(size).transpose(Image.Transpose.ROTATE_90)
    small = None if preview is None else Image.new("RGB", preview)
    data = dng(stored, preview=small, orientation=orientation)
    assert not inspect("RAW", data).is_opened_here
    result = decoded(data)
    assert_upright(result, size)
    assert sorted(result.pixels.size) == [400, 600]
    assert (result.written.camera, result.written.taken_at) == ("Maker Model 7", TAKEN)


def test_the_largest_preview_is_read() -> None:
    previews = [jpeg_directory(Image.new("RGB", size), REDUCED) for size in ((600, 500), (900, 700), (700, 600))]
    data = tiff_of(pixels_directory(Image.new("RGB", (160, 120)), REDUCED | CAMERA | DNG, nested=previews))
    assert decoded(data).pixels.size == (900, 700)


DNG = {50706: (photo_files.BYTE, [1, 4, 0, 0])}


@pytest.mark.parametrize(
    ("side", "is_usable"), [(SMALLEST_PREVIEW, True), (SMALLEST_PREVIEW - 1, False), (SMALLEST_PREVIEW // 2, False)]
)
def test_a_small_preview_is_not_enough_for_a_large_photograph(side: int, is_usable: bool) -> None:
    sensor = photo_files.Directory(
        fields=FULL | {256: (LONG, [6000]), 257: (LONG, [4000]), PHOTOMETRIC: (SHORT, [32803])}
    )
    preview = jpeg_directory(Image.new("RGB", (side * 3 // 2, side)), REDUCED | CAMERA | DNG, nested=[sensor])
    assert inspect("RAW", tiff_of(preview)).is_opened_here == is_usable


def test_a_raw_with_a_small_preview_and_no_data_is_a_named_failure() -> None:
    sensor = photo_files.sensor_directory(upright(PHOTOGRAPH), {COMPRESSION: (SHORT, [99])})
    first = pixels_directory(Image.new("RGB", (160, 120)), REDUCED | CAMERA | DNG, nested=[sensor])
    with pytest.raises((OnlyPreviewError, DamagedImageError), match="RAW"):
        decoded(tiff_of(first))


def test_raw_files_of_other_layouts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    without_helper(monkeypatch)
    image = upright((800, 1200))
    preview = image.transpose(Image.Transpose.ROTATE_90).resize((900, 600))
    for data in (cr3(preview, PHOTOGRAPH), cr2(preview)):
        assert format_of(data) == "RAW"
        result = decoded(data)
        assert_upright(result, (800, 1200) if data[4:8] == b"ftyp" else (600, 900))
        assert (result.written.camera, result.written.taken_at) == ("Maker Model 7", TAKEN)
    preview = image.transpose(Image.Transpose.ROTATE_270).resize((900, 600))
    result = decoded(raf(preview, PHOTOGRAPH))
    assert_upright(result, (800, 1200))
    assert result.written.camera == "X-T9"


def test_a_raw_that_is_cut_anywhere_is_an_image_or_damaged() -> None:
    """A whole preview is read from a file whose sensor data is cut; without one, nothing black is stored."""
    image = upright(PHOTOGRAPH)
    whole = dng(image, preview=None)
    for place in (12, 1000, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DamagedImageError):
            decoded(whole[:place])


def test_a_raw_with_too_few_bytes_for_its_sensor_is_damaged() -> None:
    sensor = photo_files.sensor_directory(upright((40, 30)), {256: (LONG, [3000]), 257: (LONG, [2000])})
    first = pixels_directory(Image.new("RGB", (160, 120)), REDUCED | CAMERA | DNG, nested=[sensor])
    with pytest.raises(DamagedImageError, match=r"ends early \(RAW: [\d,]+ bytes for 3,000 x 2,000 sensor pixels\)"):
        decoded(tiff_of(first))


def test_a_raw_that_libraw_reads_beyond_its_end_ends_early() -> None:
    start = b"II\x1a\0\0\0HEAPCCDR" + bytes(40)  # a CRW without its directory
    with pytest.raises(DamagedImageError, match="RAW"):
        decoded(start)


def test_a_raw_without_its_data_is_damaged() -> None:
    sensor = photo_files.sensor_directory(Image.new("RGB", (400, 300)))
    first = pixels_directory(Image.new("RGB", (160, 120)), REDUCED | CAMERA | DNG, nested=[sensor])
    with pytest.raises(DamagedImageError, match="a single colour"):
        decoded(tiff_of(first))


@pytest.mark.parametrize("size", [(2**31, 2**31), (60_000, 60_000)])
def test_a_raw_of_a_huge_declared_size_is_a_failure(size: tuple[int, int]) -> None:
    sensor = photo_files.sensor_directory(Image.new("RGB", (40, 30)), {256: (LONG, [size[0]]), 257: (LONG, [size[1]])})
    first = pixels_directory(Image.new("RGB", (16, 12)), REDUCED | CAMERA | DNG, nested=[sensor])
    with pytest.raises(ImageError):
        decoded(tiff_of(first))


# --- TIFF -----------------------------------------------------------------------------------------


def test_a_plain_tiff_stays_a_tiff() -> None:
    plain = tiff_of(pixels_directory(upright(), CAMERA, exif=SHOT))
    pages = tiff_of(pixels_directory(upright()), pixels_directory(Image.new("RGB", (300, 200))))
    pyramid = tiff_of(pixels_directory(upright(), nested=[pixels_directory(upright((48, 32)), REDUCED)]))
    for data in (plain, pages, pyramid):
        assert format_of(data) == "TIFF"
        assert_upright(decoded(data))


@pytest.mark.parametrize("is_nested", [True, False])
def test_the_full_image_behind_a_thumbnail_is_read(is_nested: bool) -> None:
    thumbnail = {**REDUCED, **CAMERA, ORIENTATION: (SHORT, [6]), 700: (photo_files.BYTE, XMP)}
    stored = upright((80, 120)).transpose(Image.Transpose.ROTATE_90)
    others = [pixels_directory(Image.new("RGB", (60, 40)), FULL), pixels_directory(stored, FULL)]
    first = pixels_directory(Image.new("RGB", (16, 12)), thumbnail, nested=others if is_nested else (), exif=SHOT)
    data = tiff_of(first, *([] if is_nested else others))
    assert format_of(data) == "TIFF"
    result = decoded(data)
    assert_upright(result, (80, 120))
    assert (result.written.camera, result.written.taken_at) == ("Maker Model 7", TAKEN)
    with open_image("TIFF", data, max_pixels=MAX_PIXELS) as image:
        assert image.info["xmp"] == XMP


def test_if_the_largest_image_cannot_be_read_the_next_one_is() -> None:
    largest = pixels_directory(Image.new("RGB", (400, 300)), FULL | {COMPRESSION: (SHORT, [34712])})
    data = tiff_of(pixels_directory(Image.new("RGB", (16, 12)), REDUCED), largest, pixels_directory(upright(), FULL))
    assert_upright(decoded(data))


@pytest.mark.parametrize("compression", [34892, 34712, 65000])
def test_a_thumbnail_that_cannot_be_read_does_not_hide_the_image(compression: int) -> None:
    unknown = {**REDUCED, **CAMERA, COMPRESSION: (SHORT, [compression]), 700: (photo_files.BYTE, XMP)}
    first = pixels_directory(Image.new("RGB", (16, 12)), unknown, nested=[pixels_directory(upright(), FULL)], exif=SHOT)
    result = decoded(tiff_of(first))
    assert_upright(result)
    assert (result.written.camera, result.written.taken_at) == ("Maker Model 7", TAKEN)
    with open_image("TIFF", tiff_of(first), max_pixels=MAX_PIXELS) as image:
        assert image.info["xmp"] == XMP
    full = pixels_directory(upright(), FULL | {COMPRESSION: (SHORT, [34712])})
    with pytest.raises(DamagedImageError):
        decoded(tiff_of(pixels_directory(Image.new("RGB", (16, 12)), unknown, nested=[full])))


def test_a_thumbnail_is_not_stored_for_an_image_that_cannot_be_read() -> None:
    full = pixels_directory(upright(), FULL | {COMPRESSION: (SHORT, [34712])})
    with pytest.raises(OnlyPreviewError, match=r"only a preview of 16 x 12 .* cannot be read \(compression 34712\)"):
        decoded(tiff_of(pixels_directory(Image.new("RGB", (16, 12)), REDUCED, nested=[full])))
    lost = REDUCED | {SUB_DIRECTORIES: (LONG, [2**31])}
    with pytest.raises(OnlyPreviewError, match="its full image is missing"):
        decoded(tiff_of(pixels_directory(Image.new("RGB", (16, 12)), lost)))


def test_the_only_image_is_read_even_if_it_is_marked_as_reduced() -> None:
    assert_upright(decoded(tiff_of(pixels_directory(upright(), REDUCED))))


def test_a_message_is_more_than_the_key_that_is_missing() -> None:
    without_palette = pixels_directory(Image.new("L", (16, 12)), {PHOTOMETRIC: (SHORT, [3])})
    with pytest.raises(DamagedImageError, match=r"the image data is corrupt \(TIFF: KeyError 320\)"):
        decoded(tiff_of(without_palette))


def test_directories_that_loop_or_never_end_are_read_once() -> None:
    itself = bytearray(tiff_of(pixels_directory(upright(), REDUCED | {SUB_DIRECTORIES: (LONG, [8, 8, 8])})))
    assert len(TiffFile(bytes(itself)).walk().directories) == 1
    many = tiff_of(*[photo_files.Directory(fields=REDUCED)] * 500)
    assert len(TiffFile(many).walk().directories) == MAX_DIRECTORIES
    wide = tiff_of(photo_files.Directory(fields=REDUCED | {SUB_DIRECTORIES: (LONG, list(range(100_000)))}))
    assert len(TiffFile(wide).walk().directories) <= MAX_DIRECTORIES
    with pytest.raises(ImageError):
        decoded(many)


def test_values_beyond_the_end_of_the_file_are_none() -> None:
    beyond = struct.pack("<HHII", SUB_DIRECTORIES, LONG, 4, 0xFFFF_FFF0)
    data = b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHII", 254, LONG, 1, 1) + beyond + bytes(40)
    assert format_of(data) == "TIFF"
    with pytest.raises(ImageError):
        decoded(data)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_photographs_raise_only_our_errors(seed: int) -> None:
    chance = random.Random(seed)
    small = drawn(chance, size=(64, 48))
    for make in (heic, lambda image: dng(image, preview=image), lambda image: cr3(image, (128, 96))):
        data = bytearray(make(small))
        for _ in range(12):
            data[chance.randrange(min(len(data), 1500))] = chance.randrange(256)
        try:
            assert decoded(bytes(data)).pixels.mode == "RGB"
        except ImageError as exc:
            assert str(exc).isprintable()  # noqa: PT017
