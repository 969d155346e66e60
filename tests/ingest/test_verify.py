"""`verify`: stored images compared with their files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images
from searchdb.errors import SourceError
from searchdb.ingest import verify as verify_module
from searchdb.ingest.verify import Difference
from tests.helpers.cli import run

NAMES = ["a.jpg", "b.jpg", "c.jpg", "trip/d.jpg", "trip/e.jpg"]


@pytest.fixture
def photos(album: Path, tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "photos"
    (folder / "trip").mkdir(parents=True)
    for name, original in zip(NAMES, sorted(album.glob("*.jpg")), strict=False):
        shutil.copy(original, folder / name)
    return folder


def rows(collection: SearchDB) -> dict[str, Any]:
    with collection.database.connect() as connection:
        return {row["image"]: dict(row) for row in connection.execute(sa.select(images)).mappings()}


def check(collection: SearchDB, folder: Path, *paths: Path, **options: Any) -> dict[str, str]:
    """The kinds of differences by the path below a folder; the report agrees with them."""
    found: list[Difference] = []
    report = collection.verify(*paths, found=found.append, **options)
    assert report.counts.total() == len(found)
    return {os.path.relpath(each.image, folder): each.kind for each in found}


def test_every_kind_of_difference_is_found(collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "BATCH", 2)
    collection.ingest_files(photos)
    with collection.database.begin() as connection:
        columns = "source, embedding, embedding_model_id, sha256, width, height, byte_size"
        connection.execute(
            sa.text(f"INSERT INTO images (image, {columns}) SELECT 'https://h/a.jpg', {columns} FROM images LIMIT 1")
        )
    before = rows(collection)
    report = collection.verify()
    assert (report.checked, report.skipped, report.differing) == (5, 1, 0)

    content, times = (photos / "b.jpg").read_bytes(), (photos / "b.jpg").stat()
    (photos / "b.jpg").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # rotten on the disk
    os.utime(photos / "b.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    (photos / "c.jpg").unlink()
    (photos / "c.jpg").symlink_to("/no/such/disk/c.jpg")
    (photos / "trip" / "d.jpg").unlink()
    (photos / "trip" / "e.jpg").rename(photos / "moved.jpg")
    found = {"b.jpg": "changed", "c.jpg": "unreadable", "trip/d.jpg": "missing", "trip/e.jpg": "missing"}
    assert check(collection, photos) == found
    assert check(collection, photos, photos) == found | {"trip/e.jpg": "moved"}
    assert check(collection, photos, moved_to=[photos]) == found | {"trip/e.jpg": "moved"}
    assert check(collection, photos, photos / "trip") == {"trip/d.jpg": "missing", "trip/e.jpg": "missing"}
    assert check(collection, photos, photos / "b.jpg", photos / "a.jpg") == {"b.jpg": "changed"}
    assert check(collection, photos, photos / "trip" / "d.jpg") == {"trip/d.jpg": "missing"}
    assert rows(collection).keys() == before.keys()


def test_a_moved_image_gets_its_new_path_when_asked(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    before = rows(collection)
    photos.rename(photos.with_name("away"))
    (photos.with_name("away") / "a.jpg").unlink()
    away = photos.with_name("away")
    found: list[Difference] = []
    report = collection.verify(photos, moved_to=away, fix_moved=True, found=found.append)
    assert (report.checked, report.fixed, report.differing) == (5, 4, 1)
    assert {each.image: each.moved_to for each in found if each.fixed} == {
        str(photos / name): str(away / name) for name in NAMES[1:]
    }
    after = rows(collection)
    for name in NAMES[1:]:
        old, new = before[str(photos / name)], after[str(away / name)]
        moved = ("image", "folder", "embedding")
        assert {k: v for k, v in old.items() if k not in moved} == {k: v for k, v in new.items() if k not in moved}
        inside = "/trip" if name.startswith("trip/") else ""
        assert (old["folder"], new["folder"]) == (f"photos{inside}", f"away{inside}")
    assert collection.ingest_files(away).unchanged == 4


def test_copies_and_stored_files_are_no_new_places(collection: SearchDB, photos: Path) -> None:
    shutil.copy(photos / "a.jpg", photos / "stored copy.jpg")
    collection.ingest_files(photos)
    (photos / "a.jpg").unlink()
    assert check(collection, photos, photos, fix_moved=True) == {"a.jpg": "missing"}
    for name in ("x.jpg", "y.jpg"):
        shutil.copy(photos / "stored copy.jpg", photos / name)
    assert check(collection, photos, photos, fix_moved=True) == {"a.jpg": "missing"}


def test_a_folder_to_search_must_exist(collection: SearchDB, photos: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        collection.verify(moved_to=[photos / "none"])
    with pytest.raises(SourceError, match="does not exist"):
        collection.verify(photos / "none")


def test_the_command(settings: Settings, photos: Path) -> None:
    run(settings, "ingest", "files", photos)
    good = run(settings, "verify")
    assert (good.exit_code, good.stdout) == (0, "")
    assert "5 images checked: 5 unchanged" in good.stderr

    (photos / "a.jpg").rename(photos / "x.jpg")
    (photos / "b.jpg").write_bytes(b"rotten")
    result = run(settings, "verify", photos, "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["checked"], document["unchanged"]) == (1, 5, 3)
    assert (document["changed"], document["moved"], document["missing"], document["unreadable"]) == (1, 1, 0, 0)
    assert {each["kind"]: each["image"] for each in document["differences"]} == {
        "moved": str(photos / "a.jpg"),
        "changed": str(photos / "b.jpg"),
    }
    shown = run(settings, "verify", photos, "--fix-moved")
    assert f"moved      {photos}/a.jpg -> {photos}/x.jpg" in shown.stdout.splitlines()
    assert f"changed    {photos}/b.jpg" in shown.stdout.splitlines()
    assert (shown.exit_code, "(1 fixed)" in shown.stderr, "--reread" in shown.stderr) == (1, True, True)
    (photos / "b.jpg").unlink()
    run(settings, "ingest", "files", photos, "--prune")
    assert run(settings, "verify").exit_code == 0


def test_a_path_that_cannot_be_looked_at_is_unreadable(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    folder = photos / ("x" * 300)  # like one without permission, which root always has
    with collection.database.begin() as connection:
        connection.execute(
            sa.text("UPDATE images SET image = :image WHERE image LIKE '%/a.jpg'"), {"image": str(folder / "a.jpg")}
        )
    assert check(collection, folder, folder) == {"a.jpg": "unreadable"}
