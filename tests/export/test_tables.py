"""Tables: CSV, TSV, JSON lines and Parquet of searches and of all images, complete or not there at all."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images
from searchdb.errors import ExportError, QueryError, StorageError
from searchdb.export import parquet
from searchdb.export.columns import COLUMNS, default_columns
from searchdb.sources.urls import urls
from tests.helpers.full_disk import fill, small_disk
from tests.helpers.image_server import ImageServer
from tests.helpers.statements import executed_on
from tests.helpers.stored_images import StoredImages

TAKEN = datetime(2024, 5, 31, 18, 30, tzinfo=UTC)
FETCHED = 100
ROW_BYTES = 2000
"""Of the metadata of each of many rows."""


def exported(collection: SearchDB, form: str, *arguments: Any, **more: Any) -> bytes:
    target = io.BytesIO()
    collection.export(target, *arguments, format=form, **more)
    return target.getvalue()


def csv_rows(data: bytes, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


def json_rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.decode().splitlines()]


def test_a_search_has_its_hits_in_order(demo_collection: SearchDB) -> None:
    hits = demo_collection.search("a boat", count=7, tag="sunset")
    columns = ["rank", "id", "image", "similarity", "relevance", "tags"]
    rows = json_rows(exported(demo_collection, "jsonl", "a boat", count=7, tag="sunset", columns=columns))
    assert [row["id"] for row in rows] == [hit.id for hit in hits]
    assert [row["rank"] for row in rows] == [*range(1, 8)]
    assert [row["similarity"] for row in rows] == [hit.similarity for hit in hits]
    assert list(rows[0]) == columns
    assert all(0 <= row["relevance"] <= 1 and "sunset" in row["tags"] for row in rows)


def test_the_similarity_to_each_part_can_be_exported(demo_collection: SearchDB) -> None:
    arguments = {"exclude": "a dog", "count": 2, "columns": ["id", "parts"]}
    [first, _] = json_rows(exported(demo_collection, "jsonl", "a boat", **arguments))
    assert set(first["parts"]) == {"text", "not"}


def test_without_a_query_all_that_the_filters_select_comes_by_id(demo_collection: SearchDB) -> None:
    with demo_collection.database.connect() as connection:
        wanted = connection.scalars(
            sa.select(images.c.id).where(images.c.tags.contains(["boat"])).order_by(images.c.id)
        ).all()
    assert len(wanted) > 10
    for form, read in (("csv", csv_rows), ("jsonl", json_rows)):
        rows = read(exported(demo_collection, form, tag="boat"))
        assert [int(row["id"]) for row in rows] == wanted
        assert list(rows[0]) == default_columns(searched=False)
    raw = json_rows(exported(demo_collection, "jsonl", where="'boat' = ANY (tags)", count=5))
    assert [row["id"] for row in raw] == wanted[:5]


def test_every_column_in_every_format(demo_collection: SearchDB) -> None:
    names = list(COLUMNS)
    for form in ("csv", "tsv", "jsonl", "parquet"):
        data = exported(demo_collection, form, "a boat", columns=names, count=3)
        if form == "parquet":
            assert pq.read_table(pa.BufferReader(data)).column_names == names
        elif form == "jsonl":
            [row, *_] = json_rows(data)
            assert list(row) == names
            assert len(row["embedding"]) == 512
            assert row["model"] == "demo"
        else:
            [row, *_] = csv_rows(data, "," if form == "csv" else "\t")
            assert list(row) == names
            assert len(json.loads(row["embedding"])) == 512
            assert len(bytes.fromhex(row["sha256"])) == 32


def test_csv_is_standard_and_exact(collection: SearchDB, stored: StoredImages) -> None:
    text = 'say "boo",\r\nthen leave; naïve 日本\ttab'
    stored.add(text, tags=["a,b", 'c"d'], metadata={"n": 1, "é": None}, taken_at=TAKEN, latitude=-70.5, longitude=1e-7)
    stored.add(None)
    columns = ["image", "description", "tags", "metadata", "taken_at", "latitude", "longitude"]
    for form, delimiter, end in (("csv", ",", "\r\n"), ("tsv", "\t", "\n")):
        data = exported(collection, form, columns=columns)
        assert not data.startswith(b"\xef\xbb\xbf")
        assert data.decode().endswith(end)
        assert data.decode().splitlines(keepends=True)[0] == delimiter.join(columns) + end
        [row, empty] = csv_rows(data, delimiter)
        assert row["description"] == text
        assert json.loads(row["tags"]) == ["a,b", 'c"d']
        assert json.loads(row["metadata"]) == {"n": 1, "é": None}
        assert datetime.fromisoformat(row["taken_at"]) == TAKEN
        assert row["taken_at"].endswith("+00:00")
        assert (float(row["latitude"]), float(row["longitude"])) == (-70.5, 1e-7)
        assert (empty["description"], empty["latitude"], empty["tags"]) == ("", "", "[]")


def test_no_text_is_a_formula_unless_asked(collection: SearchDB, stored: StoredImages) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]
    for text in texts:
        stored.add(text, image=f"/x/{ord(text[0])}.jpg", latitude=-1.5, longitude=2.0)
    for form, delimiter in (("csv", ","), ("tsv", "\t")):
        rows = csv_rows(exported(collection, form), delimiter)
        assert sorted(row["description"] for row in rows) == sorted(f"'{text}" for text in texts)
        assert {row["latitude"] for row in rows} == {"-1.5"}  # a number, not a text
        kept = csv_rows(exported(collection, form, keep_formulas=True), delimiter)
        assert sorted(row["description"] for row in kept) == sorted(texts)
    exact = json_rows(exported(collection, "jsonl"))
    assert sorted(row["description"] for row in exact) == sorted(texts)


def test_values_that_json_lacks(collection: SearchDB, stored: StoredImages) -> None:
    stored.add("odd", latitude=float("nan"), longitude=float("inf"), taken_at=sa.text("'infinity'"))
    [row] = json_rows(exported(collection, "jsonl"))
    assert (row["latitude"], row["longitude"], row["taken_at"]) == (None, None, "infinity")
    [read] = pq.read_table(pa.BufferReader(exported(collection, "parquet"))).to_pylist()
    assert np.isnan(read["latitude"])
    assert read["taken_at"] is None


def test_parquet_has_the_types_of_the_columns(collection: SearchDB, stored: StoredImages) -> None:
    stored.add("a boat", tags=["a", "b"], metadata={"k": ["v"]}, taken_at=TAKEN, rating=4)
    stored.add(None)
    columns = [*default_columns(searched=False), "embedding"]
    table = pq.read_table(pa.BufferReader(exported(collection, "parquet", columns=columns)))
    types = {field.name: field.type for field in table.schema}
    assert types["id"] == types["byte_size"] == pa.int64()
    assert types["width"] == pa.int32()
    assert types["rating"] == pa.int16()
    assert types["latitude"] == pa.float64()
    assert types["taken_at"] == types["ingested_at"] == pa.timestamp("us", tz="UTC")
    assert types["tags"].value_type == pa.string()
    assert types["metadata"] == types["description"] == pa.string()
    assert types["sha256"] == pa.binary()
    assert types["embedding"] == pa.list_(pa.float32(), 512)
    [first, second] = table.to_pylist()
    assert first["taken_at"] == TAKEN
    assert (first["tags"], second["tags"]) == (["a", "b"], [])
    assert json.loads(first["metadata"]) == {"k": ["v"]}
    assert (first["rating"], second["rating"], second["description"]) == (4, None, None)
    np.testing.assert_array_equal(
        np.asarray(first["embedding"], dtype=np.float32), collection.embedder.embed_texts(["a boat"])[0]
    )
    assert table.schema.metadata[b"searchdb.model"] == b"demo"
    assert (
        table.schema.metadata[b"searchdb.weights_sha256"].decode() == collection.embedder.identity.weights_sha256.hex()
    )


def test_parquet_is_written_in_groups(demo_collection: SearchDB, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 128)
    file = pq.ParquetFile(pa.BufferReader(exported(demo_collection, "parquet", columns=["id", "embedding"])))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [128, 128, 44]
    monkeypatch.setattr(parquet, "GROUP_BYTES", 1)
    file = pq.ParquetFile(pa.BufferReader(exported(demo_collection, "parquet", columns=["metadata"], count=3)))
    assert file.num_row_groups == 3


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_no_image_is_a_table_without_rows(collection: SearchDB, tmp_path: Path, form: str) -> None:
    report = collection.export(tmp_path / f"none.{form}")
    assert (report.exported, report.format) == (0, form)
    data = (tmp_path / f"none.{form}").read_bytes()
    if form == "parquet":
        assert pq.read_table(pa.BufferReader(data)).column_names == default_columns(searched=False)
    else:
        assert data.decode().strip() == (",".join(default_columns(searched=False)) if form == "csv" else "")


def test_parquet_without_pyarrow_names_the_extra(
    demo_collection: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"searchdb\[parquet\]"):
        demo_collection.export(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_an_exported_list_can_be_ingested(
    collection: SearchDB, stored: StoredImages, tmp_path: Path, form: str
) -> None:
    with ImageServer() as server:
        stored.add(
            "a boat, at sea", image=server.url("/ok.jpg?seed=3"), source="urls", credit="Ann", tags=["x, y", "z"],
            taken_at=TAKEN, country="Chile", latitude=-33.5, longitude=-70.25, camera="K", source_id="7",
        )  # fmt: skip
        columns = [
            "image", "description", "credit", "tags", "taken_at", "country", "latitude", "longitude", "camera",
            "source_id",
        ]  # fmt: skip
        collection.export(tmp_path / f"list.{form}", columns=columns)
        [item] = urls(str(tmp_path / f"list.{form}"))
        with collection.database.connect() as connection:
            row = connection.execute(sa.select(images)).one()
        for name in columns:
            assert getattr(item, name) == (tuple(row.tags) if name == "tags" else getattr(row, name)), name  # pyright: ignore
        with collection.database.begin() as connection:
            connection.execute(sa.delete(images))
        assert collection.ingest_urls(str(tmp_path / f"list.{form}")).stored == 1


def test_rows_come_from_the_database_for_reading(demo_settings: Settings) -> None:
    with SearchDB(demo_settings.model_copy(update={"database_url_read": demo_settings.database_url})) as collection:
        with executed_on(collection.database.reader) as statements:
            assert len(csv_rows(exported(collection, "csv", tag="boat"))) > 10
            assert len(csv_rows(exported(collection, "csv", "a boat", columns=["id"], count=3))) == 3
        assert len([statement for statement, _ in statements if "FROM images" in statement]) == 2


# --- Files ----------------------------------------------------------------------------------------


def _rows_that_fail(after: int) -> Any:
    def rows() -> Iterator[dict[str, Any]]:
        for n in range(after):
            yield {"id": n}
        raise QueryError("broken midway")

    return lambda connection, selection, columns: nullcontext(rows())


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_error_midway_leaves_no_file_and_keeps_the_former_one(
    collection: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("searchdb.export.rows._stored_rows", _rows_that_fail(30_000))
    former = tmp_path / f"former.{form}"
    former.write_text("kept")
    for target in (former, tmp_path / f"new.{form}"):
        with pytest.raises(QueryError, match="broken midway"):
            collection.export(target, columns=["id"])
    assert [path.name for path in tmp_path.iterdir()] == [former.name]
    assert former.read_text() == "kept"


def test_a_file_is_replaced_with_its_mode_and_through_links(demo_collection: SearchDB, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    former = tmp_path / "real" / "x.csv"
    former.write_text("old")
    former.chmod(0o640)
    link = tmp_path / "x.csv"
    link.symlink_to(former)
    demo_collection.export(link, count=2)
    assert link.is_symlink()
    assert len(csv_rows(former.read_bytes())) == 2
    assert former.stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_directly(demo_collection: SearchDB, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.parquet"
    os.mkfifo(pipe)
    if (child := os.fork()) == 0:
        (tmp_path / "read").write_bytes(pipe.read_bytes())
        os._exit(0)
    demo_collection.export(pipe, count=2)
    os.waitpid(child, 0)
    assert pipe.is_fifo()
    assert pq.read_table(tmp_path / "read").num_rows == 2


def test_targets_that_cannot_be_written(demo_collection: SearchDB, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for target, reason in (("folder.csv", "Is a directory"), ("no/x.csv", "No such file"), ("nul\0.csv", "null")):
        with pytest.raises(StorageError, match=reason):
            demo_collection.export(tmp_path / target, count=1)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_full_disk_is_one_error_and_no_file(demo_collection: SearchDB, tmp_path: Path, form: str) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        filler = fill(disk)
        with pytest.raises(StorageError, match="No space left") as caught:
            demo_collection.export(disk / f"x.{form}", columns=["*", "embedding"])
        assert caught.value.full
        assert [path.name for path in disk.iterdir()] == [filler.name]


def test_a_failed_export_leaves_nothing_for_the_next_one_to_close(demo_collection: SearchDB) -> None:
    failed = list[BaseException]()

    class Broken(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise StorageError("x.jsonl", "broken", full=False)

    class Forgetting(io.BytesIO):
        def write(self, data: Any, /) -> int:
            if failed:
                failed.clear()  # the last reference to the frames of the failed export
                gc.collect()
            return super().write(data)

    try:
        demo_collection.export(Broken(), format="jsonl")
    except StorageError as exc:
        failed.append(exc)
    assert failed
    target = Forgetting()
    report = demo_collection.export(target, format="jsonl")
    assert not failed
    assert len(json_rows(target.getvalue())) == report.exported > FETCHED


# --- Wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "field", "message"),
    [
        ({"columns": ["id", "nonsense"]}, "columns", "no column 'nonsense'"),
        ({"columns": ["id", " id"]}, "columns", "named twice"),
        ({"columns": []}, "columns", "no column is named"),
        ({"columns": ["similarity"]}, "columns", "only searches have the column similarity"),
        ({"format": "xlsx"}, "format", "csv, tsv, jsonl, parquet, npz, html"),
        ({"format": "html", "columns": ["id"]}, "columns", "no columns"),
        ({"target": "x.xlsx"}, "format", "does not say the format"),
    ],
)
def test_what_cannot_be_exported(
    demo_collection: SearchDB, tmp_path: Path, arguments: dict[str, Any], field: str, message: str
) -> None:
    target = tmp_path / arguments.pop("target", "x.csv")
    with pytest.raises(ExportError, match=message) as caught:
        demo_collection.export(target, **arguments)
    assert caught.value.field == field
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"exclude": "dogs"}, "exclude"),
        ({"threshold": 0.2}, "threshold"),
        ({"count": 0}, "count"),
        ({"tag": ""}, "tag"),
    ],
)
def test_queries_that_make_no_sense(demo_collection: SearchDB, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(QueryError) as caught:
        exported(demo_collection, "csv", **arguments)
    assert caught.value.field == field


def test_a_condition_that_would_write_is_refused(demo_collection: SearchDB) -> None:
    with pytest.raises(QueryError, match="where is refused by PostgreSQL"):
        exported(demo_collection, "csv", where="nonsense > 3")


# --- Many rows ------------------------------------------------------------------------------------


@pytest.fixture
def many(collection: SearchDB, stored: StoredImages, monkeypatch: pytest.MonkeyPatch) -> int:
    """Forty times the rows that are fetched at a time, all alike; return their number."""
    monkeypatch.setattr("searchdb.export.rows.FETCH_ROWS", FETCHED)
    stored.add("a boat", metadata={"padding": "x" * ROW_BYTES})
    count = 40 * FETCHED
    names = [name for name in images.columns.keys() if name not in ("id", "image")]  # noqa: SIM118 - SQLAlchemy's
    with collection.database.begin() as connection:
        connection.exec_driver_sql("DROP INDEX images_embedding_idx")  # none is searched for
        connection.execute(
            sa.text(
                f"INSERT INTO images (image, {', '.join(names)}) "
                f"SELECT '/many/' || n, {', '.join(names)} FROM images, generate_series(2, :count) AS n"
            ),
            {"count": count},
        )
    return count


def test_memory_does_not_grow_with_the_rows(collection: SearchDB, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", FETCHED)

    class Counted:
        size = 0

        def write(self, data: bytes, /) -> None:
            self.size += len(data)

    for form in ("csv", "jsonl", "parquet"):
        sink = Counted()
        collection.export(sink, format=form, count=10)
        tracemalloc.start()
        report = collection.export(sink, format=form)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert report.exported == many
        assert peak < many * ROW_BYTES / 4, f"{form}: {peak:,} bytes"


def test_rows_are_those_of_one_moment(collection: SearchDB, many: int) -> None:
    class Deleting:
        """Deletes all images when the first bytes come."""

        deleted = False
        data = b""

        def write(self, data: bytes, /) -> None:
            self.data += data
            if not self.deleted and len(self.data) > 1000:
                self.deleted = True
                with collection.database.begin() as connection:
                    connection.execute(sa.delete(images))

    sink = Deleting()
    assert collection.export(sink, format="csv", columns=["id", "description"]).exported == many
    assert sink.deleted
    assert len(csv_rows(sink.data)) == many
