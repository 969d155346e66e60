"""Folders of links and copies: named by rank, never overwriting, completed by another run."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from searchdb.client import SearchDB
from searchdb.db.tables import frame_previews
from searchdb.errors import ExportError, StorageError
from searchdb.export.names import file_name
from searchdb.media.fetch import Fetcher
from tests.helpers.full_disk import fill, small_disk
from tests.helpers.image_server import ImageServer, make_image
from tests.helpers.stored_images import StoredImages


@pytest.fixture
def image_server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208


def test_links_have_the_order_of_a_search(demo_collection: SearchDB, tmp_path: Path) -> None:
    hits = demo_collection.search("a boat", count=12)
    report = demo_collection.export_folder(tmp_path / "new" / "boats", "a boat", count=12)
    assert (report.exported, report.unchanged, report.failed) == (12, 0, [])
    links = sorted((tmp_path / "new" / "boats").iterdir())
    assert [str(link.readlink()) for link in links] == [hit.image for hit in hits]
    assert [link.name for link in links] == [f"{n:03} {Path(hit.image).name}" for n, hit in enumerate(hits, 1)]


def test_images_of_a_folder_are_selected(demo_collection: SearchDB, tmp_path: Path) -> None:
    [hit] = demo_collection.search("a boat", count=1)
    assert hit.folder
    assert demo_collection.export_folder(tmp_path / "x", folder=hit.folder, count=3).exported == 3
    assert demo_collection.export_folder(tmp_path / "y", "a boat", folder=["nowhere"]).exported == 0


@pytest.mark.parametrize("copy", [False, True])
def test_a_second_run_completes_the_first(
    collection: SearchDB, stored: StoredImages, tmp_path: Path, copy: bool
) -> None:
    for n in range(4):
        stored.add(f"image {n}")
    target = tmp_path / "target"
    assert collection.export_folder(target, copy=copy).exported == 4
    before = {path.name: path.lstat() for path in target.iterdir()}
    (target / "002 image-1.png").unlink()
    report = collection.export_folder(target, copy=copy)
    assert (report.exported, report.unchanged) == (1, 3)
    stored.add("image 4")
    assert collection.export_folder(target, copy=copy).unchanged == 4
    after = {path.name: path.lstat() for path in target.iterdir()}
    assert names(target) == [f"{n:03} image-{n - 1}.png" for n in range(1, 6)]
    for name in before.keys() - {"002 image-1.png"}:
        assert before[name] == after[name] or not copy
    for n, path in enumerate(sorted(target.iterdir())):
        original = stored.folder / f"image-{n}.png"
        assert path.is_symlink() != copy
        assert path.read_bytes() == original.read_bytes()
        assert path.stat().st_mtime_ns == original.stat().st_mtime_ns


@pytest.mark.parametrize("copy", [False, True])
def test_what_is_there_is_neither_overwritten_nor_followed(
    collection: SearchDB, stored: StoredImages, tmp_path: Path, copy: bool
) -> None:
    target, outside = tmp_path / "target", tmp_path / "outside"
    target.mkdir()
    for n in range(5):
        stored.add(f"image {n}")
    outside.write_text("precious")
    (target / "001 image-0.png").write_text("mine")
    (target / "002 image-1.png").symlink_to(outside)
    (target / "003 image-2.png").symlink_to(tmp_path / "dangling")
    (target / "004 image-3.png").mkdir()
    report = collection.export_folder(target, copy=copy)
    assert (report.exported, len(report.failed)) == (1, 4)
    assert {failure.error for failure in report.failed} == {"ExportError"}
    assert "another file '001 image-0.png'" in report.failed[0].message
    assert (target / "001 image-0.png").read_text() == "mine"
    assert outside.read_text() == "precious"
    assert not (tmp_path / "dangling").exists()
    assert names(target) == [f"{n:03} image-{n - 1}.png" for n in range(1, 6)]


@pytest.mark.parametrize("copy", [False, True])
def test_gone_and_odd_files_are_named_and_the_others_go_on(
    collection: SearchDB, stored: StoredImages, tmp_path: Path, copy: bool
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for image in ("/nowhere/gone.jpg", tmp_path / "pipe.jpg", tmp_path, "relative.jpg"):
        stored.add(None, image=image)
    stored.add("here")
    report = collection.export_folder(tmp_path / "target", copy=copy)
    assert report.exported == 1
    assert [(failure.image, failure.message) for failure in report.failed] == [
        ("/nowhere/gone.jpg", "the file cannot be read: No such file or directory"),
        (str(tmp_path / "pipe.jpg"), "the file is not a regular file"),
        (str(tmp_path), "the file is not a regular file"),
        ("relative.jpg", "it is neither a URL nor the full path of a file"),
    ]
    assert names(tmp_path / "target") == ["005 here.png"]


def test_images_at_urls_are_downloaded_only_for_copies(
    collection: SearchDB, stored: StoredImages, image_server: ImageServer, tmp_path: Path
) -> None:
    image_server.bodies["/my%20boat"] = make_image("PNG", seed=5)
    for path in ("/ok.jpg?seed=1", "/my%20boat", "/missing.jpg", "/not-an-image"):
        stored.add(None, image=image_server.url(path), rendition=image_server.url("/ok.jpg?seed=9"))
    image_server.bodies["/not-an-image"] = b"<html>no</html>"
    target = tmp_path / "target"
    report = collection.export_folder(target)
    assert (report.exported, len(report.failed), sum(image_server.requests.values())) == (0, 4, 0)
    assert "cannot be linked" in report.failed[0].message
    report = collection.export_folder(target, copy=True)
    assert names(target) == ["001 ok.jpg", "002 my boat.png"]
    assert (target / "001 ok.jpg").read_bytes() == make_image(seed=1)
    assert [failure.error for failure in report.failed] == ["HTTPStatusError", "NotAnImageError"]
    image_server.requests.clear()
    report = collection.export_folder(target, copy=True)
    assert (report.exported, report.unchanged, len(report.failed)) == (0, 2, 2)
    assert "/ok.jpg" not in image_server.requests


def test_downloads_keep_to_the_rules_of_fetching(
    stored: StoredImages, collection: SearchDB, image_server: ImageServer, tmp_path: Path
) -> None:
    stored.add(None, image=image_server.url("/ok.jpg").replace("http://", "http://user:secret@"))
    collection.__dict__["fetcher"] = Fetcher(max_bytes=1000, allow_private_addresses=False)
    report = collection.export_folder(tmp_path / "target", copy=True)
    assert [failure.error for failure in report.failed] == ["AddressRefusedError"]
    assert "secret" not in str(report.to_json())
    collection.__dict__["fetcher"] = Fetcher(max_bytes=100, allow_private_addresses=True)
    report = collection.export_folder(tmp_path / "target", copy=True)
    assert [failure.error for failure in report.failed] == ["TooManyBytesError"]
    assert names(tmp_path / "target") == []


@pytest.mark.parametrize("copy", [False, True])
def test_frames_of_a_video_are_small_images(
    collection: SearchDB, stored: StoredImages, tmp_path: Path, copy: bool
) -> None:
    for time in (0.0, 12.5, 3661.0):
        image_id = stored.add(
            None, image=f"/videos/my clip.mp4#t={time:g}", video="/videos/my clip.mp4", video_time=time
        )
        if time < 3600:
            with collection.database.begin() as connection:
                webp = make_image("WEBP", seed=image_id)
                connection.execute(sa.insert(frame_previews).values(image_id=image_id, webp=webp))
    target = tmp_path / "target"
    report = collection.export_folder(target, copy=copy)
    assert names(target) == ["001 my clip 0s.webp", "002 my clip 12.5s.webp"]
    assert (target / "002 my clip 12.5s.webp").read_bytes().startswith(b"RIFF")
    assert [failure.message for failure in report.failed] == ["the frame has no preview: ingest its video again"]
    assert collection.export_folder(target, copy=copy).unchanged == 2


def test_an_interrupted_copy_leaves_no_half_file(
    collection: SearchDB, stored: StoredImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        stored.add(f"image {n}")

    def interrupt(done: int, total: int | None) -> None:
        assert total == 40
        if done == 3:
            raise KeyboardInterrupt

    target = tmp_path / "target"
    with pytest.raises(KeyboardInterrupt):
        collection.export_folder(target, copy=True, progress=interrupt)
    assert 3 <= len(names(target)) < 40
    for name in names(target):
        assert (target / name).read_bytes() == (stored.folder / name[4:]).read_bytes()
    report = collection.export_folder(target, copy=True)
    assert report.exported + report.unchanged == 40
    assert len(names(target)) == 40


def test_a_full_disk_ends_the_export(collection: SearchDB, stored: StoredImages, tmp_path: Path) -> None:
    for n in range(3):
        stored.draw(f"large-{n}.bmp", size=(300, 300))
        stored.add(f"large {n}", image=stored.folder / f"large-{n}.bmp")
    with small_disk(tmp_path / "disk", 1) as disk:
        filler = fill(disk)
        with pytest.raises(StorageError, match="No space left") as caught:
            collection.export_folder(disk, copy=True)
        assert caught.value.full
        assert names(disk) == [filler.name]
        filler.unlink()
        assert collection.export_folder(disk, copy=True).exported == 3


def test_targets_that_are_no_folders(demo_collection: SearchDB, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for target, reason in ((tmp_path / "file", "not a folder"), (tmp_path / "file" / "x", "Not a directory")):
        with pytest.raises(StorageError, match=reason):
            demo_collection.export_folder(target, count=1)


def test_more_images_than_a_folder_holds(
    demo_collection: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("searchdb.exporting.MAX_FOLDER_FILES", 5)
    with pytest.raises(ExportError, match="more than 5 images are selected, and a folder has at most that many"):
        demo_collection.export_folder(tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert demo_collection.export_folder(tmp_path / "x", count=5).exported == 5


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("/p/harbour.jpg", "001 harbour.jpg"),
        ("/p/Café.JPG", "001 Café.JPG"),
        ("/p/.hidden", "001 hidden"),
        ("/p/no extension", "001 no extension"),
        ("/p/a.b.c/x.tar.gz", "001 x.tar.gz"),
        ("/p/a\nb\t\x1b[31m\u202e.png", "001 a_b__[31m_.png"),
        ('/p/<a>:"|?*\\b.png', "001 _a_______b.png"),
        ("/p/ .. .jpg", "001 image.jpg"),
        ("https://example.org/a/..%2F..%2Fetc%2Fpasswd.jpg?x=/y", "001 _.._etc_passwd.jpg"),
        ("https://example.org/", "001 example.org"),
        ("https://example.org/photo-1", "001 photo-1"),
        ("http://[bad/", "001 image"),
    ],
)
def test_names(image: str, name: str) -> None:
    assert file_name(1, 10, image) == name


def test_names_have_enough_digits_and_are_short() -> None:
    assert file_name(7, 12_345, "/x/y.jpg") == "00007 y.jpg"
    long = file_name(1, 1, f"/x/{'日' * 200}.jpeg", time=1234.5678)
    assert long.endswith("日 1234.568s.jpeg")
    assert len(long.encode()) < 200


@given(st.text(), st.sampled_from(["/x/", "https://example.org/", ""]))
def test_any_reference_gives_a_safe_name(text: str, start: str) -> None:
    name = file_name(12, 999, start + text, extension=".jpg")
    assert name.startswith("012 ")
    assert name.endswith(".jpg")
    assert len(name.encode()) <= 200
    assert not set(name) & set('/\\<>:"|?*')
    assert all(unicodedata.category(c)[0] != "C" for c in name)


def test_the_time_of_a_download_is_that_of_its_ingest(
    collection: SearchDB, stored: StoredImages, image_server: ImageServer, tmp_path: Path
) -> None:
    moment = datetime(2024, 5, 31, 18, 30, 1, tzinfo=UTC)
    stored.add(None, image=image_server.url("/ok.png"), ingested_at=moment)
    collection.export_folder(tmp_path / "target", copy=True)
    assert (tmp_path / "target" / "001 ok.png").stat().st_mtime == moment.timestamp()
