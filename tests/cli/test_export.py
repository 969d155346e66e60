"""`searchdb export`: targets, formats, exit statuses, and standard output that ends early."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from searchdb.client import SearchDB
from searchdb.config import Settings
from tests.cli.test_streams import NO_SPACE, shell
from tests.helpers.cli import output, run
from tests.helpers.stored_images import StoredImages


def test_standard_output_is_csv(demo_settings: Settings, demo_collection: SearchDB) -> None:
    result = run(demo_settings, "export", "a boat", "--tag", "sunset", "--count", "3", "--columns", "id,similarity")
    hits = demo_collection.search("a boat", tag="sunset", count=3)
    rows = list(csv.reader(io.StringIO(output(result), newline="")))
    assert rows == [["id", "similarity"], *([str(hit.id), str(hit.similarity)] for hit in hits)]
    assert result.stderr == ""


def test_files_by_their_extension(demo_settings: Settings, tmp_path: Path) -> None:
    for name in ("x.csv", "x.TSV", "x.jsonl", "x.ndjson", "x.parquet", "x.html", "x.htm"):
        result = run(demo_settings, "export", "--count", "2", "--to", tmp_path / name)
        assert output(result) == ""
        assert result.stderr == f"2 images exported to {tmp_path / name}\n"
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 2
    assert len((tmp_path / "x.ndjson").read_text().splitlines()) == 2
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")


def test_a_search_exports_a_hundred_and_filters_all(demo_settings: Settings) -> None:
    assert len(output(run(demo_settings, "export", "a boat", "--columns", "id")).splitlines()) == 101
    assert len(output(run(demo_settings, "export", "--columns", "id")).splitlines()) == 301
    assert len(output(run(demo_settings, "export", "--columns", "id", "--count", str(10**30))).splitlines()) == 301


def test_a_report(demo_settings: Settings, tmp_path: Path) -> None:
    report = json.loads(output(run(demo_settings, "export", "--count", "1", "--to", tmp_path / "x.csv", "--json")))
    assert report == {
        "target": str(tmp_path / "x.csv"), "format": "csv", "exported": 1, "unchanged": 0, "failed": [],
    }  # fmt: skip


def test_a_folder_twice(demo_settings: Settings, tmp_path: Path) -> None:
    for option, done in (("--link", "linked"), ("--copy", "copied")):
        target = tmp_path / option
        first = run(demo_settings, "export", "a boat", "--count", "2", "--to-folder", target, option)
        assert (first.exit_code, first.stderr) == (0, f"2 images {done} into {target}\n")
        again = run(demo_settings, "export", "a boat", "--count", "2", "--to-folder", target, option)
        assert (again.exit_code, again.stderr) == (0, f"0 images {done} into {target}, 2 there already\n")


def test_failed_images_are_named_and_the_status_is_1(settings: Settings, tmp_path: Path) -> None:
    with SearchDB(settings) as collection:
        stored = StoredImages(tmp_path, collection.database, collection.embedder)
        for n in range(25):
            stored.add(None, image=f"/gone/{n}\x1b.jpg")
        stored.add("here")
    result = run(settings, "export", "--to-folder", tmp_path / "target")
    assert result.exit_code == 1
    assert "25 failed:" in result.stderr
    assert r"/gone/0\x1b.jpg: the file cannot be read: No such file or directory" in result.stderr
    assert "and 5 more" in result.stderr
    report = run(settings, "export", "--to", tmp_path / "x.html", "--json")
    assert report.exit_code == 1
    assert len(json.loads(report.stdout)["failed"]) == 25
    assert "25 have no thumbnail:" in report.stderr
    # The metadata is complete without the files.
    assert run(settings, "export", "--to", tmp_path / "x.csv").exit_code == 0


def test_nothing_found_is_no_failure(demo_settings: Settings, tmp_path: Path) -> None:
    for target in (("--to", tmp_path / "x.csv"), ("--to", tmp_path / "x.html"), ("--to-folder", tmp_path / "x")):
        result = run(demo_settings, "export", "a boat", "--country", "Nowhere", *target)
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith("0 images ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "nonsense"], "there is no column 'nonsense'"),
        (["--to", "x.xlsx"], "does not say the format"),
        (["--to", "x.html", "--columns", "id"], "no columns"),
        (["--to", "x.csv", "--to-folder", "x"], "--to is for files"),
        (["--to-folder", "x", "--format", "csv"], "--format is for files"),
        (["--to-folder", "x", "--link", "--copy"], "exclude each other"),
        (["--copy"], "--copy needs --to-folder"),
        (["--json"], "name a file"),
        (["--format", "xlsx"], "'xlsx' is not one of"),
    ],
)
def test_wrong_usage(demo_settings: Settings, arguments: list[str], message: str) -> None:
    result = run(demo_settings, "export", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--not", "dogs"], "with nothing to search for"),
        (["--count", "0"], "it starts at 1"),
        (["a boat", "--count", "1001"], "no deeper than 1,000 hits"),
        (["--where", "nonsense"], "where is refused by PostgreSQL"),
        (["--to", "/nowhere/x.csv"], "cannot write /nowhere/x.csv: No such file or directory"),
    ],
)
def test_failures_are_one_line(demo_settings: Settings, arguments: list[str], message: str) -> None:
    result = run(demo_settings, "export", *arguments)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()[-1:]
    assert line.startswith("Error: ")
    assert message in line


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_standard_output_that_cannot_take_it(demo_settings: Settings, form: str) -> None:
    export = f"$searchdb export --format {form} --columns '*,embedding'"
    for line, status, error in ((f"{export} | head -c 10 >/dev/null", 141, ""), (f"{export} >/dev/full", 1, NO_SPACE)):
        result = shell(demo_settings, line)
        assert (result.returncode, result.stderr) == (status, error)


@pytest.mark.slow
def test_a_terminal_shows_no_parquet(demo_settings: Settings) -> None:
    result = shell(demo_settings, """script -qec "$searchdb export --format parquet" /dev/null""")
    assert "a terminal cannot show parquet" in result.stdout
