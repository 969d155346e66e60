"""Files whose content changes unseen, and files that move: what their images become."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images
from searchdb.ingest.moves import apply_moves
from searchdb.ingest.presence import was_moved
from searchdb.records import MovedImage, SourceItem
from tests.helpers.cli import run
from tests.helpers.stored_images import StoredImages

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


@pytest.fixture
def photos(originals: list[Path], tmp_path: Path) -> Path:
    """A folder with two images and a sub-folder with one."""
    folder = tmp_path.resolve() / "photos"
    (folder / "trip").mkdir(parents=True)
    for name, original in zip(["a.jpg", "b.jpg", "trip/c.jpg"], originals, strict=False):
        shutil.copy(original, folder / name)
    return folder


def rows(collection: SearchDB) -> dict[str, Any]:
    with collection.database.connect() as connection:
        return {row["image"]: dict(row) for row in connection.execute(sa.select(images)).mappings()}


def annotate(collection: SearchDB) -> None:
    """Add what a user may add to the images."""
    with collection.database.begin() as connection:
        connection.execute(sa.text("UPDATE images SET description = 'mine: ' || source_id, tags = tags || '{mine}'"))


def replace_unseen(path: Path, other: Path) -> None:
    """Replace a file's content; its size and time stay."""
    before = path.stat()
    content = other.read_bytes()
    path.write_bytes(content + b"\0" * (before.st_size - len(content)))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# --- Content that changes unseen ------------------------------------------------------------------


def test_reread_finds_new_content_of_the_same_size_and_time(
    collection: SearchDB, photos: Path, originals: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_size = sorted(originals[5:60], key=lambda path: path.stat().st_size)
    small, large = by_size[0], by_size[-1]
    shutil.copy(large, photos / "a.jpg")
    collection.ingest_files(photos)
    annotate(collection)
    before = rows(collection)
    replace_unseen(photos / "a.jpg", small)
    assert collection.ingest_files(photos).unchanged == 3

    embedded: list[int] = []
    embed = collection.embedder.embed_images
    monkeypatch.setattr(collection.embedder, "embed_images", lambda p: (embedded.append(len(p)), embed(p))[1])
    report = collection.ingest_files(photos, reread=True)
    assert (report.stored, report.unchanged, report.failed.total(), sum(embedded)) == (1, 2, 0, 1)
    after = rows(collection)
    changed = after.pop(str(photos / "a.jpg"))
    old = before.pop(str(photos / "a.jpg"))
    assert changed["id"] == old["id"]
    assert changed["sha256"] != old["sha256"]
    assert changed["modified_at"] == old["modified_at"]
    assert not np.array_equal(changed["embedding"], old["embedding"])
    assert {row["description"] for row in after.values()} == {"mine: b.jpg", "mine: trip/c.jpg"}
    assert {row["ingested_at"] for row in after.values()} == {row["ingested_at"] for row in before.values()}
    assert collection.ingest_files(photos, reread=True).unchanged == 3


def test_reread_records_what_it_cannot_read_and_keeps_its_image(
    collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.ingest_files(photos)
    opened = os.open

    def broken(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith("a.jpg"):
            raise OSError(5, "Input/output error")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", broken)
    report = collection.ingest_files(photos, reread=True)
    assert (report.unchanged, dict(report.failed)) == (2, {"FileUnreadableError": 1})
    assert len(rows(collection)) == 3


def test_reread_on_the_command_line(settings: Settings, photos: Path, originals: list[Path]) -> None:
    run(settings, "ingest", "files", photos)
    by_size = sorted([photos / "a.jpg", *originals[5:60]], key=lambda path: path.stat().st_size)
    if by_size[0] == photos / "a.jpg":
        pytest.skip("the album has no smaller image")
    replace_unseen(photos / "a.jpg", by_size[0])
    document = json.loads(run(settings, "ingest", "files", photos, "--reread", "--json").stdout)
    assert (document["stored"], document["unchanged"]) == (1, 2)


# --- Files that move ------------------------------------------------------------------------------


def test_a_moved_file_keeps_its_image(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    annotate(collection)
    before = rows(collection)
    (photos / "2024" / "spring").mkdir(parents=True)
    (photos / "trip" / "c.jpg").rename(photos / "2024" / "spring" / "renamed.jpg")
    report = collection.ingest_files(photos, prune=True)
    assert (report.stored, report.copied, report.unchanged, report.gone) == (1, 1, 2, 0)
    after = rows(collection)
    old = before[str(photos / "trip/c.jpg")]
    new = after[str(photos / "2024/spring/renamed.jpg")]
    assert len(after) == 3
    for name in ("id", "description", "metadata", "sha256", "ingested_at", "byte_size"):
        assert new[name] == old[name]
    assert (new["source_id"], new["tags"]) == ("2024/spring/renamed.jpg", ["2024", "spring", "mine"])
    assert collection.ingest_files(photos).unchanged == 3


def test_a_renamed_folder_keeps_its_images(collection: SearchDB, photos: Path) -> None:
    shutil.copy(photos / "a.jpg", photos / "copy of a.jpg")
    collection.ingest_files(photos)
    before = {Path(path).name: row["id"] for path, row in rows(collection).items()}
    photos.rename(photos.with_name("pictures"))
    collection.ingest_files(photos.with_name("pictures"))
    after = rows(collection)
    assert {Path(path).name: row["id"] for path, row in after.items()} == before
    assert all("/pictures/" in path for path in after)


def test_a_move_that_two_workers_find_happens_once(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos / "a.jpg")
    ((old, row),) = rows(collection).items()
    item = SourceItem(image=str(photos / "x.jpg"), source="files", byte_size=row["byte_size"])
    move = MovedImage(id=row["id"], image=old, item=item, tags=[])
    for _ in range(2):
        with collection.database.begin() as connection:
            assert apply_moves(connection, [move]) == [move]
    assert rows(collection).keys() == {item.image}
    collection.ingest_files(photos / "b.jpg")
    taken = replace(move, image=item.image, item=replace(item, image=str(photos / "b.jpg")))
    with collection.database.begin() as connection:
        assert apply_moves(connection, [taken]) == []


def test_frames_are_not_moved_onto_those_that_another_worker_has_stored(collection: SearchDB, tmp_path: Path) -> None:
    stored = StoredImages(tmp_path, collection.database, collection.embedder)
    old, new = "/films/a.mp4", "/films/b.mp4"
    ids = [stored.add(None, image=f"{video}#t=0", video=video, video_time=0.0) for video in (old, new)]
    move = MovedImage(id=ids[0], image=old, item=SourceItem(image=new, source="files"), tags=[])
    with collection.database.begin() as connection:
        assert apply_moves(connection, [move]) == []
    assert rows(collection).keys() == {f"{old}#t=0", f"{new}#t=0"}


def test_a_copy_is_an_image_of_its_own(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    before = rows(collection)
    shutil.copy(photos / "a.jpg", photos / "trip" / "a.jpg")
    collection.ingest_files(photos)
    after = rows(collection)
    assert len(after) == 4
    assert {path: after[path]["id"] for path in before} == {path: row["id"] for path, row in before.items()}


def test_what_may_have_become_either_of_two_files_is_left_alone(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    (photos / "a.jpg").rename(photos / "x.jpg")
    shutil.copy(photos / "x.jpg", photos / "y.jpg")
    report = collection.ingest_files(photos)
    assert (report.stored, report.gone, len(rows(collection))) == (2, 1, 5)


def test_a_copy_of_what_is_on_a_disk_that_is_not_mounted_does_not_take_its_image(
    collection: SearchDB, photos: Path, tmp_path: Path
) -> None:
    disk = tmp_path.resolve() / "disk"
    disk.mkdir()
    shutil.copy(photos / "a.jpg", disk / "a.jpg")
    collection.ingest_files(disk)
    (disk / "a.jpg").unlink()
    os.utime(disk, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))  # the mount point, made when the disk was first used
    collection.ingest_files(photos)
    assert str(disk / "a.jpg") in rows(collection)
    assert len(rows(collection)) == 4


def test_what_was_moved_and_what_is_only_not_there(tmp_path: Path) -> None:
    (tmp_path / "left").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other.jpg").touch()
    now = datetime.now(UTC)
    assert was_moved(str(tmp_path / "full" / "a.jpg"), stored_at=now)
    assert was_moved(str(tmp_path / "full" / "deep" / "er" / "a.jpg"), stored_at=now)
    assert was_moved(str(tmp_path / "left" / "a.jpg"), stored_at=LONG_AGO)
    assert not was_moved(str(tmp_path / "left" / "a.jpg"), stored_at=now + timedelta(minutes=1))
    assert not was_moved(str(tmp_path / "full" / "other.jpg"), stored_at=now)
    assert not was_moved("/no-such-volume/a.jpg", stored_at=LONG_AGO)
    assert not was_moved("/media/no-such-user/disk/a.jpg", stored_at=LONG_AGO)
    (tmp_path / "loop").symlink_to("loop")
    assert not was_moved(str(tmp_path / "loop" / "a.jpg"), stored_at=LONG_AGO)
