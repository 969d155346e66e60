"""`searchdb model compare`: its table, its JSON, its errors, and Ctrl-C."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from searchdb.config import Settings
from tests.helpers.cli import output, run
from tests.helpers.runs import Runs
from tests.helpers.tiny_models import demo_twin
from tests.helpers.waiting import until


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_twin(tmp_path_factory.mktemp("models") / "twin", 768)


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.csv"
    path.write_text("query,relevant\na boat,1\na boat,2\na dog,\na very long text about \x1b[31mred\x1b[0m boats,3\n")
    return path


def test_a_table_and_a_page(
    demo_settings: Settings, twin: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(demo_settings, "model", "compare", twin, "--queries", queries, "--sample", "40", "--count", "5")
    printed = output(result)
    assert printed.startswith(f"A  demo  (weights 7510f130f612)\nB  {twin}  (weights ")
    assert "The first 5 images of both models have 100% in common, the mean of 3 queries on 4" in printed
    assert "2 queries name images that are right." in printed
    assert "\x1b" not in printed
    for row in ("numbers of a vector", "vectors of all images", "texts embedded a second", "nDCG@10", "a boat"):
        assert row in printed
    assert result.stderr == "the lists side by side: model-comparison.html\n"
    assert (tmp_path / "model-comparison.html").read_text().startswith("<!doctype html>")


def test_json(demo_settings: Settings, twin: Path, queries: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    arguments = ("model", "compare", "demo", twin, "--queries", queries, "--sample", 10, "--output", target, "--json")
    document = json.loads(output(run(demo_settings, *map(str, arguments))))
    assert (document["first"]["name"], document["second"]["name"]) == ("demo", str(twin))
    assert (document["judged"], len(document["queries"]), document["output"]) == (2, 3, str(target))
    assert {each["figure"] for each in document["differences"]} >= {"recall@10", "MRR", "nDCG@10"}
    assert 10 <= document["compared"] <= 13


def test_queries_from_standard_input(demo_settings: Settings, twin: Path, tmp_path: Path) -> None:
    arguments = ("model", "compare", twin, "--queries", "-", "--sample", "5", "--output", tmp_path / "x.html")
    assert "the mean of 2 queries on 5 of 300 images" in output(run(demo_settings, *arguments, stdin="a dog\na cat\n"))


def test_errors_are_one_line(demo_settings: Settings, twin: Path, queries: Path, tmp_path: Path) -> None:
    def fails(*arguments: str | Path, status: int = 1) -> str:
        result = run(demo_settings, "model", "compare", *arguments, "--output", tmp_path / "page.html")
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert list(tmp_path.glob("*.html")) == []
        return result.stderr

    wrong = tmp_path / "wrong.csv"
    wrong.write_text("query,relevant\na dog,/none.jpg\n")
    assert fails(twin, "--queries", wrong) == (
        "Error: wrong.csv, line 2: '/none.jpg' is not stored: ingest it, or leave it out\n"
    )
    assert fails(tmp_path / "none", "--queries", queries).endswith(
        "there is no such folder. Give a hub name, a folder in Hugging Face layout, or `demo`\n"
    )
    assert "is not in the range" in fails(twin, "--queries", queries, "--sample", str(10**30), status=2)
    assert "are the same model" in fails("demo", "demo", "--queries", queries)
    assert "3 models are named" in fails("a", "b", "c", "--queries", queries, status=2)
    assert "Missing option '--queries'" in fails(twin, status=2)


def test_a_new_interpreter_says_in_one_line_what_is_wrong(demo_settings: Settings, tmp_path: Path) -> None:
    with Runs(demo_settings, tmp_path) as runs:
        process = runs.start("model", "compare", "demo", "--queries", "/none/queries.txt", new_interpreter=True)
        assert process.wait() == 1
    assert len(process.stderr.splitlines()) == 1
    assert "'/none/queries.txt' cannot be read" in process.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(demo_settings: Settings, twin: Path, queries: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with Runs(demo_settings, tmp_path) as runs:
        process = runs.start("-v", "model", "compare", str(twin), "--queries", str(queries), "--output", str(page))

        def loaded() -> bool:
            """Whether the model has been loaded, and 300 images are about to be embedded."""
            assert process.process.poll() is None, process.stderr
            return any("model" in line and "twin" in line for line in process.stderr.splitlines())

        until(loaded, "the model")
        process.send(signal.SIGINT)
        assert process.wait() == 1, process.stderr
    assert process.stdout == ""
    assert process.stderr.splitlines()[-1] == "Aborted!"
    assert list(tmp_path.glob("*page.html*")) == []
