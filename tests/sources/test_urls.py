"""The URL list source, on real files and streams."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import MAX_REFERENCE_BYTES, RejectedItem, SourceItem, mask_credentials
from searchdb.sources import delimited
from searchdb.sources.urls import MAX_LINE_CHARS, urls

A, B = "https://example.org/a.jpg", "http://example.org/b.png?w=1&x=é"


def read(text: str | bytes) -> list[SourceItem | RejectedItem]:
    """Read a list from stdin."""
    return list(urls("-", stdin=io.BytesIO(text.encode() if isinstance(text, str) else text)))


def items(text: str | bytes) -> list[SourceItem]:
    found = read(text)
    assert all(isinstance(each, SourceItem) for each in found), found
    return [each for each in found if isinstance(each, SourceItem)]


def only(text: str | bytes) -> SourceItem:
    (item,) = items(text)
    return item


def rejection(text: str | bytes) -> RejectedItem:
    (found,) = read(text)
    assert isinstance(found, RejectedItem)
    assert isinstance(found.error, InvalidReferenceError)
    return found


# --- Formats --------------------------------------------------------------------------------------


def test_one_url_a_line() -> None:
    found = items(f"\n# pictures\n{A}\r\n   \n  {B}  \n{A}#fragment")
    assert [each.image for each in found] == [A, B, A]
    assert found[0] == SourceItem(image=A, source="urls")


@pytest.mark.parametrize("header", ["url", "URL", " Url ", "image_url", "image"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_tables_are_recognised_by_their_header(header: str, delimiter: str) -> None:
    item = only(delimiter.join([header, "city"]) + "\n" + delimiter.join([A, "Paris"]))
    assert (item.image, item.city) == (A, "Paris")


def test_a_single_column_with_a_header() -> None:
    assert only(f"url\n{A}\n").image == A


def test_json_lines_are_recognised_by_their_first_brace() -> None:
    item = only(
        json.dumps({"url": A, "latitude": 1, "tags": ["x", "y"], "stars": 5, "nested": {"a": [1.5]}, "no": None})
    )
    assert (item.image, item.latitude, item.tags) == (A, 1.0, ("x", "y"))
    assert item.metadata == {"stars": 5, "nested": {"a": [1.5]}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", A),
        ("list", A),
        ("list.csv", f"# made by hand\n\nurl,city\n{A},Paris\n"),
        ("list.CSV", f"city;url\nParis;{A}\n"),
        ("list.csv", f"city\turl\nParis\t{A}\n"),
        ("list.tsv", f"url\tcity\n{A}\tParis\n"),
        ("list.jsonl", f'\n{{"url": "{A}"}}\n'),
        ("list.ndjson", f'{{"url": "{A}"}}'),
    ],
)
def test_files_are_read_by_their_extension(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (item,) = urls(str(tmp_path / name))
    assert isinstance(item, SourceItem)
    assert item.image == A


def test_a_byte_order_mark_and_old_line_ends_do_not_matter() -> None:
    assert only(f"\ufeffurl,city\r\n{A},Paris\r\n").city == "Paris"
    assert [each.image for each in items(f"{A}\r{B}\r")] == [A, B]


@pytest.mark.parametrize(
    ("value", "rating", "metadata"),
    [("4", 4, {}), ("-1", -1, {}), ("0", 0, {}), ("5.0", 5, {}), ("87", None, {"rating": "87"}),
     ("PG-13", None, {"rating": "PG-13"}), ("4.5", None, {"rating": "4.5"}), ("", None, {})],
)  # fmt: skip
def test_a_rating_is_a_number_of_stars_or_metadata(value: str, rating: int | None, metadata: dict[str, str]) -> None:
    item = only(f"url,Rating\n{A},{value}\n")
    assert (item.rating, item.metadata) == (rating, metadata)


def test_columns_fill_the_record_and_the_others_become_metadata() -> None:
    text = (
        "url,source_id,description,credit,credit_url,page_url,taken_at,camera,country,city,latitude,longitude,tags,"
        "Colour,empty,image\n"
        f'{A},7,"two\nlines, ""quoted""",Ann,https://ann.example,https://example.org/a,2024-05-31T18:30:00+02:00,'
        "X100,France,Paris,48.85,-2.35,sea; sun ;sea;,blue,,thumb.jpg\n"
    )
    assert only(text) == SourceItem(
        image=A,
        source="urls",
        source_id="7",
        description='two\nlines, "quoted"',
        credit="Ann",
        credit_url="https://ann.example",
        page_url="https://example.org/a",
        taken_at=datetime(2024, 5, 31, 16, 30, tzinfo=UTC),
        camera="X100",
        country="France",
        city="Paris",
        latitude=48.85,
        longitude=-2.35,
        tags=("sea", "sun"),
        metadata={"Colour": "blue", "image": "thumb.jpg"},
    )


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("a;b", ("a", "b")),
        ('"a, b"', ("a", "b")),
        ('"Paris, France;sea"', ("Paris, France", "sea")),
        ('"[""a"", ""b"", 3]"', ("a", "b", "3")),
        (" ; ", ()),
        ("", ()),
    ],
)
def test_tags(tags: str, expected: tuple[str, ...]) -> None:
    assert only(f"url,tags\n{A},{tags}\n").tags == expected


@pytest.mark.parametrize(
    "taken_at", ["2024-05-31", "2024-05-31 00:00:00", "2024-05-31T00:00Z", "2024-05-30 20:00-04:00"]
)
def test_times_without_a_zone_are_utc(taken_at: str) -> None:
    assert only(f"url,taken_at\n{A},{taken_at}\n").taken_at == datetime(2024, 5, 31, tzinfo=UTC)


def test_rows_may_be_short_blank_or_end_in_blank_fields() -> None:
    found = items(f"url,city,country\n{A}\n\n  \n{A},Paris,France,, \n,,\n,,,,\n")
    assert [each.city for each in found] == [None, "Paris"]
    assert found[1].metadata == {}


def test_stdin_is_read_and_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(A.encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert [each.image for each in urls("-")] == [A]
    assert not stdin.buffer.closed
    assert [each.image for each in urls("-", stdin=io.StringIO(B))] == [B]


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, A.encode())
    os.close(writing)
    try:
        assert [each.image for each in urls(f"/dev/fd/{reading}")] == [A]
    finally:
        os.close(reading)


def test_rows_are_yielded_before_the_list_ends() -> None:
    """A list that is still being written is ingested meanwhile."""

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            line = f"{A}\n".encode()
            buffer[: len(line)] = line
            return len(line)

    stream = urls("-", stdin=io.BufferedReader(Endless()))
    assert [next(stream).image for _ in range(3)] == [A, A, A]


# --- Bad rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("example.org/a.jpg", "does not begin with http:// or https://"),
        ("ftp://example.org/a.jpg", "does not begin with http:// or https://"),
        ("file:///etc/passwd", "does not begin with http:// or https://"),
        ("javascript:alert(1)", "does not begin with http:// or https://"),
        ("http://", "has no host"),
        ("http://:80/", "has no host"),
        ("http://example.org:99999/", "malformed host or port"),
        ("http://[::1/", "malformed host or port"),
        ("http://example.org/a b.jpg", "holds a space"),
        ("http://example.org/a\x07.jpg", "control character"),
        ("http://example.org/" + "x" * MAX_REFERENCE_BYTES, "is longer than 2,048 bytes"),
    ],
)
def test_bad_urls_are_rejected_with_line_column_and_value(url: str, message: str) -> None:
    found = read(f"url,city\n{A},x\n{url},y\n{B},z\n")
    assert [type(each) for each in found] == [SourceItem, RejectedItem, SourceItem]
    bad = found[1]
    assert isinstance(bad, RejectedItem)
    assert str(bad.error).startswith(
        "line 3 of stdin: column url: 'http" if url.startswith("http") else "line 3 of stdin"
    )
    assert message in str(bad.error)
    assert str(bad.error).isprintable()
    assert bad.image.isprintable()
    assert len(bad.image.encode()) <= MAX_REFERENCE_BYTES


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latitude", "abc", "column latitude: 'abc' is not a number between -90 and 90"),
        ("latitude", "90.1", "'90.1' is not a number between -90 and 90"),
        ("latitude", "nan", "'nan' is not a number"),
        ("longitude", "-181", "'-181' is not a number between -180 and 180"),
        ("longitude", "inf", "'inf' is not a number"),
        ("taken_at", "yesterday", "column taken_at: 'yesterday' is not a date and time"),
        ("taken_at", "2024-02-30", "'2024-02-30' is not a date"),
        ("taken_at", "0001-01-01T00:00:00+14:00", "'0001-01-01T00:00:00+14:00' is not in the years 2 to 9998"),
        ("taken_at", "9999-12-31T23:59:59-14:00", "is not in the years 2 to 9998"),
        ("credit_url", "javascript:alert(1)", "column credit_url: 'javascript:alert(1)' does not begin with http"),
        ("tags", "[1, 2", "column tags: '[1, 2'"),
        ("description", "a\0b", "holds a NUL"),
        ("colour", "a\0b", "column colour: 'a\\x00b' holds a NUL"),
    ],
)
def test_bad_values_are_rejected_with_line_column_and_value(column: str, value: str, message: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([["url", column], [A, value]])
    bad = rejection(file.getvalue())
    assert bad.image == A
    assert str(bad.error).startswith("line 2 of stdin: column ")
    assert message in str(bad.error)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ('{"url": "x"} more', "is not JSON"),
        ('{"url": "http://h/", "x": NaN}', "NaN is not a number"),
        ('{"url": "http://h/", "x": 1e999}', "1e999 is not a number"),
        ('{"url": "http://h/", "x": "\\ud800"}', "not valid UTF-8"),
        ('{"url": "http://h/", "x": {"y": ["\\u0000"]}}', "holds a NUL"),
        ('{"url": "http://h/", "x\\u0000": 1}', "holds a NUL"),
        ('{"url": "http://h/", "description": {}, "city": ["x"]}', "column city: '['x']' is not text"),
        ('{"url": "http://h/", "latitude": true}', "is not a number"),
        ('{"url": "http://h/", "taken_at": 20240531}', "is not a date"),
        ('{"url": "http://h/", "tags": 5}', "is not a list of tags"),
        ('{"url": "http://h/", "url": "http://i/"}', "the key 'url' occurs twice"),
        ('{"url": "http://h/", "x": {"y": 1, "y": 2}}', "the key 'y' occurs twice"),
        ('{"url": "http://h/", "City": "a", "city ": "b"}', "the key 'city' twice"),
        ('{"url": "http://h/', "is not JSON"),
        ('"http://h/"', "not a JSON object"),
        ("null", "not a JSON object"),
        ("NaN", "NaN is not a number"),
        ('{"url": 5}', "column url: '5' is not a URL"),
        ('{"url": ["http://h/"]}', "is not a URL"),
        ('{"url": ""}', "the row has no URL"),
        ('{"link": "http://h/"}', "the row has no URL"),
        ("[1]", "not a JSON object"),
        ('{"a": ' * 100_000, "nested too deeply|recursion"),
        ('{"url": "http://h/", "x": ' + "[" * 100 + "]" * 100 + "}", "nested 101 deep, the limit is 100"),
        ('{"url": "http://h/", "tags": "' + "[" * 100_000 + '"}', "is nested too deeply"),
        ('{"url": "http://h/", "latitude": ' + "9" * 400 + "}", "is not a number between -90 and 90"),
    ],
)
def test_bad_json_lines_are_rejected_and_the_others_read(line: str, message: str) -> None:
    found = read(f'{{"url": "{A}"}}\n{line}\n{{"url": "{B}"}}\n')
    assert [type(each) for each in found] == [SourceItem, RejectedItem, SourceItem]
    bad = found[1]
    assert isinstance(bad, RejectedItem)
    assert str(bad.error).startswith("line 2 of stdin: ")
    assert any(part in str(bad.error) for part in message.split("|"))


def test_a_row_without_a_url_is_reported_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,city\n,Paris\n")
    (bad,) = urls(str(tmp_path / "list.csv"))
    assert isinstance(bad, RejectedItem)
    assert bad.image == "list.csv:2"


def test_lines_are_counted_across_quoted_newlines() -> None:
    found = read(f'\nurl,description\n{A},"three\nlines\nhere"\nbad,x\n')
    assert str(found[1].error if isinstance(found[1], RejectedItem) else "").startswith("line 6 of stdin")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["", '"', 'x"', '"x"', 'say "so"', '""'])
def test_an_unclosed_quote_costs_its_own_row_only(delimiter: str, ends: str) -> None:
    """Whatever later rows contain: a later quote seems to close the first one."""
    rows = [f'{A},"oops', f"{B},x", f"{A},{ends}", *[f"{B},y"] * 3, f'{A},"end']
    found = read("".join(f"{row}\r\n".replace(",", delimiter) for row in ["url,description", *rows]))
    bad = [each for each in found if isinstance(each, RejectedItem)]
    lost = [4] if ends == '"' else []  # itself unclosed
    assert [str(each.error).split(":")[0] for each in bad] == [f"line {n} of stdin" for n in [2, *lost, 8]]
    assert all("a quote is not closed" in str(each.error) for each in bad)
    assert len(found) == len(rows)


def test_a_stray_quote_at_the_end_of_a_later_row_does_not_close_an_earlier_one() -> None:
    found = read(f'url,description,city\n{A},"oops,Rome\n{B},x,Rome\n{A},27",Paris\n{B},5" and 6",Oslo\n')
    assert [each.description if isinstance(each, SourceItem) else None for each in found] == [
        None,
        "x",
        '27"',
        '5" and 6"',
    ]


@pytest.mark.parametrize(
    ("text", "description"),
    [
        (f'url,description\n{A},"see\n{B}\nand more"\n', f"see\n{B}\nand more"),
        (f'description,url\n"two\nlines",{A}\n', "two\nlines"),
        (f'description,url\n"a, b\n{B},\nc",{A}\n', f"a, b\n{B},\nc"),
        (f'"description" ,"url"\n"a, b" ,"{A}"  \n', "a, b"),
        (f'description\turl\n"a\tb" \t{A}\n', "a\tb"),
        (f'url,description\n{A},a "b" c\n', 'a "b" c'),
        (f'url,description\n{A},"say ""hi"" , bye" \n', 'say "hi", bye'),
        (f'url,description,,\n{A},"a\n\n b",,,,\n', "a\n\n b"),
        (f",url,description\n0,{A},b\n", "b"),
    ],
)
def test_what_spreadsheets_and_people_write_is_read(text: str, description: str) -> None:
    assert only(text).description == description


@pytest.mark.parametrize("header", ["url", "url,", "url,,"])
def test_an_unquoted_comma_that_cuts_a_url_is_reported(tmp_path: Path, header: str) -> None:
    (tmp_path / "list.csv").write_text(f'{header}\nhttp://h/w_300,h_200/x.jpg\n"http://h/w_300,h_200/y.jpg"\n')
    bad, good = urls(str(tmp_path / "list.csv"))
    assert isinstance(bad, RejectedItem)
    assert "line 2 of list.csv: the row is malformed (2 fields, the header has 1)" in str(bad.error)
    assert good.image == "http://h/w_300,h_200/y.jpg"


def test_a_single_column_of_stdin_needs_no_quotes() -> None:
    """Its format is not named by an extension, and no delimiter is in its header."""
    assert only("url\nhttp://h/w_300,h_200/x.jpg\n").image == "http://h/w_300,h_200/x.jpg"


def test_plain_lists_may_hold_commas_and_quotes() -> None:
    urls_ = ["http://h/w_300,h_200/x.jpg", 'http://h/a";b".jpg', 'http://h/"open', A]
    assert [each.image for each in items("\n".join(urls_))] == urls_


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('url,"description', "line 3 of stdin, which names the columns, is malformed (a quote is not closed)"),
        ("url,city,City", "line 3 of stdin names the column 'city' twice; rename one of them"),
        ("URL,Note,url", "names the column 'url' twice"),
        ("url,Note, Note ", "names the column 'Note' twice"),
    ],
)
def test_a_malformed_header_is_refused(header: str, message: str) -> None:
    with pytest.raises(SourceError, match=re.escape(message)):
        read(f"\n# made by hand\n{header}\n{A},x\n{B},y\n")


def test_an_unclosed_quote_before_the_url_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f'"city,url\nParis,{A}\n')
    with pytest.raises(SourceError, match=r"line 1 of list\.csv, .* is malformed \(a quote is not closed\)"):
        list(urls(str(tmp_path / "list.csv")))


@pytest.mark.parametrize(
    "row",
    [f'{A},"oops\n', f'{A},a","b\n', f'{A},"\n', 'x,a","b\n', f'"{A}\n', f'{A},"""\n'],
    ids=["all", "both ways", "pairs", "no urls", "first column", "escaped"],
)
def test_unclosed_quotes_are_read_in_linear_time(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in lines that the csv module is given, for a list with an unclosed quote in each row."""
    given_lines = 0
    original = delimited._RewindableLines.__next__

    def counting(self: delimited._RewindableLines) -> str:
        nonlocal given_lines
        given_lines += 1
        return original(self)

    monkeypatch.setattr(delimited._RewindableLines, "__next__", counting)
    rows = 2_000
    found = read("url,description,city\n" + row * rows)
    assert len(found) > rows / 3
    assert given_lines < 80 * rows


def test_undecodable_bytes_affect_only_their_row() -> None:
    found = read(b"url,city\n" + f"{A},Paris\n".encode() + b"http://h/,caf\xe9\n" + f"{B},Rome\n".encode())
    assert [type(each) for each in found] == [SourceItem, RejectedItem, SourceItem]
    assert "column city: 'caf\\xe9' is not valid UTF-8" in str(
        found[1].error if isinstance(found[1], RejectedItem) else ""
    )
    assert rejection(b"http://h/caf\xe9\n").image == "http://h/caf\\xe9"


def test_passwords_are_kept_in_the_reference_and_out_of_messages() -> None:
    assert only("https://ann:secret@example.org/a.jpg").image == "https://ann:secret@example.org/a.jpg"
    for url in ("https://ann:secret@/a", "https://ann:se/secret@h/a", "https://ann:secret@h:x/a", "ftp://a:secret@h/"):
        assert "secret" not in str(rejection(url).error)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://ann:secret@h/a", "https://***@h/a"),
        ("https://token@h/a", "https://***@h/a"),
        ("https://ann:se/cr@et@h/a", "https://***@h/a"),
        ("see http://a:b@c/ and ftp://d:e@f", "see http://***@c/ and ftp://***@f"),
        ("https://h:8080/@me/x", "https://h:8080/@me/x"),
        ("https://h/@me", "https://h/@me"),
        ("https://[::1]:80/@me", "https://[::1]:80/@me"),
    ],
)
def test_credentials_are_masked_and_other_at_signs_are_not(text: str, masked: str) -> None:
    assert mask_credentials(text) == masked


def test_credentials_are_masked_in_linear_time() -> None:
    """With a search to the end of the text for each colon, this would take an hour."""
    text = "//a:b" * 1_000_000
    assert mask_credentials(text) == text
    assert mask_credentials(f"http://ann:secret@{text}") == f"http://***@{text}"


def test_a_field_beyond_the_csv_modules_limit_is_rejected() -> None:
    found = read(f"url,description\n{A},{'x' * 200_000}\n{B},y\n")
    assert [type(each) for each in found] == [RejectedItem, SourceItem]
    assert "line 2 of stdin: the row is malformed (field larger" in str(
        found[0].error if isinstance(found[0], RejectedItem) else ""
    )


def test_a_line_without_an_end_is_not_read_into_memory() -> None:
    found = read("http://h/" + "x" * (3 * MAX_LINE_CHARS) + f"\n{A}\n")
    assert [type(each) for each in found] == [RejectedItem, SourceItem]
    assert len(found[0].image) <= MAX_REFERENCE_BYTES


# --- Bad lists ------------------------------------------------------------------------------------


def test_a_list_that_is_missing_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"list 'gone\.txt' does not exist; give a file, or - for stdin"):
        urls("gone.txt")
    with pytest.raises(SourceError, match="does not exist"):
        urls("~nobody-of-that-name/list")
    with pytest.raises(SourceError, match="is a folder; give a list of URLs, or use `ingest files`"):
        urls(str(tmp_path))


def test_a_list_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list").touch(mode=0)
    if os.access(tmp_path / "list", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        list(urls(str(tmp_path / "list")))


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_a_table_without_a_url_column_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("photo,city\nhttps://example.org/a.jpg,Paris\n")
    with pytest.raises(SourceError, match=rf"{name} has no url column: .* one of them url or image_url or image"):
        list(urls(str(tmp_path / name)))


def test_the_error_for_utf_16_names_it() -> None:
    with pytest.raises(SourceError, match="is UTF-16; save it as UTF-8"):
        read(A.encode("utf-16"))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "url,city\n", "\ufeff"])
def test_empty_lists_yield_nothing(text: str) -> None:
    assert read(text) == []


# --- Anything at all ------------------------------------------------------------------------------

_FIELD = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.binary(max_size=400))
@example(b'url\n"')
@example(b"url\n\0\n")
@example(b'{"url": "http://h/"')
@example(b"\xff\xfe")
def test_any_bytes_give_items_or_our_errors(data: bytes) -> None:
    for start in (b"", b"url,tags,latitude\n", b"url\timage\n", b'{"url": '):
        try:
            found = read(start + data)
        except SourceError:
            continue
        assert all(isinstance(each, SourceItem | RejectedItem) for each in found)
        for each in found:
            each.image.encode()
            assert "\0" not in each.image


@given(st.lists(st.tuples(_FIELD, _FIELD), max_size=5))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]]) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([["url", "description", "Note"], *([A, *row] for row in rows)])
    for each, (description, note) in zip(read(file.getvalue()), rows, strict=True):
        if isinstance(each, RejectedItem):
            assert "\0" in description + note
        else:
            assert each.description == (description.strip() or None)
            assert each.metadata == ({"Note": note.strip()} if note.strip() else {})
