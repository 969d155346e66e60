"""Files of queries: the formats, what is right for them, and lines that are wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from searchdb.compare.query_file import MAX_QUERIES, checked_queries, read_queries
from searchdb.compare.records import ModelQuery
from searchdb.errors import QueriesError


def read(folder: Path, name: str, content: str | bytes) -> dict[str, list[int | str]]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {query.text: list(query.relevant) for query in read_queries(path)}


def test_a_text_a_line(tmp_path: Path) -> None:
    found = read(tmp_path, "q.txt", "\ufeffa dog\r\n\n  a cat, black  \n#sunset\na dog\nquery\n")
    assert found == {"a dog": [], "a cat, black": [], "#sunset": [], "query": []}
    assert read(tmp_path, "q", "query\n") == {"query": []}


@pytest.mark.parametrize(
    ("name", "separator"),
    [("q.csv", ","), ("q.csv", ";"), ("q.csv", "\t"), ("q.tsv", "\t"), ("q.txt", ","), ("q", "\t")],
)
def test_columns(tmp_path: Path, name: str, separator: str) -> None:
    rows = [("note", "Query", "relevant"), ("x", "a dog", "/p/a.jpg"), ("", "a cat", ""), ("", "a dog", "12")]
    found = read(tmp_path, name, "".join(f"{separator.join(row)}\n" for row in rows))
    assert found == {"a dog": ["/p/a.jpg", "12"], "a cat": []}


def test_lists(tmp_path: Path) -> None:
    assert read(tmp_path, "q.csv", 'query,image\na dog,"[""/p/a.jpg"", 7]"\n') == {"a dog": ["/p/a.jpg", 7]}
    lines: list[Any] = [
        {"query": "a dog", "relevant": [1, "b.jpg"]},
        {"query": "a dog", "image": 3},
        {"query": "a cat"},
    ]
    content = "\n".join(map(json.dumps, lines))
    for name in ("q.jsonl", "q.ndjson", "q.txt"):
        assert read(tmp_path, name, content) == {"a dog": [1, "b.jpg", 3], "a cat": []}


def test_only_a_column_of_texts(tmp_path: Path) -> None:
    assert read(tmp_path, "q.csv", "query\na dog\n") == {"a dog": []}


def test_lines_are_kept_for_messages(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("query,relevant\na dog,1\n\na cat,2\na dog,3\n")
    assert [list(query.lines) for query in read_queries(path)] == [[2, 5], [4]]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\na cat\n")))
    assert [query.text for query in read_queries("-")] == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("name", "content", "line", "said"),
    [
        ("q.csv", "query,relevant\na dog,1\n,2\n", 3, "the query text is empty"),
        ("q.csv", "query,relevant\na dog,[1\n", 2, "is not JSON"),
        ("q.csv", 'query,relevant\na dog,"[{}]"\n', 2, "{} is not the id, path or URL"),
        ("q.csv", "query,relevant\na dog,1,2\n", 2, "3 fields, the header has 2"),
        ("q.csv", 'query,relevant\n"a dog,1\n', 2, "quote is not closed"),
        ("q.jsonl", '{"query": "a"}\n{"query": 3}\n', 2, "`query` is no text"),
        ("q.jsonl", '{"query": "a"}\n\n{"text": "a"}\n', 3, "has no `query`"),
        ("q.jsonl", '{"query": "a"}\n{"query": "a"\n', 2, "is not JSON"),
        ("q.jsonl", "[1]\n", 1, "is not a JSON object"),
        ("q.jsonl", '{"query": "a", "relevant": [true]}\n', 1, "true is not the id"),
        ("q.txt", f"a dog\n{'x' * 3000}\n", 2, "3,000 characters, the limit is 2,000"),
        ("q.txt", b"a dog\nchien caf\xe9\n", 2, "save the file as UTF-8"),
    ],
)
def test_wrong_lines(tmp_path: Path, name: str, content: str | bytes, line: int, said: str) -> None:
    with pytest.raises(QueriesError) as caught:
        read(tmp_path, name, content)
    assert caught.value.lines == (line,)
    assert caught.value.field == "queries"
    assert f"{name}, line {line}: " in str(caught.value)
    assert said in str(caught.value)


def test_several_wrong_lines(tmp_path: Path) -> None:
    with pytest.raises(QueriesError, match=r"q.jsonl, line 1: .*; line 5: .*; and 3 more") as caught:
        read(tmp_path, "q.jsonl", "x\n" * 8)
    assert caught.value.lines == tuple(range(1, 9))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.txt", "", "q.txt has no query"),
        ("q.txt", " \n\n", "q.txt has no query"),
        ("q.csv", "query,relevant\n", "q.csv has no query"),
        ("q.csv", "text,relevant\na,1\n", "q.csv has no column `query`"),
        ("q.txt", "a dog".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("q.txt", "".join(f"{n}\n" for n in range(MAX_QUERIES + 1)), "10,001 queries, the limit is 10,000"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(QueriesError) as caught:
        read(tmp_path, name, content)
    assert said in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path, "~nobody-of-this-name/q.txt", "a\0b"):
        with pytest.raises(QueriesError, match="cannot be read"):
            read_queries(path)


def test_texts_that_programs_give() -> None:
    given = [ModelQuery(text=" a dog "), ModelQuery(text="a dog", relevant=[3])]
    assert checked_queries(given, "x") == [ModelQuery(text="a dog", relevant=(3,), lines=(0,))]
    with pytest.raises(QueriesError, match="x: the query text is empty"):
        checked_queries([ModelQuery(text="")], "x")
