"""Real files in real folders, as the operating system reports their changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.errors import ConfigError, SourceError
from searchdb.watch import changed_folders, follow
from searchdb.watch.events import FolderEvents
from tests.helpers.waiting import until
from tests.helpers.watching import (
    Watching,
    draw,
    failures,
    ids,
    on_disk,
    picture,
    problem,
    stored,
    until_equal,
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=["events", "polling"])
def poll(request: pytest.FixtureRequest) -> bool:
    return request.param == "polling"


def test_new_changed_moved_and_deleted_files_are_followed(collection: SearchDB, photos: Path, poll: bool) -> None:
    first, second, *_ = draw(photos / "2023", 8)
    with Watching(collection, photos, poll=poll) as watching:
        until_equal(collection, photos)
        before = ids(collection)

        draw(photos / "2024" / "rome", 3, first=20)  # a folder that is made and filled at once
        first.write_bytes(picture(50))  # changed in place
        until_equal(collection, photos)

        renamed = photos / "2023" / "renamed.jpg"
        second.rename(renamed)
        (photos / "2024" / "rome").rename(photos / "trip")
        until_equal(collection, photos)
        now = ids(collection)
        assert now[str(renamed)] == before[str(second)]
        assert now[str(first)] == before[str(first)]

        renamed.unlink()
        shutil.rmtree(photos / "trip")
        until_equal(collection, photos)
    assert watching.report is not None
    assert watching.report.removed == 4
    assert watching.report.stored == sum(step.stored for step in watching.steps)
    assert failures(collection) == {}
    assert collection.status().watches == []


def test_a_renamed_folder_keeps_its_images(collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "DEFAULT_CHUNK_SIZE", 16)
    paths = draw(photos / "old", 40)  # more than one chunk
    with Watching(collection, photos):
        until_equal(collection, photos)
        before = ids(collection)
        (photos / "old").rename(photos / "new")
        until_equal(collection, photos)
    assert ids(collection) == {path.replace("/old/", "/new/"): image_id for path, image_id in before.items()}
    with collection.database.connect() as connection:
        tags = connection.exec_driver_sql("SELECT DISTINCT tags, source_id LIKE 'new/%%' FROM images").all()
    assert [tuple(row) for row in tags] == [(["new"], True)]
    assert len(paths) == 40


def test_a_half_copied_file_waits_until_it_rests(
    collection: SearchDB, photos: Path, poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changed_folders, "LONGEST_WAIT_S", 1.0)
    draw(photos, 1)
    content = picture(1)
    slow, download = photos / "slow.jpg", photos / "photo.jpg.part"
    with Watching(collection, photos, poll=poll, settle_s=2):
        until_equal(collection, photos)
        download.write_bytes(content[:100])
        with slow.open("wb", buffering=0) as file:

            def write_and_look() -> bool:
                file.seek(0)
                file.write(content[: len(content) // 2])
                return collection.status().watches[0].waiting == 1

            until(write_and_look, "the watch to see the file")
            file.write(content[len(content) // 2 :])
        download.rename(photos / "photo.jpg")
        (photos / "photo.jpg").write_bytes(picture(2))
        until_equal(collection, photos)
        until(lambda: collection.status().watches[0].waiting == 0, "the watch to record it")
    with collection.database.connect() as connection:
        tried = connection.exec_driver_sql("SELECT sum(stored), count(*) FROM ingest_chunks").one()
    assert failures(collection) == {}
    assert tried[0] == 3, "each file was read once"


def test_a_file_that_was_read_half_copied_is_read_again(collection: SearchDB, photos: Path) -> None:
    draw(photos, 3)
    content = picture(7)
    path = photos / "late.jpg"
    with Watching(collection, photos, settle_s=0):
        until_equal(collection, photos)
        path.write_bytes(content[: len(content) // 3])
        until(lambda: str(path) in failures(collection), "the failure")
        path.write_bytes(content)
        until_equal(collection, photos)
        assert failures(collection) == {}


def test_replaced_swapped_and_truncated_files(collection: SearchDB, photos: Path) -> None:
    a, b, c, d = draw(photos, 4)
    with Watching(collection, photos):
        until_equal(collection, photos)
        before = ids(collection)
        fresh = photos / ".new-XXXX"  # as rsync names it
        fresh.write_bytes(picture(30))
        fresh.rename(a)
        b.rename(photos / "between")
        c.rename(b)
        (photos / "between").rename(c)
        until_equal(collection, photos)
        assert ids(collection) == before

        os.truncate(d, 0)
        until(lambda: failures(collection) == {str(d): "EmptyFileError"}, "the failure")
        assert str(d) in stored(collection), "an image whose file turned bad stays stored"
        d.write_bytes(picture(31))
        until_equal(collection, photos)
        assert failures(collection) == {}


def test_links_and_permissions(collection: SearchDB, photos: Path, tmp_path: Path) -> None:
    elsewhere = draw(tmp_path / "elsewhere", 2, first=10)
    draw(photos, 2)
    with Watching(collection, photos):
        until_equal(collection, photos)
        (photos / "folder").symlink_to(tmp_path / "elsewhere")
        (photos / "linked.jpg").symlink_to(elsewhere[0])
        (photos / "0000.jpg").chmod(0o640)
        expected = {*(str(photos / name) for name in ("0000.jpg", "0001.jpg", "linked.jpg"))}
        until(lambda: set(stored(collection)) == expected, "the linked file alone")
        (photos / "linked.jpg").unlink()
        draw(tmp_path / "elsewhere", 1, first=20)
        draw(photos, 1, first=21)
        until(lambda: str(photos / "0021.jpg") in stored(collection), "the next file")
        until(lambda: str(photos / "linked.jpg") not in stored(collection), "the removal")
    assert len(stored(collection)) == 3


def test_what_a_walk_leaves_out_is_left_out(collection: SearchDB, photos: Path) -> None:
    draw(photos, 2)
    draw(photos / "raw" / "deep", 2, first=10)
    with Watching(collection, photos, exclude=["private/"]):
        until_equal(collection, photos)
        (photos / "raw" / ".searchdbignore").write_text("*-draft.jpg\n")
        for number, name in enumerate(("private/a.jpg", ".hidden/b.jpg", "@eaDir/c.jpg", "raw/deep/d-draft.jpg"), 30):
            path = photos / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture(number))
        last = photos / "raw" / "deep" / "last.jpg"
        last.write_bytes(picture(40))
        until(lambda: str(last) in stored(collection), "the last file")
        assert len(stored(collection)) == 5
        (photos / "raw" / ".searchdbignore").unlink()
        draft = str(photos / "raw" / "deep" / "d-draft.jpg")
        until(lambda: draft in stored(collection), "the file that is no longer excluded")
    assert len(stored(collection)) == 6


def test_files_moved_out_are_removed_and_failures_of_deleted_files_forgotten(
    collection: SearchDB, photos: Path, tmp_path: Path
) -> None:
    paths = draw(photos, 5)
    bad = photos / "bad.jpg"
    bad.write_bytes(b"no image")
    with Watching(collection, photos):
        until(lambda: len(stored(collection)) == 5 and str(bad) in failures(collection), "the first scan")
        paths[0].rename(tmp_path / "away.jpg")
        bad.unlink()
        until_equal(collection, photos)
        until(lambda: failures(collection) == {}, "the failure to be forgotten")


def test_most_of_a_folder_is_kept_until_somebody_insists(collection: SearchDB, photos: Path) -> None:
    paths = draw(photos, 6)
    draw(photos / "album", 1, first=20)
    with Watching(collection, photos):
        until_equal(collection, photos)
        for path in paths[:5]:
            path.unlink()
        until(lambda: "5 of the 7 images" in (problem(collection) or ""), "the problem")
        assert len(stored(collection)) == 7
        collection.ingest_files(photos, prune="always")
        until_equal(collection, photos)


def test_a_loss_keeps_only_the_images_of_its_folder(collection: SearchDB, photos: Path, tmp_path: Path) -> None:
    draw(photos / "disk", 12)
    others = draw(photos / "others", 30, first=20)
    with Watching(collection, photos):
        until_equal(collection, photos)
        (photos / "disk").rename(tmp_path / "disk")
        (photos / "disk").mkdir()  # an empty mount point
        others[0].unlink()
        until(lambda: str(others[0]) not in stored(collection), "the removal elsewhere")
        until(lambda: "12 of the 12 images" in (problem(collection) or ""), "the problem")
        assert len(stored(collection)) == 41
        (photos / "disk").rmdir()
        (tmp_path / "disk").rename(photos / "disk")
        until_equal(collection, photos)


def test_everything_is_removed_with_always(collection: SearchDB, photos: Path) -> None:
    paths = draw(photos, 6)
    with Watching(collection, photos, prune="always"):
        until_equal(collection, photos)
        for path in paths:
            path.unlink()
        until_equal(collection, photos)
    assert stored(collection) == {}


def test_nothing_is_removed_without_prune(collection: SearchDB, photos: Path) -> None:
    paths = draw(photos, 6)
    with Watching(collection, photos, prune=False):
        until_equal(collection, photos)
        paths[0].unlink()
        draw(photos, 1, first=20)
        until(lambda: len(stored(collection)) == 7, "the new file")
    assert str(paths[0]) in stored(collection)


def test_a_watched_folder_goes_away_and_comes_back(collection: SearchDB, photos: Path, poll: bool) -> None:
    draw(photos / "2024", 4)
    away = photos.with_name("away")
    with Watching(collection, photos, poll=poll):
        until_equal(collection, photos)
        before = ids(collection)
        photos.rename(away)
        until(lambda: "does not exist" in (problem(collection) or ""), "the problem of a missing folder")
        photos.mkdir()  # the mount point of a disk that is not mounted
        until(lambda: "4 of the 4 images" in (problem(collection) or ""), "the problem of an empty folder")
        assert ids(collection) == before
        photos.rmdir()
        away.rename(photos)
        draw(photos / "2025", 2, first=20)
        until_equal(collection, photos)
        until(lambda: problem(collection) is None, "the end of the problem")
        assert before.items() <= ids(collection).items()


def test_a_folder_that_is_away_at_the_start_is_waited_for(collection: SearchDB, photos: Path) -> None:
    draw(photos, 3)
    collection.ingest_files(photos)
    away = photos.with_name("away")
    photos.rename(away)
    with Watching(collection, photos):
        until(lambda: "does not exist" in (problem(collection) or ""), "the problem")
        draw(away, 1, first=20)
        away.rename(photos)
        until_equal(collection, photos)


def test_what_an_earlier_version_stored_is_brought_up_to_date(collection: SearchDB, photos: Path) -> None:
    draw(photos / "2024", 2)
    collection.ingest_files(photos)
    with collection.database.begin() as connection:
        connection.exec_driver_sql("UPDATE images SET folder = NULL")
    with Watching(collection, photos), collection.database.connect() as connection:
        folders = "SELECT array_agg(DISTINCT folder) FROM images"
        until(lambda: connection.exec_driver_sql(folders).scalar() == ["photos/2024"], "the folders")
    assert len(stored(collection)) == 2


def test_lost_events_are_made_up_for(collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "RESCAN_S", 1.0)
    monkeypatch.setattr(follow, "SHARE_OF_SCANS", 1.0)
    monkeypatch.setattr(FolderEvents, "_next", lambda _self: set())  # as after an overflow of the system's queue
    paths = draw(photos, 6)
    with Watching(collection, photos, poll=False):
        until_equal(collection, photos)
        paths[0].rename(photos / "renamed.jpg")
        paths[1].unlink()
        draw(photos / "new", 2, first=20)
        until_equal(collection, photos)


def test_it_polls_if_the_system_does_not_report_changes(
    collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> Iterator[object]:
        raise OSError('OS file watch limit reached. about ["/photos"]')
        yield

    monkeypatch.setattr("watchfiles.watch", refuse)
    draw(photos, 2)
    with Watching(collection, photos):
        until_equal(collection, photos)
        draw(photos / "new", 2, first=20)
        until_equal(collection, photos)
        until(lambda: collection.status().watches[0].polling, "the record")
    [line] = [record.message for record in caplog.records if "watch limit" in record.message]
    assert "fs.inotify.max_user_watches" in line
    assert "/photos" not in line


def test_two_watches_and_an_ingest_of_one_folder_do_no_harm(collection: SearchDB, photos: Path) -> None:
    draw(photos, 20)
    with Watching(collection, photos), Watching(collection, photos):
        until_equal(collection, photos)
        before = ids(collection)
        (photos / "album").mkdir()
        for number in range(10):
            (photos / f"{number:04}.jpg").rename(photos / "album" / f"{number:04}.jpg")
        draw(photos / "new", 10, first=50)
        collection.ingest_files(photos)
        (photos / "0010.jpg").unlink()
        until_equal(collection, photos)
        now = ids(collection)
    assert all(now[str(photos / "album" / f"{n:04}.jpg")] == before[str(photos / f"{n:04}.jpg")] for n in range(10))


def test_wrong_arguments(collection: SearchDB, photos: Path) -> None:
    [file] = draw(photos, 1)
    for path, message in ((file, "is not a folder"), (photos / "none", "does not exist")):
        with pytest.raises(SourceError, match=message):
            collection.watch(path)
    with pytest.raises(ConfigError, match="settle_s is -1"):
        collection.watch(photos, settle_s=-1)
    with pytest.raises(ConfigError, match="prune is 'yes'"):
        collection.watch(photos, prune="yes")  # type: ignore[arg-type]
    assert on_disk(photos)
    assert stored(collection) == {}
