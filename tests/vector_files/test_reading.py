"""Files of vectors in every format and layout: what is found in them, and which rows cannot be used."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from searchdb.errors import SourceError, VectorWidthError
from searchdb.records import GivenVector, RejectedItem
from searchdb.vector_files import arrays, parquet, text
from searchdb.vector_files.opening import vector_files
from searchdb.vector_files.reading import VectorReading
from searchdb.vector_files.records import Layout

WIDTH = 64


def vectors(rows: int, width: int = WIDTH, *, seed: int = 0) -> np.ndarray:
    """Unit vectors, float32 of shape (rows, width)."""
    made = np.random.default_rng(seed).normal(size=(rows, width))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def read(
    *paths: Path, limit: int | None = None, width: int | None = None, **layout: Any
) -> tuple[list[GivenVector], list[RejectedItem], int]:
    given: list[GivenVector] = []
    rejected: list[RejectedItem] = []
    rescaled = 0
    for rows in VectorReading(Layout(**layout), width).read(vector_files([str(path) for path in paths]), limit=limit):
        given += rows.given
        rejected += rows.rejected
        rescaled += rows.rescaled
    return given, rejected, rescaled


def references(given: list[GivenVector]) -> list[str]:
    return [each.item.image for each in given]


def matrix(given: list[GivenVector]) -> np.ndarray:
    return np.array([each.embedding for each in given])


def urls(rows: int) -> list[str]:
    return [f"https://example.org/{n}.jpg" for n in range(rows)]


# --- npz and npy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz(tmp_path: Path, save: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "BATCH_ROWS", 10)
    made = vectors(25)
    path = tmp_path / "v.npz"
    save(
        path,
        image_embeddings=made.astype(dtype),
        urls=np.array(urls(len(made))),
        caption=np.array(["a boat"] * len(made)),
        taken_at=np.array(["2024-05-31T18:30"] * len(made), dtype="datetime64[s]"),
        class_names=np.array(["boat", "dog"]),
        label=np.arange(len(made)),
    )
    given, rejected, rescaled = read(path)
    assert (references(given), rejected, rescaled) == (urls(len(made)), [], 0)
    np.testing.assert_allclose(matrix(given), made, atol=1e-3 if dtype is np.float16 else 1e-7)
    assert matrix(given).dtype == np.float32
    item = given[-1].item
    assert (item.description, item.metadata) == ("a boat", {"label": len(made) - 1})
    assert item.taken_at == datetime(2024, 5, 31, 18, 30, tzinfo=UTC)


def test_the_keys_are_named_if_the_vectors_cannot_be_told(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, a=vectors(3), b=vectors(3, seed=1), url=np.array(urls(3)))
    with pytest.raises(SourceError, match=r"--vector.*a \(3 x 64 of float32\), b .*url \(3 of <U"):
        read(path)
    np.testing.assert_array_equal(matrix(read(path, vector="b")[0]), vectors(3, seed=1))
    with pytest.raises(SourceError, match=r"'url' holds 3 of <U\d+, not vectors"):
        read(path, vector="url")
    with pytest.raises(SourceError, match="'c' does not exist"):
        read(path, vector="c")


def test_vectors_without_references_get_them_by_a_template(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, embeddings=vectors(3))
    with pytest.raises(SourceError, match=r"does not say which images.*--reference-template"):
        read(path)
    assert references(read(path, template="https://example.org/{}.jpg")[0]) == urls(3)
    assert references(read(path, template="{}.jpg", base="/photos")[0]) == [f"/photos/{n}.jpg" for n in range(3)]


def test_ids_are_refused_unless_a_template_makes_references_of_them(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, embeddings=vectors(2), photo_id=np.array(["x y", "zü"]), n=np.array([7, 8]))
    with pytest.raises(
        SourceError, match=r"'x y' is neither an absolute path nor a URL: .*--base.*--reference-template"
    ):
        read(path)
    given, _, _ = read(path, template="https://example.org/{}?n={n}")
    assert references(given) == ["https://example.org/x%20y?n=7", "https://example.org/z%C3%BC?n=8"]
    assert given[0].item.metadata == {"photo_id": "x y", "n": 7}
    for template, problem in (
        ("https://example.org/x", "needs a field"),
        ("{other}", "has no such column; it has photo_id, n"),
        ("{", "malformed"),
        ("{n.real}", "no such column"),
        ("{n:>3}", "may only have fields"),
    ):
        with pytest.raises(SourceError, match=problem):
            read(path, template=template)


def test_pickled_arrays_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, embeddings=vectors(2), paths=np.array(["/a.jpg", None], dtype=object))
    with pytest.raises(SourceError, match=r"'paths' holds Python objects.*dtype=str"):
        read(path)
    np.savez(path, embeddings=np.array([[1.0], None], dtype=object))
    with pytest.raises(SourceError, match=r"'embeddings' holds Python objects.*numpy.stack"):
        read(path)
    np.save(tmp_path / "v.npy", np.array([None, 1], dtype=object))
    with pytest.raises(SourceError, match="Python objects"):
        read(tmp_path / "v.npy")


def test_columns_in_fortran_order(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", embeddings=np.asfortranarray(vectors(5)), url=np.array(urls(5)))
    np.testing.assert_array_equal(matrix(read(tmp_path / "v.npz")[0]), vectors(5))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_damaged_archives_are_named(tmp_path: Path, damage: bytes) -> None:
    for name in ("v.npz", "v.npy", "v.parquet"):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(SourceError, match=rf"{name} (is no readable|cannot be read)"):
            read(tmp_path / name)


def test_truncated_arrays_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", vectors(100))
    whole = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "v.npy").write_bytes(whole[:-100])
    with pytest.raises(SourceError, match="truncated"):
        read(tmp_path / "v.npy", template="/x/{}")


def npy_with(header: str) -> bytes:
    """The beginning of an npy file, without any data."""
    line = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line


@pytest.mark.parametrize("form", ["npy", "npz"])
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (5, 10000000000000000000)}", "it is truncated"),
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (100000000000000000, 10000)}", "it is truncated"),
        ("{'descr': '<f4', 'fortran_order': True, 'shape': (1000000000, 64)}", "it is truncated"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-5, 64)}", "its header says that the array has -5 x 64"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 0)}", "has 0 numbers in a row"),
        ("{'descr': ((((((", "its header is damaged"),
        ("{[]: 1}", "its header is damaged"),
        ("(" * 3000, "its header is damaged"),
    ],
)
def test_headers_that_say_something_impossible(tmp_path: Path, form: str, header: str, reason: str) -> None:
    path = tmp_path / f"v.{form}"
    if form == "npy":
        path.write_bytes(npy_with(header))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("embeddings.npy", npy_with(header))
    with pytest.raises(SourceError, match=rf"v\.{form}.*{reason}"):
        read(path, template="/x/{}")


def test_a_matrix_wider_than_any_vector(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", embeddings=np.ones((2, 2001), np.float32), url=np.array(urls(2)))
    with pytest.raises(SourceError, match=r"'embeddings' has 2,001 numbers in a row, .* vectors of 64 to 2,000"):
        read(tmp_path / "v.npz")
    # What has more values in a row than a vector is no metadata either.
    np.savez(tmp_path / "v.npz", embeddings=vectors(2), url=np.array(urls(2)), pixels=np.zeros((2, 40, 60), np.uint8))
    assert [each.item.metadata for each in read(tmp_path / "v.npz")[0]] == [{}, {}]


def test_references_of_which_there_are_more_or_fewer_than_vectors(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", embeddings=vectors(5), paths=np.array(["/a", "/b", "/c"]))
    with pytest.raises(SourceError, match="'paths' has 3 values, but the file has 5 vectors"):
        read(tmp_path / "v.npz")


@pytest.mark.parametrize("form", ["npz", "npy", "parquet", "jsonl", "csv", "copy"])
def test_a_file_without_rows(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"v.{form}"
    if form == "npz":
        np.savez(path, embeddings=vectors(0), url=np.array([], dtype=str))
    elif form == "npy":
        np.save(path, vectors(0))
    elif form == "parquet":
        pq.write_table(pa.table({"url": pa.array([], pa.string()), "v": pa.array([], pa.list_(pa.float32()))}), path)
    else:
        path.write_text("url,embedding\n" if form == "csv" else "")
    with pytest.raises(SourceError, match=rf"v\.{form} has no rows"):
        read(path, template="/x/{}" if form == "npy" else None)


def test_a_folder_of_clip_retrieval(tmp_path: Path) -> None:
    for part in (0, 1, 10):
        for kind in ("img_emb", "text_emb", "metadata"):
            (tmp_path / kind).mkdir(exist_ok=True)
        np.save(tmp_path / "img_emb" / f"img_emb_{part}.npy", vectors(3, seed=part).astype(np.float16))
        np.save(tmp_path / "text_emb" / f"text_emb_{part}.npy", vectors(3, seed=part + 100))
        rows = {
            "image_path": [f"00000{part}{n}" for n in range(3)],
            "caption": ["a boat", None, "c"],
            "url": [f"https://example.org/{part}/{n}.jpg" for n in range(3)],
            "original_width": [600, 601, 602],
            "width": [256, 256, 256],
            "original_height": [400, 401, 402],
            "height": [256, 256, 256],
            "sha256": ["ab" * 32, None, "not"],
        }
        pq.write_table(pa.table(rows), tmp_path / "metadata" / f"metadata_{part}.parquet")
    for path in (tmp_path, tmp_path / "img_emb"):
        given, rejected, _ = read(path)
        assert references(given) == [f"https://example.org/{part}/{n}.jpg" for part in (0, 1, 10) for n in range(3)]
        assert not rejected
        np.testing.assert_allclose(matrix(given)[6:], vectors(3, seed=10), atol=1e-3)
        first = given[0]
        assert (first.width, first.height, first.sha256, first.item.description) == (600, 400, b"\xab" * 32, "a boat")
        assert first.item.metadata == {"image_path": "0000000", "width": 256, "height": 256}
        assert given[2].item.metadata["sha256"] == "not"
    assert len(read(tmp_path, limit=4)[0]) == 4
    [one] = vector_files([str(tmp_path / "img_emb" / "img_emb_1.npy")])
    assert len(read(one)[0]) == 3


@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv", "tsv", "txt"])
def test_an_npy_with_what_belongs_to_it(tmp_path: Path, form: str) -> None:
    np.save(tmp_path / "v.npy", vectors(2))
    side = tmp_path / f"v.{form}"
    rows = [{"path": "/a/1.jpg", "caption": "x"}, {"path": "/a/2.jpg", "caption": "y"}]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), side)
    elif form == "jsonl":
        side.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif form == "txt":
        side.write_text("/a/1.jpg\n/a/2.jpg\n")
    else:
        delimiter = "," if form == "csv" else "\t"
        side.write_text("".join(f"{delimiter.join(row)}\n" for row in (rows[0], *(row.values() for row in rows))))
    given, _, _ = read(tmp_path / "v.npy")
    assert references(given) == ["/a/1.jpg", "/a/2.jpg"]
    assert form == "txt" or [each.item.description for each in given] == ["x", "y"]
    np.save(tmp_path / "v.npy", vectors(3))
    with pytest.raises(SourceError, match=rf"v.{form} has 2 rows, but v.npy has 3 vectors"):
        read(tmp_path / "v.npy")
    np.save(tmp_path / "w.npy", vectors(2))
    assert references(read(tmp_path / "w.npy", metadata=str(side))[0]) == ["/a/1.jpg", "/a/2.jpg"]


# --- Parquet --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed", "half", "double", "text"])
def test_parquet(tmp_path: Path, kind: str) -> None:
    made = vectors(7)
    types = {
        "list": pa.list_(pa.float32()),
        "large_list": pa.large_list(pa.float32()),
        "fixed": pa.list_(pa.float32(), WIDTH),
        "half": pa.list_(pa.float16(), WIDTH),
        "double": pa.list_(pa.float64()),
    }
    rows = made.astype(np.float16) if kind == "half" else made
    column = (
        pa.array([json.dumps(row.tolist()) for row in made])
        if kind == "text"
        else pa.array(list(rows), type=types[kind])
    )
    table = pa.table({"url": urls(7), "emb": column, "jpg": [b"bytes"] * 7, "keywords": [["a", "b"]] * 7})
    pq.write_table(table, tmp_path / "v.parquet", row_group_size=3)
    given, rejected, _ = read(tmp_path / "v.parquet", vector="emb" if kind == "text" else None)
    assert (references(given), rejected) == (urls(7), [])
    np.testing.assert_allclose(matrix(given), made, atol=1e-3 if kind == "half" else 1e-7)
    assert given[0].item.tags == ("a", "b")
    assert given[0].item.metadata == {}


@pytest.mark.parametrize("size", [-1, 3])
def test_lists_of_parquet_with_gaps(tmp_path: Path, size: int) -> None:
    rows = [[1.0, 0.0, 0.0], None, [0.0, None, 0.0], [0.0, 0.0, 1.0]]
    table = pa.table({"url": urls(4), "embedding": pa.array(rows, type=pa.list_(pa.float32(), size))})
    pq.write_table(table, tmp_path / "v.parquet")
    given, rejected, _ = read(tmp_path / "v.parquet")
    assert references(given) == [urls(4)[0], urls(4)[3]]
    assert [str(each.error) for each in rejected] == [
        "row 2 of v.parquet: the row has no vector",
        "row 3 of v.parquet: the vector holds NaN",
    ]


def test_images_of_the_library_datasets(tmp_path: Path) -> None:
    images = [{"bytes": b"x" * 100, "path": f"/a/{n}.jpg"} for n in range(2)]
    pq.write_table(pa.table({"image": images, "embeddings": list(vectors(2))}), tmp_path / "v.parquet")
    given, _, _ = read(tmp_path / "v.parquet")
    assert references(given) == ["/a/0.jpg", "/a/1.jpg"]
    assert given[0].item.metadata == {}


def not_utf8(*others: str) -> Any:
    """A column of texts, the first of which is not UTF-8."""
    ends = np.array([0, 4], np.int32)
    return pa.concat_arrays(
        [pa.StringArray.from_buffers(1, pa.py_buffer(ends), pa.py_buffer(b"/\xff\xfea")), pa.array(others)]
    )


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        (pa.array([1, 10**18 + 1], pa.timestamp("ns")), ["1970-01-01T00:00:00", "2001-09-09T01:46:40"]),
        (pa.array([1, 2], pa.time64("ns")), ["00:00:00", "00:00:00"]),
        (pa.array([1, 2], pa.duration("ns")), ["0:00:00", "0:00:00"]),
        (pa.array([2**62, 0], pa.timestamp("us", "UTC")), [ANY, "1970-01-01T00:00:00+00:00"]),
        (pa.array([2**50, 1], pa.timestamp("s")), [None, "1970-01-01T00:00:01"]),
        (pa.array([2**30, 1], pa.date32()), [None, "1970-01-02"]),
        (pa.array([1, 2], pa.timestamp("us", "Mars/North")), [None, None]),
        (pa.array([[1], [2]], pa.list_(pa.timestamp("ns"))), [["1970-01-01T00:00:00"], ["1970-01-01T00:00:00"]]),
        (not_utf8("b"), ["/\udcff\udcfea", "b"]),
        (pa.ListArray.from_arrays([0, 1, 2], not_utf8("b")), [["/\udcff\udcfea"], ["b"]]),
        (pa.StructArray.from_arrays([not_utf8("b")], ["c"]), [None, {"c": "b"}]),
    ],
)  # fmt: skip
def test_values_of_parquet_that_python_cannot_hold(tmp_path: Path, column: Any, stored: list[Any]) -> None:
    pq.write_table(pa.table({"url": urls(2), "embedding": list(vectors(2)), "x": column}), tmp_path / "v.parquet")
    given, rejected, _ = read(tmp_path / "v.parquet")
    assert (references(given), rejected) == (urls(2), [])
    assert [each.item.metadata.get("x") for each in given] == stored


def test_references_of_parquet_that_are_not_utf8(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": not_utf8("/b"), "embedding": list(vectors(2))}), tmp_path / "v.parquet")
    given, [bad], _ = read(tmp_path / "v.parquet")
    assert references(given) == ["/b"]
    assert "is not valid UTF-8" in str(bad.error)


# --- Texts ----------------------------------------------------------------------------------------


def test_jsonl(tmp_path: Path) -> None:
    made = vectors(3)
    lines = [json.dumps({"path": f"/a/{n}.jpg", "vector": row.tolist(), "x": {"y": n}}) for n, row in enumerate(made)]
    bad = ["{", "[1]", json.dumps({"path": "/a/b.jpg"}), json.dumps({"vector": made[0].tolist()}), "[" * 200_000]
    nested: Any = {"vector": made[0].tolist(), "path": "/a/n.jpg", "deep": 1}
    for _ in range(150):
        nested = {**nested, "deep": {"deep": nested["deep"]}}
    (tmp_path / "v.jsonl").write_text("\n".join([lines[0], "", lines[1], *bad, json.dumps(nested), lines[2]]))
    given, rejected, _ = read(tmp_path / "v.jsonl")
    assert references(given) == [f"/a/{n}.jpg" for n in range(3)]
    np.testing.assert_allclose(matrix(given), made, atol=1e-7)
    assert given[1].item.metadata == {"x": {"y": 1}}
    reasons = [str(each.error) for each in rejected]
    assert [reason.partition(":")[0] for reason in reasons] == [f"line {n} of v.jsonl" for n in range(4, 10)]
    for reason, expected in zip(
        reasons, ["not JSON", "not a JSON object", "no vector", "no reference", "not JSON", "deep"], strict=True
    ):
        assert expected in reason
    assert [each.image for each in rejected] == [
        "v.jsonl:4", "v.jsonl:5", "/a/b.jpg", "v.jsonl:7", "v.jsonl:8", "v.jsonl:9",
    ]  # fmt: skip


def test_a_file_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text("{\n[\n")
    with pytest.raises(SourceError, match=r"no row of v.jsonl can be used: line 1 of v.jsonl: the line is not JSON"):
        read(tmp_path / "v.jsonl")
    (tmp_path / "v.bin").write_text("")
    with pytest.raises(SourceError, match="does not say the format"):
        read(tmp_path / "v.bin")
    with pytest.raises(SourceError, match="does not exist"):
        read(tmp_path / "nothing.npz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="no files of vectors"):
        read(tmp_path / "folder")


def copy_lines(made: np.ndarray) -> list[list[str]]:
    """The fields of pgvector's COPY images (image, embedding, metadata, tags) TO ..., in its text format."""
    texts = ["[" + ",".join(f"{number:.9g}" for number in row) + "]" for row in made]
    return [
        ["/a/1.jpg", texts[0], r'{"caption": "say \\"boo\\"", "width": 60, "height": 40, "n": 1}', '{boat,"a b"}'],
        [r"/a/two\tand\\2.jpg", texts[1], r"\N", r"\N"],
    ]


@pytest.mark.parametrize("suffix", ["txt", "copy", "tsv"])
@pytest.mark.parametrize("header", [True, False])
def test_copy_text(tmp_path: Path, suffix: str, header: bool) -> None:
    made = vectors(2)
    lines = [["image", "embedding", "metadata", "tags"]] * header + copy_lines(made) + [["/a/3.jpg", r"\N"]]
    path = tmp_path / f"v.{suffix}"
    path.write_text("".join("\t".join(fields) + "\n" for fields in lines) + "\\.\n")
    given, rejected, _ = read(path)
    assert references(given) == ["/a/1.jpg", "/a/two\tand\\2.jpg"]
    np.testing.assert_allclose(matrix(given), made, atol=1e-7)
    first = given[0]
    assert (first.item.description, first.width, first.height) == ('say "boo"', 60, 40)
    assert first.item.metadata == ({"n": 1} if header else {"n": 1, "column 4": '{boat,"a b"}'})
    assert first.item.tags == (("boat", "a b") if header else ())
    [bad] = rejected
    assert str(bad.error) == f"line {3 + header} of v.{suffix}: the row is malformed (2 fields, the first row has 4)"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", [True, False])
def test_csv(tmp_path: Path, delimiter: str, header: bool) -> None:
    made = vectors(2)
    target = io.StringIO()
    writer = csv.writer(target, delimiter=delimiter)
    if header:
        writer.writerow(["url", "caption", "embedding"])
    for n, row in enumerate(made):
        writer.writerow([urls(2)[n], f'"x", {n}\nand more', json.dumps(row.tolist())])
    path = tmp_path / ("v.tsv" if delimiter == "\t" else "v.csv")
    path.write_text(target.getvalue())
    given, rejected, _ = read(path)
    assert (references(given), rejected) == (urls(2), [])
    np.testing.assert_allclose(matrix(given), made, atol=1e-7)
    assert not header or given[1].item.description == '"x", 1\nand more'


def test_arrays_of_postgresql(tmp_path: Path) -> None:
    [row] = vectors(1)
    (tmp_path / "v.csv").write_text('url,embedding\nhttps://example.org/0.jpg,"{' + ",".join(map(str, row)) + '}"\n')
    np.testing.assert_allclose(matrix(read(tmp_path / "v.csv")[0]), [row], atol=1e-7)


# --- Rows -----------------------------------------------------------------------------------------


def test_bad_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    made = vectors(9)
    made[1] = np.nan
    made[2] = 0
    made[3, 5] = np.inf
    made[4] *= 3
    images = urls(9)
    images[5] = ""
    images[6] = "https://example.org/" + "x" * 2048
    images[7] = images[0]
    images[8] = "s3://bucket/x.jpg"
    np.savez(tmp_path / "v.npz", embeddings=made, url=np.array(images))
    given, rejected, rescaled = read(tmp_path / "v.npz")
    assert references(given) == [images[0], images[4]]
    assert rescaled == 1
    np.testing.assert_allclose(np.linalg.norm(matrix(given), axis=1), 1, atol=1e-6)
    reasons = {int(str(each.error).split()[1]): (type(each.error).__name__, str(each.error)) for each in rejected}
    for row, kind, part in (
        (2, "InvalidVectorError", "NaN"),
        (3, "InvalidVectorError", "zero"),
        (4, "InvalidVectorError", "infinite"),
        (6, "InvalidReferenceError", "no reference"),
        (7, "InvalidReferenceError", "longer than 2,048 bytes"),
        (8, "RepeatedReferenceError", images[0]),
        (9, "InvalidReferenceError", "neither a path nor an http"),
    ):
        assert reasons[row][0] == kind
        assert part in reasons[row][1]
        assert f"row {row} of v.npz: " in reasons[row][1]
    assert {each.image for each in rejected} == {*images[1:4], *(f"v.npz:{row}" for row in (6, 7, 8, 9))}


def test_numbers_of_any_size_become_unit_vectors(tmp_path: Path) -> None:
    made = vectors(3).astype(np.float64) * np.array([[1e-20], [1e300], [7.0]])
    np.savez(tmp_path / "v.npz", embeddings=made, url=np.array(urls(3)))
    given, rejected, rescaled = read(tmp_path / "v.npz")
    assert (rejected, rescaled) == ([], 3)
    np.testing.assert_allclose(matrix(given), vectors(3), atol=1e-6)


def test_numbers_that_overflow_are_infinite(tmp_path: Path) -> None:
    made = vectors(2).astype(np.longdouble)
    made[1, 0] = np.finfo(np.longdouble).max  # where long doubles are doubles, its length overflows
    np.savez(tmp_path / "v.npz", embeddings=made, url=np.array(urls(2)))
    given, rejected, _ = read(tmp_path / "v.npz")
    assert len(given) + len(rejected) == 2
    made = np.full((1, WIDTH), 1e308)  # the length of this vector overflows
    np.savez(tmp_path / "v.npz", embeddings=made, url=np.array(urls(1)))
    np.testing.assert_allclose(matrix(read(tmp_path / "v.npz")[0]), 1 / 8)


def test_single_rows_of_another_width_are_failures(tmp_path: Path) -> None:
    rows = [*vectors(3), np.ones(3)]
    (tmp_path / "v.jsonl").write_text(
        "".join(json.dumps({"url": urls(4)[n], "emb": row.tolist()}) + "\n" for n, row in enumerate(rows))
    )
    given, [bad], _ = read(tmp_path / "v.jsonl")
    assert len(given) == 3
    assert str(bad.error) == "line 4 of v.jsonl: the vector has 3 numbers, the others have 64"


@pytest.mark.parametrize("form", ["npz", "jsonl"])
def test_all_rows_of_another_width_are_one_error(tmp_path: Path, form: str) -> None:
    if form == "npz":
        np.savez(tmp_path / "v.npz", embeddings=vectors(3), url=np.array(urls(3)))
    else:
        (tmp_path / "v.jsonl").write_text(json.dumps({"url": "https://example.org", "emb": vectors(1)[0].tolist()}))
    with pytest.raises(VectorWidthError, match=r"64 numbers, .* 512, .*searchdb model switch"):
        read(tmp_path / f"v.{form}", width=512)
    np.savez(tmp_path / "other.npz", embeddings=vectors(3, 65), url=np.array(urls(3)))
    with pytest.raises(VectorWidthError):
        read(tmp_path / f"v.{form}", tmp_path / "other.npz")


def test_which_column_has_the_references(tmp_path: Path) -> None:
    there = tmp_path / "there.jpg"
    there.touch()

    def best(**columns: str) -> str:
        np.savez(tmp_path / "v.npz", embeddings=vectors(1), **{k: np.array([v]) for k, v in columns.items()})  # pyright: ignore
        return references(read(tmp_path / "v.npz", base=str(tmp_path))[0])[0]

    url = "https://example.org/x.jpg"
    assert best(image_path=str(there), url=url) == str(there)
    assert best(image_path="there.jpg", url=url) == str(there)
    assert best(image_path="/elsewhere/x.jpg", url=url) == url
    assert best(image_path="/elsewhere/x.jpg", id="7") == "/elsewhere/x.jpg"
    assert best(unusual=url) == url
    assert best(filename="x.jpg") == f"{tmp_path}/x.jpg"
    np.savez(tmp_path / "v.npz", embeddings=vectors(1), a=np.array([url]), url=np.array(["https://example.org/y"]))
    assert references(read(tmp_path / "v.npz", reference="a")[0]) == [url]
    with pytest.raises(SourceError, match=r"no column 'b'\. It has a, url"):
        read(tmp_path / "v.npz", reference="b")


def test_paths_are_those_of_an_ingest_of_files(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    np.savez(
        tmp_path / "v.npz", embeddings=vectors(2), path=np.array([f"{tmp_path}/link/../link/./x.jpg", "file:///a%20b"])
    )
    assert references(read(tmp_path / "v.npz")[0]) == [f"{tmp_path.resolve()}/real/x.jpg", "/a b"]


def test_what_cannot_be_converted_is_metadata(tmp_path: Path) -> None:
    row = {
        "url": urls(1)[0], "embedding": vectors(1)[0].tolist(), "taken_at": "last summer", "width": -3, "height": 2.5,
        "latitude": 95, "longitude": 3, "rating": "PG-13", "tags": [["a"]], "colour": "red", "country": "Chile",
        "title": "T", "caption": "C", "nothing": None, "blank": " ",
        "metadata": {"city": "Arica", "deep": [1, {"a": 2}]},
    }  # fmt: skip
    (tmp_path / "v.jsonl").write_text(json.dumps(row))
    [given], _, _ = read(tmp_path / "v.jsonl")
    item = given.item
    assert (item.country, item.city, item.description) == ("Chile", "Arica", "C")
    assert (given.width, given.height, item.latitude, item.rating, item.tags) == (None, None, None, None, ())
    kept = {
        name: row[name] for name in ("taken_at", "width", "height", "latitude", "longitude", "rating", "tags", "colour")
    }
    assert item.metadata == {**kept, "title": "T", "deep": [1, {"a": 2}]}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("/a\ud800/b.jpg", "is not valid UTF-8"),
        ("~\ud800/b.jpg", "is not valid UTF-8"),
        ("file://[", "has a malformed host"),
        ("http://[", "has a malformed host or port"),
        (["/a"], "is neither an absolute path nor a URL"),
        ({}, "the row has no reference"),
    ],
)
def test_references_that_are_none(tmp_path: Path, reference: Any, reason: str) -> None:
    made = [row.tolist() for row in vectors(2)]
    rows = [{"path": reference, "vector": made[0]}, {"path": "/b", "vector": made[1]}]
    (tmp_path / "v.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given, [bad], _ = read(tmp_path / "v.jsonl")
    assert references(given) == ["/b"]
    assert str(bad.error).startswith("line 1 of v.jsonl: ")
    assert reason in str(bad.error)


EXPORTED = dict.fromkeys(("rendition", "source", "source_id", "sha256", "ingested_at", "video", "video_time"))
"""Columns by which an export is recognised, and those of frames."""


def export(path: Path, *rows: dict[str, Any], width: int = WIDTH) -> Path:
    """Write rows as an export does, each with a vector."""
    made = vectors(len(rows), width)
    lines = [EXPORTED | {"embedding": made[at].tolist()} | row for at, row in enumerate(rows)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rendition", 5), ("rendition", {"a": 1}), ("rendition", "/a.jpg"), ("folder", ["a"]), ("folder", "x" * 3000),
        ("source", False), ("modified_at", "yesterday"), ("video_time", "abc"), ("video_time", [1]),
        ("video_time", -5), ("video", 7), ("video", "/a.mp4"), ("sha256", [1]),
    ],
)  # fmt: skip
def test_columns_of_exports_that_cannot_be_converted_are_metadata(tmp_path: Path, name: str, value: Any) -> None:
    [given], rejected, _ = read(export(tmp_path / "v.jsonl", {"image": "/a.jpg", name: value}))
    assert not rejected
    assert given.item.metadata == {name: value}
    assert (given.item.source, given.item.rendition, given.video, given.video_time) == ("vectors", None, None, None)


@pytest.mark.parametrize("time", [None, "abc", [1], -5, "nan", "inf", True])
@pytest.mark.parametrize("video", ["/a.mp4", "https://example.org/a.mp4"])
def test_frames_without_a_time_are_failures(tmp_path: Path, video: str, time: Any) -> None:
    rows = ({"image": f"{video}#t={at}", "video": video, "video_time": at} for at in (1, "2.5"))
    bad = {"image": f"{video}#t=3", "video": video, "video_time": time}
    given, [failure], _ = read(export(tmp_path / "v.jsonl", *rows, bad))
    assert [(each.item.image, each.video, each.video_time) for each in given] == [
        (f"{video}#t=1", video, 1.0),
        (f"{video}#t=2.5", video, 2.5),
    ]
    assert "line 3 of v.jsonl: the row is a frame of a video, but its video_time" in str(failure.error)


@pytest.mark.parametrize(
    ("video", "ending", "reason"),
    [
        ("/a.mp4", "#\ud800", "its reference ends in"),
        ("https://example.org/a.mp4", "#x", "its reference ends in '#x' instead of a time"),
        ("/" + "a" * 2046, "#t=5", "the reference is 2,051 bytes long, the limit is 2,048"),
        ("https://example.org/" + "a" * 2025, "#t=5", "the reference is 2,049 bytes long"),
    ],
)
def test_frames_with_malformed_references_are_failures(tmp_path: Path, video: str, ending: str, reason: str) -> None:
    good = {"image": "/b.mp4#t=1", "video": "/b.mp4", "video_time": 1}
    bad = {"image": video + ending, "video": video, "video_time": 1}
    given, [failure], _ = read(export(tmp_path / "v.jsonl", good, bad))
    assert references(given) == ["/b.mp4#t=1"]
    assert reason in str(failure.error)


def test_a_frame_that_is_none_of_its_video_is_an_image(tmp_path: Path) -> None:
    row = {"image": "https://example.org/b.jpg", "video": "/a.mp4", "video_time": 2}
    [given], _, _ = read(export(tmp_path / "v.jsonl", row))
    assert (given.item.image, given.video, given.video_time) == (row["image"], None, None)
    assert given.item.metadata == {"video": "/a.mp4", "video_time": 2}


@pytest.mark.parametrize("depth", [101, 900, 100_000])
@pytest.mark.parametrize("form", ["csv", "jsonl", "npz", "parquet"])
def test_metadata_that_is_nested_deep(tmp_path: Path, form: str, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    path = tmp_path / f"v.{form}"
    columns = {"url": urls(2), "metadata": [deep, '{"b": 1}']}
    if form == "npz":
        np.savez(path, embeddings=vectors(2), **{name: np.array(values) for name, values in columns.items()})  # pyright: ignore
    elif form == "parquet":
        pq.write_table(pa.table({**columns, "embedding": list(vectors(2))}), path)
    else:
        texts = [json.dumps(row.tolist()) for row in vectors(2)]
        lines = [
            f'{{"url": "{url}", "embedding": {text}, "x": [1, {metadata}]}}'
            if form == "jsonl"
            else f'{url},"{text}","{metadata.replace(chr(34), chr(34) * 2)}"'
            for url, text, metadata in zip(urls(2), texts, columns["metadata"], strict=True)
        ]
        path.write_text("\n".join(lines if form == "jsonl" else ["url,embedding,metadata", *lines]))
    given, [bad], _ = read(path)
    assert references(given) == urls(2)[1:]
    assert "nested" in str(bad.error) or "field limit" in str(bad.error)
    assert "recursion" not in str(bad.error)


def test_numbers_of_thousands_of_digits(tmp_path: Path) -> None:
    made = json.dumps(vectors(1)[0].tolist())
    lines = [
        f'{{"url": "{url}", "embedding": {made}, "n": {n}}}' for url, n in zip(urls(2), ("1" * 5000, 1), strict=True)
    ]
    (tmp_path / "v.jsonl").write_text("\n".join(lines))
    _, [bad], _ = read(tmp_path / "v.jsonl")
    assert str(bad.error) == "line 1 of v.jsonl: the line is not JSON (a number in it has more than 4,300 digits)"


@pytest.mark.parametrize("form", ["npz", "npy", "parquet", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrays, parquet, text):
        monkeypatch.setattr(module, "BATCH_ROWS", 25)
    monkeypatch.setattr(text, "_HEAD_ROWS", 25)  # those are in memory as Python's numbers, four times as large
    rows = 600
    made = np.tile(vectors(25, 512), (24, 1))
    path = tmp_path / f"v.{form}"
    if form == "npz":
        np.savez_compressed(path, embeddings=made, url=np.array(urls(rows)))
    elif form == "npy":
        np.save(path, made)
        (tmp_path / "v.txt").write_text("".join(f"{url}\n" for url in urls(rows)))
    elif form == "parquet":
        pq.write_table(pa.table({"url": urls(rows), "embedding": list(made)}), path, row_group_size=25)
    else:
        with path.open("w") as file:
            line = json.dumps(made[0].round(3).tolist())
            file.writelines(f'{{"url": "{url}", "embedding": {line}}}\n' for url in urls(rows))
    size = made.nbytes
    del made
    next(VectorReading(Layout()).read([path], limit=1))  # imports what reads it, which would be counted
    tracemalloc.start()
    count = sum(len(rows.given) for rows in VectorReading(Layout()).read([path]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == rows
    assert peak < size
