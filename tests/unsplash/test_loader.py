"""The Unsplash dataset in a real PostgreSQL: loaded, loaded again, turned into items, refreshed."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from searchdb.cli.prose import describe_load
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.errors import DatabaseError, InvalidReferenceError, SourceError
from searchdb.records import (
    DecodedImage,
    EmbeddedImage,
    ModelIdentity,
    RejectedItem,
    SourceItem,
    WrittenMetadata,
)
from searchdb.unsplash import loader
from searchdb.unsplash.columns import FORMATS
from searchdb.unsplash.loader import LoadProgress, LoadReport
from searchdb.unsplash.reader import find_parts
from searchdb.unsplash.tables import TABLES
from tests.helpers import unsplash_files as files
from tests.helpers.stored_images import store_images

MODEL = ModelIdentity(name="test/model", weights_sha256=b"0" * 32, dimension=512)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "dataset"


def load(database: Database, *paths: Path) -> LoadReport:
    return loader.load(database.engine, find_parts(paths))


def content(database: Database, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table in a fixed order, without NULLs."""
    with database.connect() as connection:
        rows = connection.execute(sa.select(TABLES[table]).order_by(*TABLES[table].c)).mappings()
        return [{name: value for name, value in row.items() if value is not None} for row in rows]


def versions(database: Database, table: str) -> list[Any]:
    """Return which transaction wrote each row."""
    with database.connect() as connection:
        return list(connection.scalars(sa.text(f"SELECT xmin::text || ctid::text FROM unsplash_{table} ORDER BY 1")))


def found(database: Database, *paths: Path, **options: Any) -> list[SourceItem | RejectedItem]:
    return list(loader.items(database.engine, find_parts(paths), **options))


def photo_items(database: Database, *paths: Path) -> list[SourceItem]:
    everything = found(database, *paths)
    assert all(isinstance(each, SourceItem) for each in everything), everything
    return [each for each in everything if isinstance(each, SourceItem)]


def store(database: Database, *items: SourceItem, **written: Any) -> None:
    """Store items as if they had been fetched and embedded."""
    vector = np.zeros(512, np.float32)
    vector[0] = 1
    pixels = Image.new("RGB", (1, 1))
    store_images(
        database.engine,
        [
            EmbeddedImage(
                decoded=DecodedImage(
                    item=item,
                    pixels=pixels,
                    sha256=b"",
                    byte_size=1,
                    width=1,
                    height=1,
                    written=WrittenMetadata(**written),
                ),
                embedding=vector,
            )
            for item in items
        ],
        MODEL,
    )


def stored(database: Database, name: str = "photo000001") -> Any:
    with database.connect() as connection:
        columns = [column for column in images.c if column.name != "embedding"]
        return connection.execute(sa.select(*columns).where(images.c.source_id == name)).one()


# --- Loading --------------------------------------------------------------------------------------


def test_every_table_is_loaded(database: Database, folder: Path) -> None:
    report = load(database, files.write_dataset(folder))
    expected = {"photos": 5, "keywords": 15, "collections": 5, "colors": 5, "conversions": 5}
    assert report.rows == report.written == expected
    assert report.to_json() == {"rows": expected, "written": expected, "bad": {}, "bad_rows": []}
    assert {table: len(content(database, table)) for table in TABLES} == expected
    assert content(database, "photos")[0] == {
        "photo_id": "photo000001",
        "photo_url": "https://unsplash.com/photos/photo000001",
        "photo_image_url": "https://images.unsplash.com/photo000001-raw",
        "photo_submitted_at": datetime(2019, 3, 4, 5, 6, 7, 123456, tzinfo=UTC),
        "photo_featured": True,
        "photo_width": 6000,
        "photo_height": 4000,
        "photo_aspect_ratio": 1.5,
        "photo_description": "picture 1",
        "photographer_username": "user_1",
        "photographer_first_name": "Ann",
        "photographer_last_name": "Example 1",
        "stats_views": 10_000_000_001,
        "stats_downloads": 1,
    }
    assert content(database, "colors")[0] == {
        "photo_id": "photo000001",
        "hex": "A0B1C2",
        "red": 160,
        "coverage": 0.25,
        "score": 0.5,
    }


def test_loading_again_changes_nothing(database: Database, folder: Path, tmp_path: Path) -> None:
    load(database, files.write_dataset(folder))
    before = {table: (content(database, table), versions(database, table)) for table in TABLES}
    again = load(database, files.zipped(folder, tmp_path / "lite.zip", inside="lite/"))
    assert again.rows.total() == 35
    assert again.written.total() == 0
    assert {table: (content(database, table), versions(database, table)) for table in TABLES} == before


def test_later_rows_win_and_absent_columns_are_kept(database: Database, folder: Path) -> None:
    older = files.write(folder, "photos.tsv000", [files.photo(), files.photo(photo_description="last"), files.photo(2)])
    assert load(database, older).written == {"photos": 2}
    assert [row["photo_description"] for row in content(database, "photos")] == ["last", "picture 2"]
    newer = files.write(
        folder,
        "photos.csv001",
        [{"photo_id": "photo000001", "photo_width": "5", "blur_hash": "L"}, files.photo(2)],
        columns=["blur_hash", "photo_id", "photo_width", "unheard_of"],
    )
    assert load(database, newer).written == {"photos": 1}
    first = content(database, "photos")[0]
    assert (first["photo_description"], first["photo_width"], first["blur_hash"]) == ("last", 5, "L")
    keys = files.write(folder, "photos.tsv002", [files.photo(), files.photo(3)], columns=["photo_id"])
    assert load(database, keys).written == {"photos": 1}


def test_a_value_that_became_blank_becomes_null(database: Database, folder: Path) -> None:
    load(database, files.write(folder, "photos.tsv000", [files.photo()]))
    load(database, files.write(folder, "photos.tsv000", [files.photo(photo_description="")]))
    assert "photo_description" not in content(database, "photos")[0]


def test_conversions_are_added_once(database: Database, folder: Path) -> None:
    plain, no_time = files.conversion(1, "dune"), files.conversion(2, "quay", converted_at="", keyword="")
    path = files.write(folder, "conversions.tsv000", [plain, plain, no_time, no_time, files.conversion(1, "tram")])
    assert load(database, path).written == {"conversions": 3}
    assert load(database, path).written == {"conversions": 0}
    more = files.write(folder, "conversions.tsv001", [plain, files.conversion(1, "dune", device_type="mobile")])
    assert load(database, more).written == {"conversions": 1}
    assert len(content(database, "conversions")) == 4


def test_concurrent_loaders_add_nothing_twice(database: Database, folder: Path) -> None:
    files.write_dataset(folder, 60)
    reports: list[LoadReport] = []
    threads = [threading.Thread(target=lambda: reports.append(load(database, folder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.written.total() for report in reports) == 60 * 7
    assert len(content(database, "conversions")) == 60


def test_bad_rows_are_skipped_counted_and_reported(database: Database, folder: Path) -> None:
    rows = [files.keyword(n, "dune", ai_service_1_confidence="x" if n % 2 else n) for n in range(1, 21)]
    files.write(folder, "keywords.tsv000", rows)
    report = load(database, folder)
    assert (report.rows, report.written, report.bad) == ({"keywords": 10}, {"keywords": 10}, {"keywords": 10})
    assert report.bad_rows[0] == ("line 2 of keywords.tsv000: column ai_service_1_confidence: 'x' is not a number")
    assert len(report.bad_rows) == 5
    assert describe_load(report).splitlines() == [
        "keywords: 10 rows, 10 new or changed, 10 bad",
        *(f"  {each}" for each in report.bad_rows),
    ]


def test_an_unreadable_part_is_rolled_back(database: Database, folder: Path, tmp_path: Path) -> None:
    files.write(folder, "photos.tsv000", [files.photo(1)])
    files.write(folder, "photos.tsv001", (files.photo(n) for n in range(2, 2_000)))
    archive = files.zipped(folder, tmp_path / "lite.zip")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(SourceError, match=r"photos\.tsv001 in 'lite\.zip' cannot be read to its end"):
        load(database, archive)
    assert [row["photo_id"] for row in content(database, "photos")] == ["photo000001"]


def test_an_interrupted_load_leaves_no_partial_part(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "PROGRESS_ROWS", 1_000)

    def interrupt(progress: LoadProgress) -> None:
        if progress.part == "keywords.tsv001":
            raise KeyboardInterrupt

    folder.mkdir()
    files.many_keywords(folder / "keywords.tsv000", 100)
    files.many_keywords(folder / "keywords.tsv001", 2_000)
    with pytest.raises(KeyboardInterrupt):
        loader.load(database.engine, find_parts([folder]), progress=interrupt)
    assert len(content(database, "keywords")) == 100
    assert load(database, folder).written == {"keywords": 1_900}


def test_postgresql_errors_are_translated(database: Database, folder: Path) -> None:
    files.write(folder, "photos.tsv000", [files.photo()])
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE unsplash_photos ALTER COLUMN photo_width TYPE smallint"))
    files.write(folder, "photos.tsv000", [files.photo(photo_width=100_000)])
    with pytest.raises(DatabaseError, match=r"photos\.tsv000 cannot be loaded: .*out of range") as caught:
        load(database, folder)
    assert caught.value.sqlstate == "22003"


def test_progress_counts_the_bytes_of_all_parts(
    database: Database, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "PROGRESS_ROWS", 1_000)
    folder.mkdir()
    files.many_keywords(folder / "keywords.tsv000", 2_500)
    files.write(folder, "photos.tsv000", [files.photo()])
    for path in (folder, files.zipped(folder, tmp_path / "lite.zip")):
        reported: list[LoadProgress] = []
        loader.load(database.engine, find_parts([path]), progress=reported.append)
        assert [(each.table, each.rows) for each in reported] == [
            ("photos", 1),
            ("keywords", 1_000),
            ("keywords", 2_000),
            ("keywords", 2_500),
        ]
        done = [each.bytes_done for each in reported]
        assert done == sorted(done)
        assert {each.bytes_total for each in reported} == {done[-1]}
        assert done[-1] == sum(part.stat().st_size for part in folder.iterdir())


_ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_ANY.filter(lambda word: not word.isspace()), max_size=8))
def test_any_text_is_stored_unchanged(database: Database, folder: Path, words: list[str]) -> None:
    with database.begin() as connection:
        connection.execute(sa.delete(TABLES["keywords"]))
    rows = [files.keyword(1, word, user_suggestion_source=word) for word in words]
    load(database, files.write(folder, "keywords.tsv000", rows, end="\r\n"))
    arrived = {row["keyword"]: row["user_suggestion_source"] for row in content(database, "keywords")}
    assert arrived == dict(zip(words, words, strict=True))


def test_the_longest_keys_fit_their_indexes(database: Database, folder: Path) -> None:
    """Of random characters, which PostgreSQL cannot compress."""
    noise = np.random.default_rng(7).integers(0x4E00, 0x9FFF, 341)
    key = "".join(map(chr, noise)) + "x"
    assert len(key.encode()) == 1024
    files.write(folder, "keywords.tsv000", [files.keyword(1, key, photo_id=key)])
    files.write(folder, "conversions.tsv000", [files.conversion(1, key, photo_id=key)])
    assert load(database, folder).written == {"keywords": 1, "conversions": 1}


def test_the_tables_have_the_columns_of_the_files() -> None:
    for name, table in TABLES.items():
        assert table.name == f"unsplash_{name}"
        assert [column.name for column in table.c] == list(FORMATS[name].columns)


# --- Items ----------------------------------------------------------------------------------------


def test_items_have_the_order_of_the_files_and_their_keywords(database: Database, folder: Path) -> None:
    files.write(folder, "photos.tsv000", [files.photo(3), files.photo(1)])
    files.write(folder, "photos.tsv001", [files.photo(2, photo_width=3000, photo_height=1000)])
    files.write(
        folder,
        "keywords.tsv000",
        [
            files.keyword(1, "quay", ai_service_1_confidence=10, ai_service_2_confidence=95),
            files.keyword(1, "tram", ai_service_1_confidence=80),
            files.keyword(1, "kiln", suggested_by_user="t"),
            files.keyword(1, "attic", suggested_by_user="t"),
            files.keyword(1, "heron", ai_service_2_confidence=80),
            files.keyword(1, "unsure", suggested_by_user=""),
            files.keyword(4, "lost"),
        ],
    )
    load(database, folder)
    third, first, second = photo_items(database, folder)
    assert [each.source_id for each in (third, first, second)] == ["photo000003", "photo000001", "photo000002"]
    assert first.tags == ("attic", "kiln", "quay", "heron", "tram", "unsure")
    assert third.tags == ()
    assert first.image == "https://images.unsplash.com/photo000001-raw"
    assert first.rendition == f"{first.image}?w=640&fm=jpg&q=80&fit=max"
    assert second.rendition == f"{second.image}?w=672&fm=jpg&q=80&fit=max"
    assert [each.rendition for each in found(database, folder, rendition=None) if isinstance(each, SourceItem)] == [
        None,
        None,
        None,
    ]


def test_more_items_than_one_batch(database: Database, folder: Path) -> None:
    files.write(folder, "photos.tsv000", (files.photo(n) for n in range(1, 1203)))
    load(database, folder)
    assert [each.source_id for each in photo_items(database, folder)] == [f"photo{n:06}" for n in range(1, 1203)]


def test_bad_rows_and_photos_without_a_url_are_rejected_in_order(database: Database, folder: Path) -> None:
    files.write(
        folder,
        "photos.tsv000",
        [
            files.photo(1),
            files.photo(2, photo_width="wide"),
            files.photo(3, photo_image_url=""),
            files.photo(4, photo_image_url="images.unsplash.com/4"),
            files.photo(5),
        ],
    )
    with (folder / "photos.tsv000").open("a") as file:
        file.write("cut off\n")
    report = load(database, folder)
    assert (report.rows, report.bad) == ({"photos": 4}, {"photos": 2})
    one, two, three, four, five, six = found(database, folder)
    assert isinstance(one, SourceItem)
    assert isinstance(five, SourceItem)
    expected = [
        (two, "https://images.unsplash.com/photo000002-raw", "line 3 of photos.tsv000: column photo_width: 'wide' is"),
        (three, "photos.tsv000:4", "line 4 of photos.tsv000: column photo_image_url is empty"),
        (four, "images.unsplash.com/4", "line 5 of photos.tsv000: column photo_image_url: 'images.unsplash.com/4' do"),
        (six, "photos.tsv000:7", "line 7 of photos.tsv000: the row is malformed (1 fields, the header has 31)"),
    ]
    for rejected, image, message in expected:
        assert isinstance(rejected, RejectedItem)
        assert (rejected.source, rejected.image) == ("unsplash", image)
        assert isinstance(rejected.error, InvalidReferenceError)
        assert str(rejected.error).startswith(message)


def test_a_malformed_rendition_is_refused_at_once(database: Database, folder: Path) -> None:
    parts = find_parts([files.write_dataset(folder)])
    with pytest.raises(SourceError, match="the rendition '640' is not a query string"):
        loader.items(database.engine, parts, rendition="640")


def test_parts_must_have_been_loaded(database: Database, folder: Path) -> None:
    files.write_dataset(folder)
    with pytest.raises(SourceError, match=r"photo photo000001 of photos\.tsv000 is not in unsplash_photos; load it"):
        found(database, folder)
    assert found(database, folder / "keywords.tsv000") == []


# --- Refreshing -----------------------------------------------------------------------------------


def test_tables_loaded_later_update_the_stored_images(database: Database, folder: Path) -> None:
    files.write(folder, "photos.tsv000", (files.photo(n) for n in range(1, 4)))
    load(database, folder)
    store(database, *photo_items(database, folder))
    assert loader.refresh(database.engine) == 0
    load(database, files.write(folder, "keywords.tsv000", [files.keyword(1, "dune"), files.keyword(2, "quay")]))
    before = stored(database, "photo000003")
    assert loader.refresh(database.engine) == 2
    assert loader.refresh(database.engine) == 0
    assert stored(database).tags == ["dune"]
    assert stored(database, "photo000003") == before
    load(
        database,
        files.write(folder, "photos.tsv001", [files.photo(3, photo_description="", photo_location_city=" Oslo ")]),
    )
    assert loader.refresh(database.engine) == 1
    row = stored(database, "photo000003")
    assert (row.description, row.city, row.credit) == (None, "Oslo", "Ann Example 3")
    assert row.ingested_at == before.ingested_at


def test_refreshing_compares_texts_in_nfc(database: Database, folder: Path) -> None:
    files.write(folder, "photos.tsv000", [files.photo(1, photo_location_city="Malmo\u0308")])
    files.write(folder, "keywords.tsv000", [files.keyword(1, "du\u0308ne"), files.keyword(1, "d\u00fcne")])
    load(database, folder)
    store(database, *photo_items(database, folder))
    assert (stored(database).city, stored(database).tags) == ("Malm\u00f6", ["d\u00fcne"])
    assert loader.refresh(database.engine) == 0


def test_refreshing_keeps_metadata_from_the_file(database: Database, folder: Path) -> None:
    files.write(folder, "photos.tsv000", [files.photo(photo_submitted_at="")])
    load(database, folder)
    taken = datetime(2001, 2, 3, tzinfo=UTC)
    of_file = {"taken_at": taken, "taken_at_from": "DateTime", "camera": "X100", "latitude": 1.5, "longitude": 2.5}
    store(database, *photo_items(database, folder), **of_file)
    assert loader.refresh(database.engine) == 0
    assert stored(database).metadata["taken_at_from"] == "DateTime"
    load(
        database,
        files.write(folder, "photos.tsv000", [files.photo(photo_location_latitude=9, photo_location_longitude=8)]),
    )
    assert loader.refresh(database.engine) == 1
    row = stored(database)
    assert (row.taken_at.year, row.camera, row.latitude, row.longitude) == (2019, "X100", 9, 8)
    assert "taken_at_from" not in row.metadata


def test_refreshing_does_not_change_unknown_images(database: Database, folder: Path) -> None:
    store(
        database,
        SourceItem(image="https://example.org/a", source="unsplash", source_id="gone", description="kept"),
        SourceItem(image="https://example.org/b", source="unsplash", description="kept"),
        SourceItem(image="https://example.org/c", source="urls", source_id="photo000001", description="kept"),
        SourceItem(image="https://example.org/d", source="unsplash", source_id="photo000001", description="old"),
    )
    load(database, files.write(folder, "photos.tsv000", [files.photo(1)]))
    assert loader.refresh(database.engine) == 1
    with database.connect() as connection:
        descriptions = connection.scalars(sa.select(images.c.description).order_by(images.c.image)).all()
    assert descriptions == ["kept", "kept", "kept", "picture 1"]
    load(database, files.write(folder, "photos.tsv000", [files.photo(1, photo_image_url="")]))
    assert loader.refresh(database.engine) == 0


def test_more_images_than_one_batch_are_refreshed(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "BATCH_PHOTOS", 50)
    files.write(folder, "photos.tsv000", (files.photo(n) for n in range(1, 123)))
    load(database, folder)
    store(
        database,
        *(SourceItem(image=f"/{n}", source="unsplash", source_id=f"photo{n:06}") for n in range(1, 123)),
    )
    assert loader.refresh(database.engine) == 122
    assert loader.refresh(database.engine) == 0
