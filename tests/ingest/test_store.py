"""Tests what the store writes: images, failures, and text that PostgreSQL cannot store."""

from __future__ import annotations

import dataclasses
import threading
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.errors import DatabaseError, NotAnImageError, TransferError
from searchdb.ingest.frames import StoredFile
from searchdb.ingest.store import Store
from searchdb.records import DecodedImage, EmbeddedImage, FailedImage, ModelIdentity, SourceItem, WrittenMetadata
from tests.helpers.stored_images import store_images

MODEL = ModelIdentity(name="test", weights_sha256=b"t" * 32, dimension=512)
NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database.engine)


def embedded(item: SourceItem, *, axis: int = 0, sha256: bytes = b"s" * 32, **written: Any) -> EmbeddedImage:
    vector = np.zeros(512, np.float32)
    vector[axis] = 1
    decoded = DecodedImage(
        item=item, pixels=Image.new("RGB", (1, 1)), sha256=sha256, byte_size=item.byte_size or 10, width=30, height=20,
        written=WrittenMetadata(**written),
    )  # fmt: skip
    return EmbeddedImage(decoded=decoded, embedding=vector)


def test_metadata_of_the_source_takes_precedence_over_the_files(store: Store, database: Database) -> None:
    item = SourceItem(
        image="/a.jpg", source="files", tags=("x", "y", "x"), camera="Said", metadata={"deep": {"n": [1, None]}},
        byte_size=10, modified_at=NOON,
    )  # fmt: skip
    store_images(database.engine, [embedded(item, camera="Exif", taken_at=NOON, latitude=1.5, longitude=-2.5)], MODEL)
    with database.connect() as connection:
        row = connection.execute(sa.select(images)).mappings().one()
    assert row["tags"] == ["x", "y"]
    assert (row["camera"], row["taken_at"], row["latitude"], row["longitude"]) == ("Said", NOON, 1.5, -2.5)
    assert row["metadata"] == {"deep": {"n": [1, None]}}
    assert (row["width"], row["height"], row["byte_size"], row["modified_at"]) == (30, 20, 10, NOON)
    assert row["embedding"].shape == (512,)
    assert row["embedding"][0] == 1


def test_upserting_again_replaces_the_row_and_keeps_its_id(store: Store, database: Database) -> None:
    item = SourceItem(image="/a.jpg", source="files", description="old")
    store_images(database.engine, [embedded(item)], MODEL)
    store_images(database.engine, [embedded(dataclasses.replace(item, description="new"), axis=3)], MODEL)
    with database.connect() as connection:
        rows = connection.execute(sa.select(images.c.id, images.c.description, images.c.embedding)).all()
    assert [(row.id, row.description, int(np.argmax(row.embedding))) for row in rows] == [(1, "new", 3)]


def test_a_chunk_is_stored_wholly_or_not_at_all(store: Store, database: Database) -> None:
    good = SourceItem(image="/a.jpg", source="files")
    with pytest.raises(DatabaseError, match="image_length"):
        store_images(
            database.engine, [embedded(good), embedded(SourceItem(image="/" + "x" * 3000, source="files"))], MODEL
        )
    assert store.counts() == {"images": 0, "failed": 0, "pending": 0}


def test_a_file_matches_while_its_size_and_time_are_unchanged(store: Store, database: Database) -> None:
    item = SourceItem(image="/a.jpg", source="files", byte_size=10, modified_at=NOON)
    url = SourceItem(image="https://example.org/a.jpg", source="urls")
    store_images(database.engine, [embedded(item), embedded(url)], MODEL)
    states = store.stored([item.image, url.image, "/unknown"])
    assert states.keys() == {item.image, url.image}
    assert states[item.image].matches(item)
    assert states[url.image].matches(url)
    assert not states[item.image].matches(dataclasses.replace(item, byte_size=11))
    assert not states[item.image].matches(dataclasses.replace(item, modified_at=datetime(2024, 5, 2, tzinfo=UTC)))


def test_failures_count_attempts_and_are_deleted_when_the_image_is_stored(store: Store, database: Database) -> None:
    item = SourceItem(image="/a.jpg", source="files", byte_size=10, modified_at=NOON, tags=("t",))
    failed = FailedImage(image=item.image, source="files", error=TransferError("it broke"), item=item)
    store.record_failures([failed])
    store.record_failures([dataclasses.replace(failed, error=NotAnImageError("it is HTML"))])
    (failure,) = store.failures()
    assert (failure.error, failure.message, failure.attempts, failure.retryable) == (
        "NotAnImageError", "it is HTML", 2, False,
    )  # fmt: skip
    assert failure.item is not None
    assert SourceItem.from_json(failure.item) == dataclasses.replace(item, tags=["t"])
    assert store.failed([item.image])[item.image].has_same_file(item)
    store_images(database.engine, [embedded(item)], MODEL)
    assert store.counts() == {"images": 1, "failed": 0, "pending": 0}


def test_failures_are_listed_and_cleared_by_source_and_class(store: Store) -> None:
    store.record_failures(
        [
            FailedImage(image="/a", source="files", error=TransferError("a")),
            FailedImage(image="/b", source="urls", error=TransferError("b")),
            FailedImage(image="/c", source="urls", error=NotAnImageError("c")),
        ]
    )
    assert [f.image for f in store.failures(source="urls")] == ["/b", "/c"]
    assert [f.image for f in store.failures(source="urls", error="TransferError")] == ["/b"]
    assert store.clear_failures(error="TransferError") == 2
    assert [f.image for f in store.failures()] == ["/c"]


EXIF_TIME = datetime(2020, 2, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "decoded", "taken_at", "marked"),
    [
        ({"taken_at": NOON, "modified_at": NOON}, {"taken_at": EXIF_TIME, "taken_at_from": "DateTime"}, NOON, None),
        ({"modified_at": NOON}, {"taken_at": EXIF_TIME, "taken_at_from": "DateTimeOriginal"}, EXIF_TIME, None),
        ({"modified_at": NOON}, {"taken_at": EXIF_TIME, "taken_at_from": "DateTime"}, EXIF_TIME, "DateTime"),
        ({"modified_at": NOON}, {}, NOON, "file"),
        ({"modified_at": datetime(1980, 1, 1, tzinfo=UTC)}, {}, None, None),
        ({"modified_at": datetime(2999, 1, 1, tzinfo=UTC)}, {}, None, None),
        ({}, {}, None, None),
    ],
)
def test_the_time_taken_says_where_it_comes_from(
    database: Database, given: dict[str, Any], decoded: dict[str, Any], taken_at: datetime | None, marked: str | None
) -> None:
    item = SourceItem(image="/a.jpg", source="files", metadata={"mood": "calm"}, **given)
    store_images(database.engine, [embedded(item, **decoded)], MODEL)
    with database.connect() as connection:
        row = connection.execute(sa.select(images)).mappings().one()
    assert row["taken_at"] == taken_at
    assert row["metadata"] == {"mood": "calm"} | ({} if marked is None else {"taken_at_from": marked})


def test_what_people_search_by_is_stored_in_nfc_and_references_as_they_are(database: Database) -> None:
    nfd = unicodedata.normalize("NFD", "Café")
    item = SourceItem(
        image=f"/{nfd}/a.jpg", source=nfd, source_id=f"{nfd}/a.jpg", page_url=f"http://h/{nfd}", description=nfd,
        credit=nfd, country=nfd, city=nfd, tags=(nfd, "Café", "A\u030a"), metadata={nfd: nfd},
    )  # fmt: skip
    store_images(database.engine, [embedded(item, camera=nfd)], MODEL)
    with database.connect() as connection:
        row = connection.execute(sa.select(images)).mappings().one()
    assert {row[name] for name in ("source", "description", "credit", "camera", "country", "city")} == {"Café"}
    assert row["tags"] == ["Café", "\u00c5"]
    assert (row["image"], row["source_id"], row["page_url"]) == (f"/{nfd}/a.jpg", f"{nfd}/a.jpg", f"http://h/{nfd}")
    assert row["metadata"] == {nfd: nfd}


def test_text_that_postgresql_cannot_hold_is_made_storable(store: Store, database: Database) -> None:
    item = SourceItem(
        image="/a.jpg", source="files", description="nul\x00 half \ud83d", tags=("t\x00",), metadata={"k\x00": ["\x00"]}
    )
    store_images(database.engine, [embedded(item, camera="Cam\x00")], MODEL)
    with database.connect() as connection:
        row = connection.execute(sa.select(images)).mappings().one()
    assert row["description"] == "nul� half �"
    assert (row["tags"], row["metadata"], row["camera"]) == (["t�"], {"k�": ["�"]}, "Cam�")


@pytest.mark.slow
def test_concurrent_writers_of_the_same_images_do_not_deadlock(store: Store, database: Database) -> None:
    items = [SourceItem(image=f"/{n:03}.jpg", source="files") for n in range(50)]
    failures: list[BaseException] = []

    def write(order: list[SourceItem]) -> None:
        try:
            for _ in range(5):
                failed = [FailedImage(image=i.image, source="files", error=TransferError("x"), item=i) for i in order]
                store.record_failures(failed)
                store_images(database.engine, [embedded(item) for item in order], MODEL)
        except BaseException as exc:  # noqa: BLE001 - whatever it is, the test must show it
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(order,)) for order in (items, items[::-1], items[25:] + items[:25])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.counts()["images"] == 50


def test_any_number_of_images_is_deleted_at_once(store: Store, database: Database) -> None:
    store_images(database.engine, [embedded(SourceItem(image=f"/{n}.jpg", source="files")) for n in range(3)], MODEL)
    found = [*store.images_under("/0.jpg"), *store.images_under("/1.jpg")]
    others = (StoredFile(id=n, image="/2.jpg", file="/2.jpg") for n in range(100_000, 200_000))
    assert store.delete_images([*found, *others]) == 2
    assert store.delete_images([]) == 0
    assert [each.image for each in store.images_under("/")] == ["/2.jpg"]


def test_an_image_that_has_another_path_by_now_is_not_deleted(store: Store, database: Database) -> None:
    store_images(database.engine, [embedded(SourceItem(image="/a.jpg", source="files"))], MODEL)
    (found,) = store.images_under("/a.jpg")
    assert store.delete_images([replace(found, image="/b.jpg")]) == 0


def test_images_under_a_folder_are_those_of_files_only(store: Store, database: Database) -> None:
    items = [
        SourceItem(image="/photos/a.jpg", source="files"),
        SourceItem(image="/photos/deep/b_%.jpg", source="files"),
        SourceItem(image="/photos2/c.jpg", source="files"),
        SourceItem(image="/photos/d.jpg", source="demo"),
    ]
    store_images(database.engine, [embedded(item) for item in items], MODEL)
    assert sorted(each.image for each in store.images_under("/photos/")) == ["/photos/a.jpg", "/photos/deep/b_%.jpg"]
    assert store.delete_images(list(store.images_under("/photos"))) == 2
    assert list(store.images_under("/\udcff")) == []
    assert store.delete_source("demo") == 1
    assert store.counts()["images"] == 1
