"""Images that are made to cost time: refused by their structure, or decoded by a process with a budget."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from searchdb.client import SearchDB
from searchdb.errors import (
    DamagedImageError,
    DecodeInterruptedError,
    DecoderBusyError,
    DecoderLostError,
    DecodeTooCostlyError,
    ImageError,
    SearchDBError,
)
from searchdb.media import decode as decoding
from searchdb.media.decode import decode
from searchdb.media.formats import format_of
from searchdb.media.helper import Task, helper_turn, load_in_helper
from searchdb.media.inspection import inspect
from searchdb.media.memory import MemoryBudget
from searchdb.media.sandbox import helper_environment
from searchdb.records import DecodedImage, FetchedImage, SourceItem
from tests.helpers import hostile_files, photo_files
from tests.helpers.helper_processes import helpers_of
from tests.helpers.hostile_files import drawn, encoded, exif_bytes, png, png_chunk, scan_bomb, tiff, tiff_entries
from tests.helpers.waiting import until

MAX_PIXELS = 100_000_000
ITEM = SourceItem(image="/images/a", source="test")


def decoded(data: bytes, *, needed: int | None = None) -> DecodedImage:
    return decode(FetchedImage(item=ITEM, data=data), max_pixels=MAX_PIXELS, needed=needed)


def task(name: str, *, memory_bytes: int = 10**9) -> Task:
    return Task(name=name, max_pixels=MAX_PIXELS, needed=None, memory_bytes=memory_bytes)


def jpeg_with(*segments: tuple[int, bytes]) -> bytes:
    whole = encoded(drawn(random.Random(1)), "JPEG")
    return whole[:2] + b"".join(_segment(*each) for each in segments) + whole[2:]


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def claimed(jpeg: bytes, side: int) -> bytes:
    """A progressive JPEG whose header claims these sides."""
    at = jpeg.index(b"\xff\xc2") + 5
    return jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :]


@cache
def costly(kind: str) -> bytes:
    return COSTLY[kind][0]()


def png_with(*chunks: bytes) -> bytes:
    return png(1, 1, *chunks, data=bytes(4))


def gif_with(blocks: bytes) -> bytes:
    whole = encoded(drawn(random.Random(1), "P"), "GIF")
    start = 13 + (3 << ((whole[10] & 7) + 1))
    return whole[:start] + blocks + whole[start:]


def webp_with(chunks: bytes) -> bytes:
    frame = encoded(drawn(random.Random(1)), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\x3b\0\0\x27\0\0" + frame + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def run_length_bmp(side: int) -> bytes:
    """A BMP of 256 colours whose lines end at once."""
    data = b"\1\1\0\0" * side
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + header + data


def tiff_with(tag: int, kind: int, count: int, value: bytes) -> bytes:
    entries = [each for each in tiff_entries(20, 10) if each[0] != tag]
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    return tiff(sorted([*entries, (tag, kind, count, start)]), data=value)


def tiff_with_exif(count: int) -> bytes:
    entries = tiff_entries(20, 10)
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    inside = struct.pack("<HHHII", 1, 0x9999, 5, count, start + 18) + bytes(4) + struct.pack("<II", 3, 7) * count
    return tiff(sorted([*entries, (0x8769, 4, 1, start)]), data=inside)


def with_items(whole: bytes, count: int) -> bytes:
    """An AVIF or HEIC with more items."""
    at = whole.index(b"iinf") - 4
    size = int.from_bytes(whole[at : at + 4])
    more = b"".join(struct.pack(">I4sIHH5s", 21, b"infe", 2 << 24, number + 9, 0, b"mime\0") for number in range(count))
    table = struct.pack(">I4sIH", size + len(more), b"iinf", 0, count + 1) + whole[at + 14 : at + size] + more
    meta = whole.index(b"meta") - 4
    longer = struct.pack(">I", int.from_bytes(whole[meta : meta + 4]) + len(more))
    return whole[:meta] + longer + whole[meta + 4 : at] + table + whole[at + size :]


def tiff_with_overlapping_fields(count: int) -> bytes:
    """A TIFF whose private fields all have the same values."""
    entries = [*tiff_entries(20, 10), *((40_000 + number, 1, 20_000, 8) for number in range(count))]
    return tiff(sorted(entries), data=bytes(20_000))


SMALL = drawn(random.Random(1))
MEGABYTE = zlib.compress(bytes(1024 * 1024), 9)
COSTLY: dict[str, tuple[Callable[[], bytes], str]] = {
    "jpeg scans": (scan_bomb, "the JPEG has more than 200 scans, which is the limit for 400 x 400 pixels"),
    "jpeg scans, large": (
        lambda: claimed(scan_bomb(400, 60), 8000),
        "more than 46 scans, which is the limit for 8,000 x 8,000",
    ),
    "jpeg segments": (lambda: jpeg_with(*[(0xFE, b"")] * 3000), "the JPEG has more than 2,048 segments"),
    "jpeg exif": (lambda: jpeg_with(*[(0xE1, b"Exif\0\0" + bytes(60_000))] * 20), "1,048,576 bytes of EXIF"),
    "jpeg tables": (lambda: jpeg_with(*[(0xDB, (b"\0" + bytes(64)) * 900)] * 2), "65,536 bytes of tables"),
    "jpeg resources": (lambda: jpeg_with(*[(0xED, b"Photoshop 3.0\0" + b"8BIM" * 15_000)] * 5), "Photoshop resources"),
    "jpeg stray": (lambda: jpeg_with((0xE1, b"")).replace(b"\xff\xe1\0\2", b"\xff\xe1\0\2" + bytes(70_000)), "between"),
    "png chunks": (lambda: png_with(png_chunk(b"prVt", b"") * 70_000), "the PNG has more than 65,536 chunks"),
    "png profiles": (lambda: png_with(png_chunk(b"iCCP", b"x\0\0" + MEGABYTE) * 300), "compressed texts and profiles"),
    "png exif": (lambda: png_with(png_chunk(b"eXIf", bytes(2**20 + 1))), "1,048,576 bytes of EXIF"),
    "png raw exif": (lambda: png_with(png_chunk(b"tEXt", b"Raw profile type exif\0" + b"0" * 2**21)), "digits of EXIF"),
    "gif blocks": (lambda: gif_with(b"!\xfe" + b"\1a" * 70_000 + b"\0"), "the GIF has more than 65,536 blocks"),
    "gif extensions": (lambda: gif_with(b"!\xfe\0" * 70_000), "the GIF has more than 65,536 blocks"),
    "webp chunks": (lambda: webp_with(b"abcd\0\0\0\0" * 70_000), "the WebP has more than 65,536 chunks"),
    "webp exif": (lambda: webp_with(b"EXIF" + struct.pack("<I", 2**20 + 2) + bytes(2**20 + 2)), "bytes of EXIF"),
    "bmp run lengths": (lambda: run_length_bmp(5000), "the BMP has more than 20,000,000 run-length encoded pixels"),
    "tiff strips": (lambda: tiff_with(273, 4, 250_000, bytes(1_000_000)), "more than 200,000 strips or tiles"),
    "tiff numbers": (lambda: tiff_with(258, 3, 250_000, b"\x08\0" * 250_000), "200,000 numbers in the field 258"),
    "tiff fractions": (lambda: tiff_with(282, 5, 30_000, b"\1\0\0\0" * 60_000), "20,000 fractions in the field 282"),
    "tiff exif": (lambda: tiff_with_exif(60_000), "50,000 numbers in its EXIF"),
    "tiff fields": (lambda: tiff_with_overlapping_fields(400), "bytes in the fields of a directory"),
    "tiff exif of a sub-image": (
        lambda: photo_files.tiff_of(
            photo_files.pixels_directory(SMALL, photo_files.REDUCED),
            photo_files.pixels_directory(SMALL, exif={0x9999: (photo_files.SHORT, [1] * 60_000)}),
        ),
        "50,000 numbers in its EXIF",
    ),
    "avif items": (
        lambda: with_items(encoded(SMALL, "AVIF", speed=10), 6000),
        "the AVIF has more than 100,000 bytes of tables of items",
    ),
    "heic items": (
        lambda: with_items(photo_files.heic(SMALL), 6000),
        "the HEIC has more than 100,000 bytes of tables of items",
    ),
    "heic boxes": (lambda: photo_files.heic(SMALL) + photo_files.box(b"free", b"") * 5000, "4,096 boxes beside"),
    "heic exif": (lambda: photo_files.heic(SMALL, exif=b"Exif\0\0MM\0*" + bytes(2**20)), "1,048,576 bytes of EXIF"),
    "heic movie": (
        lambda: photo_files.heic(SMALL) + photo_files.box(b"moov", bytes(300_000)),
        "bytes of tables of frames",
    ),
    "jpeg xl exif": (
        lambda: photo_files.jpeg_xl(SMALL, use_container=True) + photo_files.box(b"Exif", bytes(2**20 + 1)),
        "1,048,576 bytes of EXIF",
    ),
    "raw exif": (
        lambda: photo_files.tiff_of(
            photo_files.jpeg_directory(
                SMALL, {50706: (photo_files.BYTE, [1, 4, 0, 0])}, exif={0x9999: (photo_files.SHORT, [1] * 60_000)}
            )
        ),
        "the RAW has more than 50,000 numbers in its EXIF",
    ),
    "raw preview": (
        lambda: photo_files.tiff_of(
            photo_files.Directory(
                fields={
                    **photo_files.jpeg_directory(SMALL).fields,
                    50706: (photo_files.BYTE, [1, 4, 0, 0]),
                    photo_files.WIDTH: (photo_files.LONG, [400]),
                    photo_files.HEIGHT: (photo_files.LONG, [400]),
                },
                strip=scan_bomb(),
            )
        ),
        "the JPEG has more than 200 scans",
    ),
}
"""Small files of each kind that would cost seconds to hours at the size that is allowed, and their errors."""


@pytest.mark.parametrize("kind", COSTLY)
def test_costly_structures_are_refused_before_decoding(kind: str) -> None:
    with pytest.raises(DecodeTooCostlyError) as caught:
        decoded(costly(kind))
    assert COSTLY[kind][1] in str(caught.value)
    assert str(caught.value).isprintable()
    assert not caught.value.retryable


def without_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise AssertionError("an ordinary image was given to a helper")

    monkeypatch.setattr(decoding, "load_in_helper", fail)


@pytest.mark.parametrize("kind", sorted(hostile_files.HEALTHY))
def test_ordinary_images_are_decoded_in_process_and_unchanged_by_a_helper(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = hostile_files.HEALTHY[kind](random.Random(5))
    found = inspect(format_of(data), data)
    if kind == "ok jpeg xl":
        assert not found.is_opened_here
        return
    without_helper(monkeypatch)
    result = decoded(data)
    assert not found.is_costly
    if not {"exif", "orientation", "heic", "raf", "cr3"} & set(
        kind.split()
    ):  # cropped, turned or of larger photographs
        assert (found.width, found.height) == (result.width, result.height)


@pytest.mark.parametrize(
    "image",
    [
        encoded(Image.effect_noise((1600, 1200), 90).convert("RGB"), "JPEG", quality=95, progressive=True),
        encoded(Image.effect_noise((400, 300), 90).convert("RGB"), "TIFF", compression="tiff_lzw"),
        encoded(drawn(random.Random(1)), "JPEG") + b"\xff\xda" * 1000,  # after its end, as in an attached video
        encoded(drawn(random.Random(1)), "MPO", save_all=True, append_images=[drawn(random.Random(2))] * 40),
        jpeg_with(*[(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000))] * 255),
    ],
    ids=["progressive", "strips", "tail", "mpo", "profile"],
)
def test_unusual_but_honest_images_are_not_costly(image: bytes) -> None:
    assert not inspect(format_of(image), image).is_costly
    assert decoded(image).pixels.mode == "RGB"


def test_a_helper_returns_what_this_process_would(monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"tags": {0x010E: "A boat", 0x9C9E: "sea;summer".encode("utf-16-le"), 0x4746: 4}}
    exif = exif_bytes(orientation=6, **words)
    image = encoded(drawn(random.Random(4), size=(1600, 1200)), "JPEG", exif=exif, quality=90)
    here = decoded(image, needed=100)
    monkeypatch.setattr("searchdb.media.inspection.record.COSTLY_S", -1.0)
    there = decoded(image, needed=100)
    assert np.array_equal(np.asarray(here.pixels), np.asarray(there.pixels))
    for name in ("width", "height", "written", "colour", "sha256"):
        assert getattr(here, name) == getattr(there, name)
    assert (here.written.description, here.written.keywords, here.written.rating) == ("A boat", ("sea", "summer"), 4)
    with pytest.raises(DamagedImageError, match="ends early"):
        decoded(image[: len(image) // 2], needed=100)


@pytest.mark.slow
def test_a_decode_ends_when_its_processor_time_is_used_up() -> None:
    with pytest.raises(DecodeTooCostlyError, match="the JPEG takes more than 1 seconds of processor time, which is"):
        load_in_helper(task("JPEG"), scan_bomb(4000, 2000), cpu_s=1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decode_ends_when_its_memory_is_used_up(kind: str) -> None:
    data = encoded(Image.new("RGB", (4000, 3000)), kind, progressive=True)
    with pytest.raises(DecodeTooCostlyError, match="more than 20,000,000 bytes of memory"):
        load_in_helper(task(kind, memory_bytes=20_000_000), data)


def started_decoding(errors: list[SearchDBError], cancel: threading.Event) -> threading.Thread:
    def run() -> None:
        try:
            load_in_helper(task("JPEG"), scan_bomb(4000, 9000), cancel=cancel)
        except SearchDBError as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: helpers_of(os.getpid()), "the helper")
    return thread


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the helper in /proc")
def test_a_killed_helper_is_a_failure_of_its_image() -> None:
    errors: list[SearchDBError] = []
    thread = started_decoding(errors, threading.Event())
    os.kill(helpers_of(os.getpid())[0], signal.SIGKILL)
    thread.join()
    assert isinstance(errors[0], DecoderLostError)
    assert errors[0].retryable
    assert "was killed" in str(errors[0])


def test_a_helper_that_cannot_run_blames_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DecoderLostError, match="failed: see the log"):
        load_in_helper(task("PNG"), bytes(1_000_000))
    monkeypatch.setattr(sys, "executable", "/missing")
    with pytest.raises(DecoderLostError, match="no process can be started now"):
        load_in_helper(task("PNG"), b"")


PARENT = """
from searchdb.media.helper import Task, load_in_helper
from tests.helpers.hostile_files import scan_bomb
load_in_helper(Task(name="JPEG", max_pixels=10**8, needed=None, memory_bytes=10**9), scan_bomb(4000, 9000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit of time ends it")
def test_a_helper_ends_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=Path(__file__).parents[2]) as parent:
        until(lambda: helpers_of(parent.pid), "the helper")
        (child,) = helpers_of(parent.pid)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        until(lambda: not alive(child), "its end")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_costly_images_wait_for_each_other_but_visitors_do_not() -> None:
    data = claimed(scan_bomb(400, 20), 8000)
    assert inspect("JPEG", data).is_costly
    fetched = FetchedImage(item=ITEM, data=data)
    budget = MemoryBudget(10**9)
    stop = threading.Event()
    with helper_turn(wait_s=None), helper_turn(wait_s=None):
        with pytest.raises(DecoderBusyError):
            decode(fetched, max_pixels=MAX_PIXELS, memory=budget, timeout_s=60)
        stop.set()
        with pytest.raises(DecodeInterruptedError):
            decode(fetched, max_pixels=MAX_PIXELS, memory=budget, cancel=stop)
    assert budget.used == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the helper in /proc")
def test_cancelling_ends_the_helper_and_blames_no_image() -> None:
    errors: list[SearchDBError] = []
    cancel = threading.Event()
    thread = started_decoding(errors, cancel)
    cancel.set()
    thread.join()
    assert isinstance(errors[0], DecodeInterruptedError)
    assert helpers_of(os.getpid()) == []


def test_a_helper_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHDB_API_TOKEN", "S3CRET")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:S3CRET@h/d")
    assert "S3CRET" not in str(helper_environment())


def test_truncated_and_mutated_costly_files_raise_only_our_errors() -> None:
    chance = random.Random(7)
    for kind in sorted(COSTLY):
        whole = costly(kind) if kind != "jpeg scans, large" else scan_bomb(64, 60)
        for _ in range(2):
            data = bytearray(whole[: chance.randrange(1, min(len(whole), 5000))])
            for _ in range(chance.randrange(8)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            with suppress(ImageError):
                decoded(bytes(data))


@pytest.mark.slow
def test_ingest_goes_on_beside_costly_images(collection: SearchDB, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bomb.jpg").write_bytes(scan_bomb())
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(drawn(random.Random(number)), "PNG"))
    report = collection.ingest_files(folder)
    assert (report.stored, dict(report.failed)) == (3, {"DecodeTooCostlyError": 1})
    (failure,) = collection.store.failures()
    assert failure.message.startswith("the JPEG has more than 200 scans")
    assert not failure.retryable
