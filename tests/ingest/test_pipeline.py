"""Tests the ingest with real files, a real HTTP server and the demo model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.db.tables import images, ingest_failures
from searchdb.errors import DatabaseUnavailableError, ModelMismatchError, SourceError
from searchdb.ingest.report import IngestReport
from searchdb.records import ModelIdentity
from tests.helpers.image_server import ImageServer


@pytest.fixture
def folder(album: Path, tmp_path: Path) -> Path:
    """A folder with three images, one of them in a sub-folder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "holiday").mkdir(parents=True)
    for n, name in enumerate(["a.jpg", "b.jpg", "holiday/c.jpg"]):
        shutil.copy(sorted(album.glob("*.jpg"))[n], folder / name)
    (folder / "note.txt").write_text("not an image\n")
    return folder


def rows(collection: SearchDB) -> dict[str, sa.RowMapping]:
    with collection.database.connect() as connection:
        found = connection.execute(sa.select(images).order_by(images.c.id)).mappings().all()
    return {Path(row["image"]).name: row for row in found}


def counted(report: IngestReport) -> tuple[int, int, int, int]:
    return report.stored, report.unchanged, report.failed.total(), report.known_failures


def test_a_folder_becomes_rows_and_failures(collection: SearchDB, folder: Path) -> None:
    report = collection.ingest_files(folder)
    assert counted(report) == (3, 0, 1, 0)
    stored = rows(collection)
    assert stored.keys() == {"a.jpg", "b.jpg", "c.jpg"}
    assert stored["c.jpg"]["tags"] == ["holiday"]
    assert stored["a.jpg"]["image"] == str(folder.resolve() / "a.jpg")
    assert np.linalg.norm(stored["a.jpg"]["embedding"]) == pytest.approx(1, abs=1e-5)
    (failure,) = collection.store.failures()
    assert (Path(failure.image).name, failure.error) == ("note.txt", "NotAnImageError")


def test_a_second_run_reads_nothing_and_changes_nothing(
    collection: SearchDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.ingest_files(folder)
    before = rows(collection)

    def refuse(*_: object) -> None:
        raise AssertionError("a known file was read again")

    monkeypatch.setattr(collection.fetcher, "fetch", refuse)
    assert counted(collection.ingest_files(folder)) == (0, 3, 0, 1)
    after = rows(collection)
    assert [row["ingested_at"] for row in after.values()] == [row["ingested_at"] for row in before.values()]


def test_a_changed_file_and_a_repaired_one_are_embedded(collection: SearchDB, folder: Path) -> None:
    collection.ingest_files(folder)
    before = rows(collection)
    shutil.copy(folder / "b.jpg", folder / "a.jpg")
    shutil.copy(folder / "b.jpg", folder / "note.txt")
    os.utime(folder / "a.jpg", (1, 1))
    report = collection.ingest_files(folder)
    assert counted(report) == (2, 2, 0, 0)
    assert report.copied == 2
    after = rows(collection)
    assert after["a.jpg"]["id"] == before["a.jpg"]["id"]
    assert after["a.jpg"]["sha256"] == after["b.jpg"]["sha256"] == after["note.txt"]["sha256"]
    assert np.array_equal(after["a.jpg"]["embedding"], before["b.jpg"]["embedding"])
    assert list(collection.store.failures()) == []


def test_known_failures_are_tried_again_when_asked(collection: SearchDB, folder: Path) -> None:
    collection.ingest_files(folder)
    assert counted(collection.ingest_files(folder, retry_failed=True)) == (0, 3, 1, 0)
    (failure,) = collection.store.failures()
    assert failure.attempts == 2


def test_identical_bytes_are_embedded_once_and_stored_twice(
    collection: SearchDB, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "a.jpg", folder / "twin.jpg")
    batches: list[int] = []
    embed = collection.embedder.embed_images
    monkeypatch.setattr(collection.embedder, "embed_images", lambda p: (batches.append(len(p)), embed(p))[1])
    report = collection.ingest_files(folder)
    assert (report.stored, report.copied, sum(batches)) == (4, 1, 3)
    stored = rows(collection)
    assert np.array_equal(stored["a.jpg"]["embedding"], stored["twin.jpg"]["embedding"])


@pytest.fixture
def many(album: Path, tmp_path: Path) -> Path:
    """A folder with sixty images."""
    folder = tmp_path / "many"
    folder.mkdir()
    for path in sorted(album.glob("*.jpg"))[:60]:
        shutil.copy(path, folder)
    return folder


def test_many_chunks_with_progress(collection: SearchDB, many: Path) -> None:
    (many / "note.txt").write_text("not an image\n")
    seen: list[int] = []
    report = collection.ingest_files(many, chunk_size=7, progress=lambda current: seen.append(current.done))
    assert report.stored == 60
    assert report.failed == {"NotAnImageError": 1}
    assert seen == sorted(seen)
    assert seen[-1] == report.done == 61


def test_a_list_of_urls_with_metadata(collection: SearchDB, tmp_path: Path) -> None:
    with ImageServer() as server:
        listed = tmp_path / "list.csv"
        listed.write_text(
            "url,description,tags,country,latitude,longitude,mood\n"
            f"{server.url('/ok.jpg')},A drawing,one;two,Chile,-33.4,-70.7,calm\n"
            f"{server.url('/404')},,,,,,\n"
            f"{server.url('/ok.png')},,,,999,0,\n"
            f"{server.url('/ok.jpg')},again,,,,,\n"
        )
        report = collection.ingest_urls(str(listed))
        assert (report.stored, dict(report.failed)) == (1, {"HTTPStatusError": 1, "InvalidReferenceError": 1})
        row = rows(collection)["ok.jpg"]
        assert (row["description"], row["tags"], row["country"]) == ("A drawing", ["one", "two"], "Chile")
        assert (row["latitude"], row["longitude"], row["metadata"]) == (-33.4, -70.7, {"mood": "calm"})
        asked = sum(server.requests.values())
        assert counted(collection.ingest_urls(str(listed))) == (0, 1, 0, 2)
        assert sum(server.requests.values()) == asked
        listed.write_text(f"url,latitude,longitude\n{server.url('/ok.png')},9,0\n")
        assert counted(collection.ingest_urls(str(listed))) == (1, 0, 0, 0)
        assert [failure.error for failure in collection.store.failures()] == ["HTTPStatusError"]


def test_private_addresses_are_refused_unless_allowed(settings: object, tmp_path: Path) -> None:
    with ImageServer() as server, SearchDB(settings.model_copy(update={"allow_private_addresses": False})) as closed:  # type: ignore[attr-defined]
        listed = tmp_path / "list.txt"
        listed.write_text(server.url("/ok.jpg") + "\n")
        assert closed.ingest_urls(str(listed)).failed == {"AddressRefusedError": 1}
        assert sum(server.requests.values()) == 0


def test_failures_of_urls_keep_their_metadata(collection: SearchDB, tmp_path: Path) -> None:
    with ImageServer() as server:
        listed = tmp_path / "list.jsonl"
        listed.write_text(json.dumps({"url": server.url("/late.jpg"), "description": "kept"}) + "\n")
        assert counted(collection.ingest_urls(str(listed))) == (0, 0, 1, 0)
        with collection.database.connect() as connection:
            item = connection.scalar(sa.select(ingest_failures.c.item))
    assert item is not None
    assert item["description"] == "kept"


def test_another_model_ingests_nothing(collection: SearchDB, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection.ingest_files(folder / "a.jpg")
    other = ModelIdentity(name="other/model", weights_sha256=b"o" * 32, dimension=512)
    monkeypatch.setattr(type(collection.embedder), "identity", other)
    with pytest.raises(ModelMismatchError, match=r"demo .*other/model"):
        collection.ingest_files(folder)
    assert rows(collection).keys() == {"a.jpg"}


def test_stored_images_stay_when_the_run_is_interrupted(collection: SearchDB, many: Path) -> None:
    def interrupt(report: IngestReport) -> None:
        if report.stored >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.ingest_files(many, chunk_size=10, progress=interrupt)
    stored = collection.store.counts()["images"]
    assert stored >= 20
    report = collection.ingest_files(many)
    assert report.stored + report.unchanged == 60
    assert report.unchanged >= stored - 1


@pytest.mark.slow
def test_a_lost_connection_is_one_error(collection: SearchDB, folder: Path) -> None:
    collection.ingest_files(folder / "a.jpg")
    with collection.database.connect() as connection, pytest.raises(DatabaseUnavailableError):
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert collection.ingest_files(folder).stored == 2


def test_a_path_that_does_not_exist_is_named(collection: SearchDB) -> None:
    with pytest.raises(SourceError, match="/no/such/folder"):
        collection.ingest_files("/no/such/folder")


def test_a_greyscale_image_is_stored(collection: SearchDB, tmp_path: Path) -> None:
    Image.new("L", (20, 30), 128).save(tmp_path / "grey.png")
    assert collection.ingest_files(tmp_path / "grey.png").stored == 1
    assert rows(collection)["grey.png"]["height"] == 30
