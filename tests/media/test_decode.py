"""Decoding: every mode to RGB, everything hostile to one of our errors."""

from __future__ import annotations

import hashlib
import random
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from searchdb.errors import (
    DamagedImageError,
    EmptyFileError,
    ImageError,
    NotAnImageError,
    OnlyPreviewError,
    TooManyPixelsError,
)
from searchdb.media.decode import decode
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.formats import FORMATS
from searchdb.media.pixels import BACKGROUND
from searchdb.records import DecodedImage, FetchedImage, SourceItem, WrittenMetadata
from tests.helpers import hostile_files
from tests.helpers.hostile_files import encoded, exif_bytes
from tests.helpers.photo_files import encoded_as

MAX_PIXELS = 2_000_000
RED = (250, 10, 10)
TOLERANCE = 12
"""Levels that lossy formats and colour conversions may move a plain colour."""


def decoded(data: bytes, *, max_pixels: int = MAX_PIXELS, needed: int | None = None) -> DecodedImage:
    item = SourceItem(image="/images/any name at all", source="test")
    return decode(FetchedImage(item=item, data=data), max_pixels=max_pixels, needed=needed)


def colour(image: Image.Image, place: tuple[int, int] = (0, 0)) -> np.ndarray:
    return np.asarray(image, dtype=int)[place[1], place[0]]


# --- Healthy images ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(hostile_files.HEALTHY))
def test_healthy_kinds_become_plain_rgb(kind: str) -> None:
    data = hostile_files.HEALTHY[kind](random.Random(5))
    result = decoded(data)
    assert type(result.pixels) is Image.Image
    assert result.pixels.mode == "RGB"
    assert result.pixels.size == (result.width, result.height)
    assert result.pixels.info == {}
    assert result.sha256 == hashlib.sha256(data).digest()
    assert result.byte_size == len(data)


@pytest.mark.parametrize("kind", sorted(hostile_files.HEALTHY))
def test_reduced_decoding_gives_the_same_image(kind: str) -> None:
    data = hostile_files.HEALTHY[kind](random.Random(5))
    whole, small = decoded(data), decoded(data, needed=8)
    assert (small.width, small.height, small.sha256) == (whole.width, whole.height, whole.sha256)
    assert small.written == whole.written
    assert min(small.pixels.size) >= min(12, *whole.pixels.size)
    shrunk = (np.asarray(each.pixels.resize((8, 8), Image.Resampling.BOX), dtype=int) for each in (whole, small))
    assert np.abs(np.subtract(*shrunk)).mean() < TOLERANCE


@pytest.mark.parametrize(
    ("size", "needed", "kept"),
    [
        ((1200, 1600), 96, (150, 200)),  # an eighth leaves 150, and 144 are enough
        ((1200, 1600), 101, (300, 400)),
        ((768, 512), 224, (768, 512)),  # a half would leave 256, and 336 are wanted
        ((4000, 100), 96, (4000, 100)),
    ],
)
def test_jpegs_are_reduced_while_large_enough(size: tuple[int, int], needed: int, kept: tuple[int, int]) -> None:
    result = decoded(encoded(Image.new("RGB", size, RED), "JPEG"), needed=needed)
    assert (result.pixels.size, result.width, result.height) == (kept, *size)


def test_a_reduced_image_is_turned_upright() -> None:
    data = encoded(Image.new("RGB", (1600, 1200), RED), "JPEG", exif=exif_bytes(orientation=6))
    result = decoded(data, needed=96)
    assert (result.pixels.size, result.width, result.height) == ((150, 200), 1200, 1600)


def test_a_reduced_jpeg_that_ends_early_is_damaged() -> None:
    data = encoded(hostile_files.drawn(random.Random(1), size=(1600, 1200)), "JPEG")
    with pytest.raises(DamagedImageError):
        decoded(data[: len(data) // 2], needed=96)


def test_reduced_images_have_nearly_the_same_vectors(embedder: CLIPEmbedder) -> None:
    from searchdb.demo.composition import compose
    from searchdb.demo.postcards import draw

    files = [encoded(draw(compose(seed), 640), "JPEG", quality=90) for seed in range(8)]
    whole, reduced = (
        embedder.embed_images([decoded(each, needed=needed).pixels for each in files])
        for needed in (None, embedder.shortest_edge)
    )
    assert (whole * reduced).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "MPO"])
def test_formats_are_recognised_by_content(name: str) -> None:
    result = decoded(encoded_as(Image.new("RGB", (64, 32), RED), name))
    assert (result.width, result.height) == (64, 32)
    assert np.abs(colour(result.pixels, (30, 15)) - RED).max() <= TOLERANCE


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("TIFF", {}), ("TIFF", {"compression": "jpeg"})])
def test_cmyk_keeps_its_colours(kind: str, options: dict[str, Any]) -> None:
    """Adobe writes CMYK JPEGs inverted; read wrongly, red becomes cyan."""
    result = decoded(encoded(Image.new("RGB", (64, 32), (255, 0, 0)).convert("CMYK"), kind, **options))
    assert np.abs(colour(result.pixels) - (255, 0, 0)).max() <= TOLERANCE


def test_lab_keeps_its_colours() -> None:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(Image.new("RGB", (8, 8), (200, 60, 60)), *profiles, outputMode="LAB")
    assert lab is not None
    assert np.abs(colour(decoded(encoded(lab, "TIFF")).pixels) - (200, 60, 60)).max() <= TOLERANCE


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_become_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 4))
    data = encoded(image.convert("LA"), "PNG") if mode == "LA" else encoded(image, "PNG" if mode == "RGBA" else "TIFF")
    result = decoded(data).pixels
    assert tuple(colour(result, (1, 1))) == BACKGROUND
    assert tuple(colour(result, (6, 1))) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_becomes_white(kind: str) -> None:
    image = Image.new("P", (8, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 10])
    image.paste(0, (0, 0, 4, 4))
    result = decoded(encoded(image, kind, transparency=0)).pixels
    assert tuple(colour(result, (1, 1))) == BACKGROUND
    assert tuple(colour(result, (6, 1))) == (10, 200, 10)


def test_a_half_transparent_palette_is_blended_with_white() -> None:
    image = Image.new("P", (8, 4), 0)
    image.putpalette([0, 0, 0])
    result = decoded(encoded(image, "PNG", transparency=bytes([127]))).pixels
    assert tuple(colour(result)) == (128, 128, 128)


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (4, 1))
    for data in (encoded(Image.fromarray(ramp), "PNG"), encoded(Image.fromarray(ramp), "TIFF")):
        assert (np.asarray(decoded(data).pixels)[0, :, 0] == np.arange(256)).all()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 100, 255], np.float32, [0, 100, 255]),
        ([-100, 0, 100], np.float32, [0, 128, 255]),
        ([0, np.nan, np.inf], np.float32, [0, 0, 0]),
        ([-3e38, 0, 3e38], np.float32, [0, 128, 255]),
        ([700, 700, 700], np.float32, [0, 0, 0]),
        ([0, 128, 255], np.int32, [0, 128, 255]),
        ([0, 32896, 65535], np.int32, [0, 128, 255]),
        ([-1000, 0, 1000], np.int32, [0, 128, 255]),
    ],
)
def test_32_bit_grey_is_scaled_by_its_range(values: list[float], kind: type[Any], expected: list[int]) -> None:
    result = decoded(encoded(Image.fromarray(np.array([values], dtype=kind)), "TIFF")).pixels
    assert np.abs(np.asarray(result, dtype=int)[0, :, 0] - expected).max() <= 1


def test_16_bit_colour_takes_the_high_bytes() -> None:
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0x00FF, 0, 0x1234, 0xABCD)
    result = decoded(hostile_files.png(2, 1, data=row, depth=16)).pixels
    assert np.asarray(result).tolist() == [[[255, 128, 0], [0, 0x12, 0xAB]]]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_the_first_of_several_images_is_decoded(kind: str) -> None:
    frames = [Image.new("RGB", (64, 32), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    result = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert np.abs(colour(result.pixels, (30, 15)) - RED).max() <= TOLERANCE


# --- EXIF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(kind: str, orientation: int) -> None:
    """The image has its top left corner red when it is upright, however it is stored."""
    upright = Image.new("RGB", (64, 32), (255, 255, 255))
    upright.paste((255, 0, 0), (0, 0, 16, 8))
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(stored_by[orientation]) if orientation > 1 else upright
    result = decoded(encoded(stored, kind, exif=exif_bytes(orientation=orientation)))
    assert (result.width, result.height) == (64, 32)
    assert np.abs(colour(result.pixels, (4, 3)) - (255, 0, 0)).max() < 60
    assert np.abs(colour(result.pixels, (60, 28)) - (255, 255, 255)).max() < 60


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_change_nothing(orientation: int) -> None:
    result = decoded(encoded(Image.new("RGB", (64, 32)), "JPEG", exif=exif_bytes(orientation=orientation)))
    assert (result.width, result.height) == (64, 32)


def exif_of(**values: Any) -> WrittenMetadata:
    return decoded(encoded(Image.new("RGB", (16, 16)), "JPEG", exif=exif_bytes(**values))).written


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon\0\0", "Canon EOS R5 ", "Canon EOS R5"),
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("SONY", "", "SONY"),
        ("", "X100", "X100"),
        ("  \0", "\0", None),
        ("Le\tica", "M\n11", "Le ica M 11"),
        ("Canon\0hidden", "", "Canon"),
    ],
)
def test_the_camera_name_has_the_make_once_and_no_padding(make: str, model: str, camera: str | None) -> None:
    assert exif_of(make=make, model=model).camera == camera


@pytest.mark.parametrize(
    ("taken", "offset", "expected"),
    [
        ("2024:05:31 18:30:00", None, datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("2024:05:31 18:30:00", "+02:00", datetime(2024, 5, 31, 16, 30, tzinfo=UTC)),
        ("2024:05:31 18:30:00", "-09:30", datetime(2024, 6, 1, 4, 0, tzinfo=UTC)),
        ("2024:05:31 18:30:00", "   :  ", datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("2024:05:31 18:30:00\0", None, datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        ("2024:05:31 18:30:00+02:00", None, datetime(2024, 5, 31, 16, 30, tzinfo=UTC)),
        ("2024-05-31T18:30:00.25Z", "+02:00", datetime(2024, 5, 31, 18, 30, 0, 250_000, tzinfo=UTC)),
        ("2024/05/31 18:30:00", "+02:00", datetime(2024, 5, 31, 16, 30, tzinfo=UTC)),
        ("2024:5:31 8:30:00", None, datetime(2024, 5, 31, 8, 30, tzinfo=UTC)),
        ("0000:00:00 00:00:00", None, None),
        ("    :  :     :  :  ", None, None),
        ("2024:13:41 18:30:00", None, None),
        ("0001:01:01 00:00:00", "+14:00", None),
        ("9998:01:01 00:00:00", None, None),
        ("1826:01:01 00:00:00", None, datetime(1826, 1, 1, tzinfo=UTC)),
        ("yesterday", None, None),
    ],
)
def test_time_taken(taken: str, offset: str | None, expected: datetime | None) -> None:
    extra = {} if offset is None else {"offset": offset}
    assert exif_of(taken=taken, **extra).taken_at == expected


NONE = "0000:00:00 00:00:00"
DIGITIZED = {0x9004: "2021:01:02 03:04:05"}
CHANGED = {0x0132: "2022:02:03 04:05:06"}
GPS = {29: "2023:03:04", 7: (5.0, 6.0, 7.5)}


@pytest.mark.parametrize(
    ("values", "tag", "expected"),
    [
        (
            {"taken": "2020:01:01 00:00:00", "shot": DIGITIZED, "tags": CHANGED, "gps": GPS},
            "DateTimeOriginal",
            datetime(2020, 1, 1, tzinfo=UTC),
        ),
        (
            {"taken": NONE, "shot": DIGITIZED, "tags": CHANGED, "gps": GPS},
            "DateTimeDigitized",
            datetime(2021, 1, 2, 3, 4, 5, tzinfo=UTC),
        ),
        (
            {"taken": "0001:01:01 00:00:00", "shot": {0x9004: "2999:01:01 00:00:00"}, "tags": CHANGED, "gps": GPS},
            "DateTime",
            datetime(2022, 2, 3, 4, 5, 6, tzinfo=UTC),
        ),
        ({"taken": "", "tags": {0x0132: "x"}, "gps": GPS}, "GPSDateStamp", datetime(2023, 3, 4, 5, 6, 7, 500_000, UTC)),
        ({"taken": "", "gps": GPS | {7: (25.0, 0.0, 0.0)}}, None, None),
        ({"taken": "", "gps": GPS | {7: (1.0,)}}, None, None),
        ({"taken": "", "gps": {29: "2023:03:04"}}, None, None),
        ({"taken": ""}, None, None),
    ],
)
def test_the_time_taken_falls_back_to_the_next_best(
    values: dict[str, Any], tag: str | None, expected: datetime | None
) -> None:
    found = exif_of(**values)
    assert (found.taken_at, found.taken_at_from) == (expected, tag)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"shot": {0x9011: "+02:00", 0x9012: "+09:00", 0x9010: "-05:00", 0x9291: "25"}}, (16, 30, 250_000)),
        ({"taken": NONE, "shot": DIGITIZED | {0x9011: "+02:00", 0x9012: "-09:00", 0x9292: "5"}}, (12, 4, 500_000)),
        ({"taken": NONE, "tags": CHANGED, "shot": {0x9011: "+02:00", 0x9010: "-05:00", 0x9290: "xx"}}, (9, 5, 0)),
        ({"taken": NONE, "tags": CHANGED, "shot": {0x9012: "+02:00"}}, (4, 5, 0)),
    ],
)
def test_each_time_has_its_own_offset_and_fraction(values: dict[str, Any], expected: tuple[int, int, int]) -> None:
    taken = exif_of(**values).taken_at
    assert taken is not None
    assert (taken.hour, taken.minute, taken.microsecond) == expected


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        (("N", (48.0, 51.0, 30.0)), ("W", (2.0, 21.0, 0.0)), (48.858333, -2.35)),
        (("S", (33.0, 52.0, 0.0)), ("E", (151.0, 12.0, 36.0)), (-33.866667, 151.21)),
        (("N", (91.0, 0.0, 0.0)), ("E", (10.0, 0.0, 0.0)), (None, None)),
        (("N", (10.0, 0.0, 0.0)), ("E", (180.0, 0.0, 1.0)), (None, None)),
        (("N", (10.0, 0.0)), ("E", (10.0, 0.0, 1.0)), (None, None)),
    ],
)
def test_place_taken(latitude: Any, longitude: Any, expected: tuple[float | None, float | None]) -> None:
    result = exif_of(latitude=latitude, longitude=longitude)
    assert (result.latitude, result.longitude) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in hostile_files.HEALTHY if "broken exif" in kind])
def test_malformed_exif_is_ignored(kind: str) -> None:
    for seed in range(20):
        result = decoded(hostile_files.HEALTHY[kind](random.Random(seed))).written
        assert (result.taken_at, result.latitude, result.longitude) == (None, None, None)


# --- Harmful images -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(hostile_files.HARMFUL))
def test_harmful_kinds_are_refused(kind: str) -> None:
    for seed in range(2):
        with pytest.raises(ImageError) as caught:
            decoded(hostile_files.HARMFUL[kind](random.Random(seed)))
        assert not caught.value.retryable
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("bad empty", EmptyFileError, "the file is empty"),
        ("bad html", NotAnImageError, "looks like HTML; searchdb reads JPEG, .* and RAW"),
        ("bad svg", NotAnImageError, "looks like SVG"),
        ("bad json", NotAnImageError, "looks like JSON"),
        ("bad pdf", NotAnImageError, "looks like a PDF"),
        ("bad zip", NotAnImageError, "looks like a zip archive"),
        ("bad gzip", NotAnImageError, "looks like a gzip archive"),
        ("bad video", NotAnImageError, "looks like a video"),
        ("bad heic", DamagedImageError, "is corrupt .HEIC"),
        ("bad jpeg xl", DamagedImageError, "is corrupt .JPEG XL"),
        ("bad raw", DamagedImageError, "LibRaw cannot read the RAW file"),
        ("bad raw cut", DamagedImageError, "the image data ends early .RAW"),
        ("bad tiff only a preview", OnlyPreviewError, "the TIFF holds only a preview of .* its full image is missing"),
        ("bad ico", NotAnImageError, "looks like an icon"),
        ("bad eps", NotAnImageError, "looks like PostScript"),
        ("bad text", NotAnImageError, "looks like text"),
        ("bad text like bmp", NotAnImageError, "looks like text"),
        ("bad zeros", NotAnImageError, "is in no known format"),
        ("bad png no data", DamagedImageError, "data ends early"),
        ("bad png text bomb", DamagedImageError, "is corrupt .PNG: Decompressed data too large"),
        ("bad png no width", DamagedImageError, "is corrupt .PNG"),
        ("bad bmp no size", DamagedImageError, "is corrupt .BMP"),
        ("bad tiff no directory", DamagedImageError, "is corrupt .TIFF"),
        ("bad tiff tiles", DamagedImageError, "is corrupt .TIFF"),
        ("bad webp cut", DamagedImageError, "is corrupt .WEBP"),
    ],
)
def test_the_error_names_the_reason(kind: str, error: type[ImageError], message: str) -> None:
    with pytest.raises(error, match=message):
        decoded(hostile_files.HARMFUL[kind](random.Random(1)))


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff", "webp", "heic"])
def test_huge_images_are_refused_by_their_header(kind: str) -> None:
    data = hostile_files.HARMFUL[f"bad {kind} huge"](random.Random(1))
    assert len(data) < 2000
    with pytest.raises(TooManyPixelsError, match="60,000 x 60,000 = 3,600,000,000 pixels, the limit is") as caught:
        decoded(data, max_pixels=100_000_000)
    assert (caught.value.width, caught.value.height) == (hostile_files.HUGE, hostile_files.HUGE)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "MPO"])
def test_the_pixel_limit_is_exact(name: str) -> None:
    data = encoded_as(Image.new("RGB", (64, 32)), name)
    assert decoded(data, max_pixels=64 * 32).width == 64
    with pytest.raises(TooManyPixelsError, match="64 x 32 = 2,048 pixels, the limit is 2,047"):
        decoded(data, max_pixels=64 * 32 - 1)


def test_lossless_webp_headers_are_read() -> None:
    data = encoded(Image.new("RGB", (64, 32)), "WEBP", lossless=True)
    with pytest.raises(TooManyPixelsError, match="64 x 32"):
        decoded(data, max_pixels=100)


def test_pillows_own_limit_does_not_override_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("PNG", "WEBP", "GIF", "TIFF"):
        assert decoded(encoded(Image.new("RGB", (64, 32)), name)).height == 32


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "MPO"])
def test_every_truncation_is_an_error_or_an_image(name: str) -> None:
    whole = encoded_as(hostile_files.drawn(random.Random(2)), name)
    cuts = 5 if name in ("HEIC", "JPEG XL", "RAW") else 60  # damaged ones are given to a helper
    for length in range(1, len(whole), max(1, len(whole) // cuts)):
        try:
            assert decoded(whole[:length]).pixels.mode == "RGB"
        except (DamagedImageError, NotAnImageError):
            continue


def test_the_error_for_an_image_cut_in_half_says_that_it_ends_early() -> None:
    for name in ("JPEG", "PNG", "BMP"):
        whole = encoded(hostile_files.drawn(random.Random(2)), name)
        with pytest.raises(DamagedImageError, match=rf"the image data ends early \({name}: "):
            decoded(whole[: len(whole) // 2])


_HEALTHY = [make(random.Random(3)) for kind, make in sorted(hostile_files.HEALTHY.items()) if "thread" not in kind]


@settings(max_examples=100, deadline=None)
@given(
    whole=st.sampled_from(_HEALTHY),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20),
    end=st.floats(0, 1),
)
def test_mutated_images_raise_only_our_errors(whole: bytes, changes: list[tuple[float, int]], end: float) -> None:
    data = bytearray(whole)
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        result = decoded(bytes(data[: max(1, int(end * len(data)))]))
    except ImageError:
        return
    assert result.pixels.mode == "RGB"
    assert result.width * result.height <= MAX_PIXELS


@settings(max_examples=30, deadline=None)
@given(prefix=st.sampled_from([whole[:40] for whole in _HEALTHY]), tail=st.binary(max_size=300))
def test_noise_after_real_headers_raises_only_our_errors(prefix: bytes, tail: bytes) -> None:
    try:
        decoded(prefix + tail)
    except ImageError:
        return


def test_damage_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    entries = hostile_files.tiff_entries(20, 10, compression=8)
    samples = [(tag, kind, count, 40_000 if tag == 277 else value) for tag, kind, count, value in entries]
    with pytest.raises(DamagedImageError):
        decoded(hostile_files.tiff(samples, data=bytes(400)))
    assert caplog.records == []


def test_threads_decode_in_parallel_without_warnings() -> None:
    """Where warnings are errors, Pillow's own must neither fail an image nor reach the outside, in any thread."""
    palette = hostile_files.HEALTHY["ok png palette transparency"](random.Random(1))
    broken = hostile_files.HEALTHY["ok jpeg broken exif offsets"](random.Random(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(decoded, [palette, broken] * 40))
    assert {result.sha256 for result in results[::2]} == {hashlib.sha256(palette).digest()}
    assert {result.width for result in results[1::2]} == {hostile_files.SIZE[1]}


def test_the_mean_colour_is_that_of_the_whole_image() -> None:
    image = Image.new("RGB", (300, 200), (200, 100, 40))
    assert decoded(encoded(image, "PNG")).colour == "#c86428"
    image.paste((0, 0, 0), (0, 0, 150, 200))
    assert decoded(encoded(image, "PNG")).colour == "#643214"
    assert decoded(encoded(Image.new("L", (1, 1), 255), "PNG")).colour == "#ffffff"
