"""Files beside an image: what they say, what happens when only they change, and RAW files that join a JPEG."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.db.tables import images, ingest_failures
from searchdb.ingest.companions import companion_state
from searchdb.records import Companion, SourceItem
from tests.helpers.sidecars import write_takeout, write_xmp


@pytest.fixture
def photos(originals: list[Path], tmp_path: Path) -> Path:
    """A folder with two images."""
    folder = tmp_path.resolve() / "photos"
    folder.mkdir()
    for name, original in zip(["a.jpg", "b.jpg"], originals, strict=False):
        shutil.copy(original, folder / name)
    return folder


def rows(collection: SearchDB) -> dict[str, dict[str, Any]]:
    with collection.database.connect() as connection:
        return {Path(row["image"]).name: dict(row) for row in connection.execute(sa.select(images)).mappings()}


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the decoder refuse to run, although files can be read."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("searchdb.ingest.preparation.decode", refuse)


def test_sidecars_take_precedence_over_the_file_and_that_over_takeout(collection: SearchDB, photos: Path) -> None:
    write_xmp(photos / "a.xmp", rating=4)
    write_takeout(photos / "a.jpg.json")
    write_takeout(photos / "b.jpg.supplemental-metadata.json")
    report = collection.ingest_files(photos)
    assert (report.stored, report.failed.total(), report.sidecars, report.parts, report.excluded) == (2, 0, 3, 0, 0)
    a, b = rows(collection)["a.jpg"], rows(collection)["b.jpg"]
    assert (a["description"], a["rating"], a["tags"], a["folder"]) == ("from XMP", 4, ["lake"], "photos")
    assert a["taken_at"].year == 2020  # the XMP has none
    assert (b["description"], b["rating"], b["tags"]) == ("from Takeout", None, [])
    assert (a["companion_state"] is None, b["companion_state"] is None) == (False, False)
    assert collection.ingest_files(photos).unchanged == 2


def test_a_changed_added_or_removed_companion_updates_the_row_alone(
    collection: SearchDB, photos: Path, request: pytest.FixtureRequest
) -> None:
    write_xmp(photos / "a.xmp", text="old")
    collection.ingest_files(photos)
    before = rows(collection)
    request.getfixturevalue("undecodable")
    write_xmp(photos / "a.xmp", text="changed", rating=5, keyword="river")
    write_xmp(photos / "b.jpg.xmp", text="added")
    report = collection.ingest_files(photos)
    assert (report.stored, report.copied, report.unchanged, report.failed.total()) == (2, 2, 0, 0)
    after = rows(collection)
    assert (after["a.jpg"]["description"], after["a.jpg"]["rating"]) == ("changed", 5)
    assert after["a.jpg"]["tags"] == ["river"]
    assert after["b.jpg"]["description"] == "added"
    for name, row in after.items():
        assert (row["id"], row["ingested_at"]) == (before[name]["id"], before[name]["ingested_at"])
        assert (row["embedding"] == before[name]["embedding"]).all()
    (photos / "a.xmp").unlink()
    assert collection.ingest_files(photos, reread=True).stored == 1
    row = rows(collection)["a.jpg"]
    assert (row["description"], row["rating"], row["tags"], row["companion_state"]) == (None, None, [], None)
    assert collection.ingest_files(photos).unchanged == 2


def test_what_the_file_says_survives_a_change_beside_it(collection: SearchDB, photos: Path) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Model X"
    exif[0x010E] = "from the file"
    Image.new("RGB", (64, 64)).save(photos / "c.jpg", exif=exif)
    collection.ingest_files(photos)
    assert rows(collection)["c.jpg"]["description"] == "from the file"
    write_xmp(photos / "c.xmp", text="beside it")
    collection.ingest_files(photos)
    row = rows(collection)["c.jpg"]
    assert (row["description"], row["camera"], row["tags"]) == ("beside it", "Model X", ["lake"])
    (photos / "c.xmp").unlink()
    collection.ingest_files(photos)
    row = rows(collection)["c.jpg"]
    assert (row["description"], row["camera"], row["tags"]) == ("from the file", "Model X", [])


def test_a_damaged_sidecar_is_no_failure_of_its_image(
    collection: SearchDB, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "a.xmp").write_text("<x:xmpmeta")
    (photos / "b.xmp").symlink_to("/dev/null")
    write_takeout(photos / "a.jpg.json")
    with caplog.at_level(logging.WARNING):
        report = collection.ingest_files(photos)
    assert (report.stored, report.failed.total(), report.sidecars) == (2, 0, 3)
    assert [record.getMessage() for record in caplog.records if "beside" in record.getMessage()] == [
        each for each in caplog.messages if f"a file beside {photos / 'a.jpg'} is ignored: {photos / 'a.xmp'}: " in each
    ]
    row = rows(collection)["a.jpg"]
    assert row["description"] == "from Takeout"
    assert row["metadata"]["companion_error"].startswith("a.xmp: ")
    assert str(photos) not in row["metadata"]["companion_error"]
    write_xmp(photos / "a.xmp")
    collection.ingest_files(photos)
    assert "companion_error" not in rows(collection)["a.jpg"]["metadata"]


def test_an_unreadable_sidecar_is_read_at_the_next_ingest(
    collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_xmp(photos / "a.xmp")
    read = os.open

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith(".xmp"):
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert collection.ingest_files(photos).stored == 2
    assert "Permission denied" in rows(collection)["a.jpg"]["metadata"]["companion_error"]
    assert collection.ingest_files(photos).stored == 1
    assert rows(collection)["a.jpg"]["description"] == "from XMP"


def test_a_failed_image_is_not_tried_again_because_of_its_sidecar(collection: SearchDB, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    report = collection.ingest_files(photos)
    assert report.failed.total() == 1
    write_xmp(photos / "broken.xmp")
    report = collection.ingest_files(photos)
    assert (report.known_failures, report.sidecars) == (1, 1)


# --- RAW files and JPEGs ----------------------------------------------------------------------------


def test_a_raw_file_beside_a_jpeg_is_part_of_it(collection: SearchDB, photos: Path) -> None:
    shutil.copy(photos / "b.jpg", photos / "a.NEF")
    report = collection.ingest_files(photos)
    assert (report.stored, report.parts) == (2, 1)
    assert rows(collection)["a.jpg"]["metadata"]["raw"] == str(photos / "a.NEF")
    assert "raw" not in rows(collection)["b.jpg"]["metadata"]
    (photos / "a.jpg").unlink()
    report = collection.ingest_files(photos, prune="always")
    assert (report.stored, report.parts, report.removed) == (1, 0, 1)
    assert rows(collection).keys() == {"a.NEF", "b.jpg"}


def test_a_raw_file_beside_a_damaged_jpeg_is_an_image_until_that_is_repaired(
    collection: SearchDB, photos: Path
) -> None:
    (photos / "a.jpg").rename(photos / "a.nef")
    write_xmp(photos / "a.xmp", text="from XMP")
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff no image")
    report = collection.ingest_files(photos)
    assert (report.stored, report.parts, dict(report.failed)) == (1, 1, {"DamagedImageError": 1})
    before = rows(collection)
    assert before.keys() == {"a.nef", "b.jpg"}
    assert (before["a.nef"]["source_id"], before["a.nef"]["description"]) == ("a.nef", "from XMP")
    assert collection.ingest_files(photos).known_failures == 1
    assert rows(collection).keys() == before.keys()
    shutil.copy(photos / "b.jpg", photos / "a.jpg")
    collection.ingest_files(photos)
    after = rows(collection)
    assert after.keys() == {"a.jpg", "b.jpg"}
    assert after["a.jpg"]["id"] == before["a.nef"]["id"]
    assert not list(collection.store.failures())


def test_a_raw_file_and_a_jpeg_that_are_both_damaged_are_two_failures(collection: SearchDB, photos: Path) -> None:
    for name in ("a.jpg", "a.nef"):
        (photos / name).write_bytes(b"\xff\xd8\xff no image")
    collection.ingest_files(photos)
    assert {Path(each.image).name for each in collection.store.failures()} == {"a.jpg", "a.nef"}
    (photos / "a.jpg").unlink()
    assert collection.ingest_files(photos).known_failures == 1


def test_a_stored_jpeg_that_turns_bad_keeps_its_row_alone(collection: SearchDB, photos: Path) -> None:
    shutil.copy(photos / "b.jpg", photos / "a.nef")
    collection.ingest_files(photos)
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff no image")
    collection.ingest_files(photos)
    assert rows(collection).keys() == {"a.jpg", "b.jpg"}


def test_a_raw_files_row_becomes_its_jpegs(collection: SearchDB, photos: Path) -> None:
    (photos / "a.jpg").rename(photos / "a.nef")
    collection.ingest_files(photos)
    before = rows(collection)
    shutil.copy(photos / "b.jpg", photos / "a.jpg")
    os.utime(photos / "a.jpg", (9, 9))
    collection.ingest_files(photos)
    after = rows(collection)
    assert after.keys() == {"a.jpg", "b.jpg"}
    assert after["a.jpg"]["id"] == before["a.nef"]["id"]
    assert after["a.jpg"]["sha256"] == before["b.jpg"]["sha256"]
    assert (after["a.jpg"]["embedding"] == before["b.jpg"]["embedding"]).all()


def test_rows_and_failures_of_what_belongs_to_a_stored_image_are_removed(collection: SearchDB, photos: Path) -> None:
    """As an earlier version left them, which took each file for an image."""
    collection.ingest_files(photos)
    shutil.copy(photos / "b.jpg", photos / "a.cr2")
    write_xmp(photos / "b.xmp")
    other = SearchDB.ingest  # the same files as items of their own
    items = [
        SourceItem(image=str(photos / name), source="files", byte_size=(photos / name).stat().st_size)
        for name in ("a.cr2", "b.xmp")
    ]
    report = other(collection, items)
    assert (report.stored, report.failed.total()) == (1, 1)
    collection.ingest_files(photos)
    assert rows(collection).keys() == {"a.jpg", "b.jpg"}
    with collection.database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(ingest_failures)) == 0
    assert collection.ingest_files(photos).unchanged == 2


# --- Moves and folders ------------------------------------------------------------------------------


def test_an_image_moved_with_its_companions_keeps_its_row(
    collection: SearchDB, photos: Path, request: pytest.FixtureRequest
) -> None:
    write_xmp(photos / "a.xmp")
    shutil.copy(photos / "b.jpg", photos / "a.orf")
    collection.ingest_files(photos)
    before = rows(collection)["a.jpg"]
    with collection.database.begin() as connection:
        connection.execute(sa.text("UPDATE images SET description = 'mine'"))
    (photos / "2024").mkdir()
    for suffix in ("jpg", "xmp", "orf"):
        (photos / f"a.{suffix}").rename(photos / "2024" / f"renamed.{suffix}")
    collection.ingest_files(photos)
    row = rows(collection)["renamed.jpg"]
    assert (row["id"], row["folder"], row["description"]) == (before["id"], "photos/2024", "mine")
    assert row["metadata"]["raw"] == str(photos / "2024/renamed.orf")
    assert set(row["tags"]) == {"2024", "lake"}
    request.getfixturevalue("undecodable")
    assert collection.ingest_files(photos).unchanged == 2
    assert rows(collection)["renamed.jpg"]["description"] == "mine"


def test_an_image_moved_without_its_sidecar_is_no_longer_described_by_it(collection: SearchDB, photos: Path) -> None:
    write_xmp(photos / "a.xmp", rating=5)
    write_xmp(photos / "b.xmp", text="of b")
    collection.ingest_files(photos)
    before = rows(collection)
    (photos / "a.jpg").rename(photos / "c.jpg")
    (photos / "b.jpg").rename(photos / "d.jpg")
    write_xmp(photos / "d.xmp", text="of d")
    collection.ingest_files(photos, prune=True)
    after = rows(collection)
    assert (after["c.jpg"]["id"], after["d.jpg"]["id"]) == (before["a.jpg"]["id"], before["b.jpg"]["id"])
    assert (after["c.jpg"]["description"], after["c.jpg"]["rating"], after["c.jpg"]["tags"]) == (None, None, [])
    assert after["d.jpg"]["description"] == "of d"
    assert collection.ingest_files(photos).unchanged == 2


def test_folders_are_filled_and_follow_the_outermost_named_folder(
    collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "2024").mkdir()
    shutil.move(photos / "b.jpg", photos / "2024/b.jpg")

    def folders(*named: Path) -> dict[str, str]:
        collection.ingest_files(*named)
        return {name: row["folder"] for name, row in rows(collection).items()}

    assert folders(photos / "2024") == {"b.jpg": "2024"}
    assert folders(photos) == {"a.jpg": "photos", "b.jpg": "photos/2024"}
    monkeypatch.setattr(collection.fetcher, "fetch", None)  # nothing is read from here on
    assert folders(photos / "2024", photos / "a.jpg") == {"a.jpg": "photos", "b.jpg": "photos/2024"}
    with collection.database.begin() as connection:
        connection.execute(sa.text("UPDATE images SET folder = NULL"))  # as an earlier version stored them
    assert folders(photos) == {"a.jpg": "photos", "b.jpg": "photos/2024"}


def test_the_state_tells_names_sizes_and_times(tmp_path: Path) -> None:
    def state(image: str, *companions: tuple[str, int]) -> str | None:
        found = tuple(Companion(path=name, kind="xmp", byte_size=size) for name, size in companions)
        return companion_state(SourceItem(image=image, source="files", companions=found))

    assert state("/a.jpg") is None
    one = state("/a.jpg", ("/a.xmp", 5))
    assert one == state("/x/b.jpg", ("/x/b.xmp", 5))
    assert one is not None
    assert len({one, state("/a.jpg", ("/a.xmp", 6)), state("/a.jpg", ("/a.jpg.xmp", 5))}) == 3
    assert state("/a.jpg", ("/a.xmp", 5), ("/a.jpg.xmp", 6)) == state("/a.jpg", ("/a.jpg.xmp", 6), ("/a.xmp", 5))
