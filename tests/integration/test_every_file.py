"""Every file of a folder as people have it ends as an image, a part of one, a sidecar, left out, or a named failure."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images
from tests.helpers.cli import run
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
    return lambda: make()[:-200]


def text(content: str) -> Make:
    return content.encode


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
    # sidecars
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


def test_every_file_is_accounted_for(collection: SearchDB, folder: Path) -> None:
    expected = Counter(outcome for *_, outcome in FILES) + Counter(["FileUnreadableError"] * 2)
    report = collection.ingest_files(folder)
    assert Counter(report.failed) + Counter({
        IMAGE: report.stored, PART: report.parts, SIDECAR: report.sidecars, LEFT_OUT: report.excluded,
    }) == expected  # fmt: skip
    every = [each for each in folder.rglob("*") if not each.is_dir()]
    assert report.done + sum(filter(None, (report.parts, report.sidecars, report.excluded))) == len(every)
    failed = {failure.image: failure.error for failure in collection.store.failures()}
    with collection.database.connect() as connection:
        stored = {row["image"]: row for row in connection.execute(sa.select(images)).mappings()}
    for name, _, outcome in FILES:
        path = str(folder / name)
        assert (path in stored, failed.get(path)) == (
            outcome == IMAGE, None if outcome in (IMAGE, PART, SIDECAR, LEFT_OUT) else outcome,
        ), name  # fmt: skip
    described = {Path(path).name: (row["description"], row["rating"]) for path, row in stored.items()}
    assert described["a.jpg"] == described["b.png"] == described["IMG_1.JPG"] == ("A lake", 5)
    for name in ("x.jpg", "x(1).jpg", "x-edited.jpg"):
        assert described[name] == ("Written by Google", None), name
    again = collection.ingest_files(folder)
    assert (again.stored, again.unchanged, again.sidecars, again.parts, again.excluded) == (
        0, report.stored, report.sidecars, report.parts, report.excluded,
    )  # fmt: skip


def test_the_command_line_tells_all_of_them(settings: Settings, folder: Path) -> None:
    result = run(settings, "ingest", "files", str(folder), "--json")
    report = json.loads(result.stdout)
    outcomes = Counter(outcome for *_, outcome in FILES)
    assert (report["stored"], report["sidecars"], report["parts"], report["excluded"]) == (
        outcomes[IMAGE], outcomes[SIDECAR], outcomes[PART], outcomes[LEFT_OUT],
    )  # fmt: skip
    beside = f"{outcomes[SIDECAR]} sidecars and {outcomes[PART]} RAW files and videos"
    assert f"{beside} belong to images beside them" in result.stderr
    assert "left out: clutter, sidecars without an image, or excluded by patterns" in result.stderr
