"""Every file of a folder as people have it ends as an image, a part of one, a sidecar, left out, or a named failure."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images
from tests.helpers import photo_files, videos
from tests.helpers.cli import run
from tests.helpers.hostile_files import png
from tests.helpers.sidecars import takeout, xmp

Make = Callable[[], bytes]
IMAGE, PART, SIDECAR, LEFT_OUT = "image", "part", "sidecar", "left out"
"""What becomes of a file; the name of an error is the fifth possibility."""


def drawn(kind: str, colour: str = "teal", size: tuple[int, int] = (64, 48)) -> Make:
    def make() -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, colour).save(file, kind)
        return file.getvalue()

    return make


def cut(make: Make) -> Make:
    return lambda: make()[: len(make()) // 2]


def text(content: str) -> Make:
    return content.encode


def photo(kind: str, colour: str = "teal", tail: bytes = b"") -> Make:
    """A photo of a phone or camera, with what follows it in the file."""
    return lambda: photo_files.encoded_as(Image.new("RGB", (96, 64), colour), kind) + tail


def raw(make: Callable[..., bytes], *arguments: object) -> Make:
    """A RAW file, with a preview of the size of the photograph."""
    return lambda: make(Image.new("RGB", (640, 480), "gray"), *arguments)


def thumbnail_only() -> bytes:
    """A TIFF like a DNG, whose full image cannot be read."""
    full = photo_files.pixels_directory(
        Image.new("RGB", (640, 480)), photo_files.FULL | {photo_files.COMPRESSION: (photo_files.SHORT, [34712])}
    )
    return photo_files.tiff_of(
        photo_files.pixels_directory(Image.new("RGB", (160, 120)), photo_files.REDUCED, nested=[full])
    )


def video(name: str, share: float = 1.0) -> Make:
    """A video with two scenes, cut to a share of its bytes."""

    def make() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = videos.draw_video(Path(folder) / name, [((250, 20, 20), 1.0), ((20, 20, 250), 1.0)])
            return videos.cut(path, share).read_bytes()

    return make


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("a.jpg", drawn("JPEG")())
    return file.getvalue()


MOTION = photo_files.box(b"ftyp", b"mp42\0\0\0\0mp42") + photo_files.box(b"mdat", bytes(5000))

XMP_FILE = text(xmp(rating=5, text="A lake"))
TAKEOUT = text(takeout(text="Written by Google"))
FILES: list[tuple[str, Make, str]] = [
    # images
    ("a.jpg", drawn("JPEG"), IMAGE),
    ("b.png", drawn("PNG", "navy"), IMAGE),
    ("c.webp", drawn("WEBP", "olive"), IMAGE),
    ("d.tif", drawn("TIFF", "maroon"), IMAGE),
    ("no suffix", drawn("GIF", "purple"), IMAGE),
    ("lone.dng", drawn("TIFF", "gray"), IMAGE),  # a RAW file as far as Pillow is concerned
    ("mpo.jpg", drawn("MPO", "pink"), IMAGE),
    ("deep.png", lambda: png(9, 9, data=bytes(9 * 19), depth=16, colour=0), IMAGE),
    ("photo.heic", photo("HEIC"), IMAGE),
    ("burst.heif", lambda: photo_files.heic(Image.new("RGB", (64, 64)), frames=[Image.new("RGB", (64, 64))]), IMAGE),
    ("grid.HEIC", lambda: photo_files.grid_heic(Image.new("RGB", (64, 64)), 2, 2), IMAGE),
    ("photo.jxl", photo("JPEG XL"), IMAGE),
    ("photo.avif", drawn("AVIF"), IMAGE),
    ("motion.MP.jpg", photo("JPEG", "tan", MOTION), IMAGE),
    ("motion.heic", photo("HEIC", "tan", photo_files.box(b"mpvd", MOTION)), IMAGE),
    ("camera.dng", lambda: photo_files.dng(Image.new("RGB", (640, 480)), preview=Image.new("RGB", (640, 480))), IMAGE),
    ("camera.cr2", raw(photo_files.cr2), IMAGE),
    ("camera.CR3", raw(photo_files.cr3, (640, 480)), IMAGE),
    ("camera.raf", raw(photo_files.raf, (640, 480)), IMAGE),
    # videos
    ("clip.mp4", video("clip.mp4"), IMAGE),
    ("clip.MOV", video("clip.mov"), IMAGE),
    ("clip.mkv", video("clip.mkv"), IMAGE),
    ("clip.webm", video("clip.webm"), IMAGE),
    ("clip.avi", video("clip.avi"), IMAGE),
    ("film", video("film.mp4"), IMAGE),
    # sidecars
    ("clip.mp4.xmp", XMP_FILE, SIDECAR),
    ("clip.mkv.json", TAKEOUT, SIDECAR),
    ("camera.cr2.xmp", XMP_FILE, SIDECAR),
    ("a.xmp", XMP_FILE, SIDECAR),
    ("b.png.XMP", XMP_FILE, SIDECAR),
    ("c.xmp", text("<x:xmpmeta"), SIDECAR),  # damaged
    ("lone.dng.xmp", XMP_FILE, SIDECAR),
    # RAW files beside JPEGs
    ("raw/IMG_1.JPG", drawn("JPEG", "red"), IMAGE),
    ("raw/IMG_1.NEF", drawn("TIFF", "red"), PART),
    ("raw/IMG_1.NEF.xmp", XMP_FILE, SIDECAR),
    # Live Photos
    ("phone/IMG_2.JPG", drawn("JPEG", "green"), IMAGE),
    ("phone/IMG_2.MOV", text("no video"), PART),
    ("phone/IMG_4.HEIC", photo("HEIC", "green"), IMAGE),
    ("phone/IMG_4.mov", video("IMG_4.mov"), PART),
    ("phone/IMG_4.xmp", XMP_FILE, SIDECAR),
    ("phone/IMG_E4.HEIC", photo("HEIC", "red"), IMAGE),  # the edited one
    ("phone/IMG_O4.AAE", text("<plist/>"), LEFT_OUT),
    ("raw/IMG_5.HEIC", photo("HEIC", "red"), IMAGE),
    ("raw/IMG_5.dng", raw(photo_files.cr2), PART),
    ("phone/IMG_2.AAE", text("<plist/>"), LEFT_OUT),
    # Google Takeout
    ("takeout/x.jpg", drawn("JPEG", "blue"), IMAGE),
    ("takeout/x.jpg.supplemental-me.json", TAKEOUT, SIDECAR),
    ("takeout/x(1).jpg", drawn("JPEG", "white"), IMAGE),
    ("takeout/x.jpg(1).json", TAKEOUT, SIDECAR),
    ("takeout/x-edited.jpg", drawn("JPEG", "black"), IMAGE),
    ("takeout/metadata.json", text("{}"), LEFT_OUT),
    ("takeout/gone.jpg.json", TAKEOUT, LEFT_OUT),
    # left out
    ("gone.xmp", XMP_FILE, LEFT_OUT),
    ("Thumbs.db", text("thumbnails"), LEFT_OUT),
    ("MVI_3.THM", drawn("JPEG"), LEFT_OUT),
    # failures
    ("notes.txt", text("to do"), "NotAnImageError"),
    ("list.json", text('{"a": 1}'), "NotAnImageError"),
    ("empty.jpg", text(""), "EmptyFileError"),
    ("nothing.mp4", text(""), "EmptyFileError"),
    ("letter.heic", text("to do"), "NotAnImageError"),
    ("words.mp4", text("to do"), "NotAnImageError"),
    ("sound.m4a", lambda: photo_files.box(b"ftyp", b"M4A \0\0\0\0M4A mp42isom"), "DamagedVideoError"),
    ("album.zip", archive, "NotAnImageError"),
    ("album.tar.gz", lambda: gzip.compress(bytes(2000)), "NotAnImageError"),
    ("torn.heic", cut(photo("HEIC")), "DamagedImageError"),
    ("torn.jxl", cut(photo("JPEG XL")), "DamagedImageError"),
    ("torn.png", cut(drawn("PNG")), "DamagedImageError"),
    ("broken.dng", lambda: photo_files.dng(Image.new("RGB", (640, 480)), preview=None)[:2000], "DamagedImageError"),
    ("thumbnail.dng", thumbnail_only, "OnlyPreviewError"),
    ("half.mp4", video("half.mp4", 0.5), "DamagedVideoError"),
    ("cut.jpg", cut(drawn("JPEG", size=(900, 600))), "DamagedImageError"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "camera roll"
    for name, make, _ in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())
    (folder / "broken link.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    return folder


def test_every_file_is_accounted_for(collection: SearchDB, settings: Settings, folder: Path) -> None:
    expected = Counter(outcome for *_, outcome in FILES) + Counter(["FileUnreadableError"] * 2)
    result = run(settings, "ingest", "files", folder, "--json")
    report = json.loads(result.stdout)
    beside = f"{expected[SIDECAR]} sidecars, {expected[PART]} RAW files and videos"
    assert f"files that belong to an image beside them: {beside}" in result.stderr
    assert "left out: clutter, sidecars without an image, or excluded by patterns" in result.stderr
    every = [each for each in folder.rglob("*") if not each.is_dir()]
    assert report["done"] + report["parts"] + report["sidecars"] + report["excluded"] == len(every)
    failed = {failure.image: failure.error for failure in collection.store.failures()}
    with collection.database.connect() as connection:
        rows = connection.execute(sa.select(images)).mappings().all()
        stored = {row["video"] or row["image"]: row for row in rows}  # the frames of a video are of one file
    for name, _, outcome in FILES:
        path = str(folder / name)
        assert (path in stored, failed.get(path)) == (
            outcome == IMAGE, None if outcome in (IMAGE, PART, SIDECAR, LEFT_OUT) else outcome,
        ), name  # fmt: skip
    assert Counter(report["failed"]) + Counter({
        IMAGE: report["stored"], PART: report["parts"], SIDECAR: report["sidecars"], LEFT_OUT: report["excluded"],
    }) == expected  # fmt: skip
    described = {Path(path).name: (row["description"], row["rating"]) for path, row in stored.items()}
    for name in ("a.jpg", "b.png", "IMG_1.JPG", "IMG_4.HEIC", "clip.mp4", "camera.cr2"):
        assert described[name] == ("A lake", 5), name
    for name in ("x.jpg", "x(1).jpg", "x-edited.jpg", "clip.mkv"):
        assert described[name] == ("Written by Google", None), name
    again = collection.ingest_files(folder)
    assert (again.stored, again.unchanged, again.sidecars, again.parts, again.excluded) == (
        0, report["stored"], report["sidecars"], report["parts"], report["excluded"],
    )  # fmt: skip
