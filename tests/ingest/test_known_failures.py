"""Failures whose cause is gone are tried again without being asked; others are reported as known."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.errors import (
    AddressRefusedError,
    DamagedImageError,
    DecoderLostError,
    ExtraMissingError,
    HTTPStatusError,
    ImageError,
    NotAnImageError,
    TooManyBytesError,
    TooManyPixelsError,
    TooMuchMemoryError,
)
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.report import IngestReport
from searchdb.media.formats import format_of
from tests.helpers.image_server import ImageServer


def limits(
    *, private: bool = False, max_bytes: int = 1000, max_pixels: int = 1000, decode_memory: int = 1000
) -> Limits:
    return Limits(
        allow_private_addresses=private, max_bytes=max_bytes, max_pixels=max_pixels, decode_memory=decode_memory
    )


def not_an_image() -> NotAnImageError:
    with pytest.raises(NotAnImageError) as caught:
        format_of(b"%PDF-")
    return caught.value


@pytest.mark.parametrize(
    ("error", "in_use", "lifted"),
    [
        (NotAnImageError("the content looks like HEIC; searchdb reads JPEG and AVIF"), limits(), True),
        (ExtraMissingError("JPEG XL", "jxl"), limits(), True),
        (ExtraMissingError("a format", "unknown"), limits(), False),
        (AddressRefusedError("h is at 10.0.0.1"), limits(), False),
        (AddressRefusedError("h is at 10.0.0.1"), limits(private=True), True),
        (TooManyBytesError(1000, 2345), limits(), False),
        (TooManyBytesError(1000, 2345), limits(max_bytes=2344), False),
        (TooManyBytesError(1000, 2345), limits(max_bytes=2345), True),
        (TooManyBytesError(1000), limits(), False),
        (TooManyBytesError(1_000_000), limits(max_bytes=999_999), False),
        (TooManyBytesError(1_000_000), limits(max_bytes=1_000_001), True),
        (TooManyPixelsError(40, 50, 1000), limits(), False),
        (TooManyPixelsError(40, 50, 1000), limits(max_pixels=1999), False),
        (TooManyPixelsError(40, 50, 1000), limits(max_pixels=2000), True),
        (TooMuchMemoryError("WEBP", 40, 50, size=2000, limit=1000), limits(decode_memory=1999), False),
        (TooMuchMemoryError("WEBP", 40, 50, size=2000, limit=1000), limits(decode_memory=2000), True),
        (DecoderLostError("the process was killed"), limits(), True),
        (not_an_image(), limits(), False),
        (NotAnImageError("the content looks like HEIC; searchdb reads JPEG and GIF"), limits(), True),
        (NotAnImageError("the content is of another kind"), limits(), False),
        (DamagedImageError("the limit is 5"), limits(private=True), False),
        (HTTPStatusError(404, "Not Found"), limits(private=True), False),
    ],
)
def test_a_failure_is_lifted_by_the_limit_that_caused_it(error: ImageError, in_use: Limits, lifted: bool) -> None:
    assert in_use.lift(type(error).__name__, str(error)) is lifted


@pytest.mark.parametrize(
    "error", ["AddressRefusedError", "TooManyBytesError", "TooManyPixelsError", "TooMuchMemoryError", "NotAnImageError"]
)
def test_a_message_of_another_version_lifts_nothing(error: str) -> None:
    assert limits(private=False).lift(error, "something else") is False


def counted(report: IngestReport) -> tuple[int, int, int]:
    return report.stored, report.failed.total(), report.known_failures


def direct(settings: Settings, given: Path) -> IngestReport:
    with SearchDB(settings) as collection:
        return collection.ingest_urls(str(given)) if given.suffix == ".txt" else collection.ingest_files(given)


def through_the_queue(settings: Settings, given: Path) -> IngestReport:
    """Queue it, and let a worker do the work."""
    with SearchDB(settings) as collection:
        if given.suffix == ".txt":
            queued = collection.ingest_urls(str(given), enqueue_only=True)
        else:
            queued = collection.ingest_files(given, enqueue_only=True)
        report = collection.work(drain=True)
        report.known_failures = queued.known_failures
        return report


@pytest.mark.parametrize("ingest", [direct, through_the_queue])
def test_failures_are_tried_again_once_the_settings_allow_them(
    settings: Settings, tmp_path: Path, ingest: Callable[[Settings, Path], IngestReport]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30), "teal").save(folder / "many-pixels.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(10))
    noise = io.BytesIO()
    Image.effect_noise((30, 30), 90).save(noise, "PNG")
    (folder / "many-bytes.png").write_bytes(noise.getvalue())
    strict = settings.model_copy(update={"max_image_pixels": 1000, "max_image_bytes": 500})
    assert counted(ingest(strict, folder)) == (0, 3, 0)
    assert counted(ingest(strict, folder)) == (0, 0, 3)
    assert counted(ingest(strict.model_copy(update={"max_image_pixels": 1200}), folder)) == (1, 0, 2)
    assert counted(ingest(settings, folder)) == (1, 0, 1)


@pytest.mark.parametrize("ingest", [direct, through_the_queue])
def test_private_addresses_are_tried_again_once_they_are_allowed(
    settings: Settings, tmp_path: Path, ingest: Callable[[Settings, Path], IngestReport]
) -> None:
    with ImageServer() as server:
        listed = tmp_path / "list.txt"
        listed.write_text(f"{server.url('/ok.jpg')}\n{server.url('/404')}\n")
        closed = settings.model_copy(update={"allow_private_addresses": False})
        assert counted(ingest(closed, listed)) == (0, 2, 0)
        assert counted(ingest(closed, listed)) == (0, 0, 2)
        assert counted(ingest(settings, listed)) == (1, 1, 0)
        asked = sum(server.requests.values())
        assert counted(ingest(settings, listed)) == (0, 0, 1)
        assert sum(server.requests.values()) == asked


def test_a_file_that_can_be_read_again_is_tried_again(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30), "teal").save(folder / "a.png")
    with SearchDB(settings) as collection:
        collection.ingest_files(folder, enqueue_only=True)
        folder.rename(tmp_path / "away")
        assert collection.work(drain=True).failed == {"FileUnreadableError": 1}
        (tmp_path / "away").rename(folder)
        assert counted(collection.ingest_files(folder)) == (1, 0, 0)


def test_a_malformed_row_is_known_while_it_is_malformed_in_the_same_way(collection: SearchDB, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text('url,city\nhttp://h/a.jpg,"oops\n')
    assert counted(collection.ingest_urls(str(listed))) == (0, 1, 0)
    assert counted(collection.ingest_urls(str(listed))) == (0, 0, 1)
    listed.write_text("url,city\nhttp://h/w_1,h_2/a.jpg,Rome\n")
    assert counted(collection.ingest_urls(str(listed))) == (0, 1, 0)
    (failure,) = collection.store.failures()
    assert "3 fields, the header has 2" in failure.message
