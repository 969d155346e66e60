"""Images whose files are gone: what is removed, and what is not because a disk may only not be mounted."""

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
from searchdb.errors import ConfigError, SourceError
from searchdb.ingest import gone
from searchdb.ingest.presence import is_gone
from tests.helpers.cli import run

COUNT = 12


@pytest.fixture
def photos(originals: list[Path], tmp_path: Path) -> Path:
    """A folder with twelve images, the last two of them in a sub-folder."""
    folder = tmp_path.resolve() / "photos"
    (folder / "trip").mkdir(parents=True)
    for n in range(COUNT):
        shutil.copy(originals[n], folder / ("trip" if n >= COUNT - 2 else ".") / f"{n}.jpg")
    return folder


def stored(collection: SearchDB) -> set[str]:
    with collection.database.connect() as connection:
        return {Path(path).name for path in connection.scalars(sa.text("SELECT image FROM images"))}


def pretend(collection: SearchDB, folder: Path, count: int) -> None:
    """Store images of files that do not exist, with the content of another."""
    columns = "source, embedding, embedding_model_id, sha256, width, height, byte_size"
    with collection.database.begin() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO images (image, {columns}) SELECT :folder || '/gone-' || n || '.jpg', {columns} "
                "FROM (SELECT * FROM images LIMIT 1) AS one, generate_series(1, :count) AS n"
            ),
            {"folder": str(folder), "count": count},
        )


def test_files_that_are_gone_are_counted_and_pruned(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    (photos / "0.jpg").unlink()
    shutil.rmtree(photos / "trip")
    assert len(collection.gone_files(photos)) == 3
    report = collection.ingest_files(photos)
    assert (report.gone, report.removed, report.losses) == (3, 0, [])
    assert len(stored(collection)) == COUNT
    report = collection.ingest_files(photos, prune=True)
    assert (report.gone, report.removed) == (3, 3)
    assert stored(collection) == {f"{n}.jpg" for n in range(1, COUNT - 2)}


def test_an_empty_folder_keeps_its_images_until_somebody_insists(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    photos.rename(photos.with_name("off"))
    photos.mkdir()
    report = collection.ingest_files(photos, prune=True)
    (loss,) = report.losses
    assert (report.gone, report.removed) == (COUNT, 0)
    assert (loss.folder, loss.gone, loss.stored, len(loss.examples)) == (str(photos), COUNT, COUNT, 3)
    assert all(path.startswith(f"{photos}/") for path in loss.examples)
    assert len(stored(collection)) == COUNT
    assert collection.ingest_files(photos, prune="always").removed == COUNT


def test_most_of_a_folder_is_kept_and_half_of_it_is_removed(
    collection: SearchDB, photos: Path, originals: list[Path]
) -> None:
    collection.ingest_files(photos)
    for n in range(7):
        (photos / f"{n}.jpg").rename(photos.parent / f"{n}.jpg")
    shutil.copy(originals[COUNT], photos / "new.jpg")
    report = collection.ingest_files(photos / "*", photos, prune=True)
    assert (report.stored + report.unchanged, report.removed, len(report.losses)) == (6, 0, 1)
    for n in range(7):
        (photos.parent / f"{n}.jpg").rename(photos / f"{n}.jpg")
    collection.ingest_files(photos)
    for n in range(6):
        (photos / f"{n}.jpg").unlink()
    assert collection.ingest_files(photos, prune=True).removed == 6


def test_one_missing_disk_among_several_folders_is_noticed(
    collection: SearchDB, photos: Path, originals: list[Path]
) -> None:
    disk = photos.with_name("disk")
    disk.mkdir()
    shutil.copy(originals[COUNT], disk)
    collection.ingest_files(photos, disk)
    next(disk.iterdir()).unlink()
    (photos / "0.jpg").unlink()
    report = collection.ingest_files(photos, disk, prune=True)
    assert (report.gone, report.removed, [loss.folder for loss in report.losses]) == (2, 0, [str(disk)])
    assert collection.ingest_files(photos, prune=True).removed == 1


def test_an_image_below_two_folders_is_counted_once(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    (photos / "trip" / "10.jpg").unlink()
    report = collection.ingest_files(photos, photos / "trip", exclude=["trip"], prune="always")
    assert (report.gone, report.removed) == (1, 1)


def test_a_disk_below_the_folder_is_noticed(
    collection: SearchDB, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mount point stays as an empty folder, at any depth, or goes, directly below the folder."""
    collection.ingest_files(photos)
    mounted = photos / "deep" / "disk"
    mounted.mkdir(parents=True)
    (mounted / ".not-mounted").touch()
    pretend(collection, mounted, gone.MANY_OF_AN_EMPTY_FOLDER)
    report = collection.ingest_files(photos, prune=True)
    assert (report.removed, [loss.folder for loss in report.losses]) == (0, [str(mounted)])

    shutil.rmtree(photos / "deep")  # an album that was deleted together with its folder
    assert collection.ingest_files(photos, prune=True).removed == gone.MANY_OF_AN_EMPTY_FOLDER

    monkeypatch.setattr(gone, "MANY_OF_A_FOLDER", 11)  # unless it held very many
    pretend(collection, photos / "deep", 11)
    report = collection.ingest_files(photos, prune=True)
    assert (report.removed, [loss.folder for loss in report.losses]) == (0, [str(photos / "deep")])


def test_a_folder_that_was_deleted_is_pruned_by_naming_it(collection: SearchDB, photos: Path) -> None:
    collection.ingest_files(photos)
    photos.rename(photos.with_name("off"))
    for prune in (False, True):
        with pytest.raises(SourceError, match=rf"'{photos}' does not exist, but 12 images .* with --prune --yes"):
            collection.ingest_files(photos, prune=prune)
    with pytest.raises(SourceError, match="does not exist; give"):
        collection.ingest_files(photos.with_name("typo"), prune="always")
    assert len(stored(collection)) == COUNT
    assert collection.ingest_files(photos / "0.jpg", prune="always").removed == 1
    report = collection.ingest_files(photos, prune="always")
    assert (report.gone, report.removed, report.done) == (11, 11, 0)


@pytest.mark.parametrize("prune", ["never", "ALWAYS", "", None, 1])
def test_other_values_of_prune_are_refused(collection: SearchDB, photos: Path, prune: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be True, False or 'always'"):
        collection.ingest_files(photos, prune=prune)


@pytest.mark.parametrize("options", [{"limit": 1}, {"enqueue_only": True}])
def test_only_a_complete_ingest_prunes(collection: SearchDB, photos: Path, options: dict[str, Any]) -> None:
    """The image of a file that was moved would be removed before its new path is seen."""
    collection.ingest_files(photos)
    (photos / "0.jpg").rename(photos / "z.jpg")
    with pytest.raises(ConfigError, match="leave out limit and enqueue_only"):
        collection.ingest_files(photos, prune=True, **options)
    assert "0.jpg" in stored(collection)


def test_what_cannot_be_looked_at_is_not_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/no/such/disk/a.jpg")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder.jpg").mkdir()
    assert not is_gone(str(tmp_path / "file"))
    assert not is_gone(str(tmp_path / "link"))
    assert not is_gone(str(tmp_path / "loop" / "a.jpg"))
    assert not is_gone(str(tmp_path / ("x" * 300)))
    assert is_gone(str(tmp_path / "none"))
    assert is_gone(str(tmp_path / "file" / "a.jpg"))
    assert is_gone(str(tmp_path / "folder.jpg"))


def test_a_folder_that_cannot_be_read_keeps_its_images(collection: SearchDB, photos: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    collection.ingest_files(photos)
    (photos / "trip").chmod(0)
    try:
        assert collection.gone_files(photos) == []
    finally:
        (photos / "trip").chmod(0o700)


def test_the_command_refuses_in_one_line(settings: Settings, photos: Path) -> None:
    run(settings, "ingest", "files", photos)
    for n in range(9):
        (photos / f"{n}.jpg").rename(photos.parent / f"{n}.jpg")
    result = run(settings, "ingest", "files", photos, "--prune", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["unchanged"], document["gone"], document["removed"]) == (1, 3, 9, 0)
    assert document["losses"][0].keys() == {"folder", "gone", "stored", "examples"}
    (line,) = [line for line in result.stderr.splitlines() if "nothing was removed" in line]
    assert f"9 of the 12 images stored from {photos} are gone, such as {photos}/0.jpg" in line
    assert "--yes" in line
    assert "--prune --yes removes them" in run(settings, "ingest", "files", photos).stderr
    insisted = run(settings, "ingest", "files", photos, "--prune", "--yes")
    assert (insisted.exit_code, "removed 9 images" in insisted.stderr) == (0, True)
    shutil.rmtree(photos)
    assert run(settings, "ingest", "files", photos, "--prune").exit_code == 1
    assert run(settings, "ingest", "files", photos, "--prune", "--yes").exit_code == 0
    assert run(settings, "ingest", "files", photos, "--prune", "--yes").exit_code == 1


@pytest.mark.parametrize("arguments", [["--yes"], ["--prune", "--enqueue-only"], ["--prune", "--limit", "1"]])
def test_options_that_do_not_go_together(settings: Settings, tmp_path: Path, arguments: list[str]) -> None:
    assert run(settings, "ingest", "files", tmp_path, *arguments).exit_code == 2
