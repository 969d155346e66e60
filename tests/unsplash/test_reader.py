"""The Unsplash source: its files found and read, and its photos turned into items."""

from __future__ import annotations

import csv
import io
import itertools
import math
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchdb.errors import InvalidReferenceError, SourceError
from searchdb.records import MAX_REFERENCE_BYTES, SourceItem
from searchdb.sources.delimited import MAX_ROW_CHARS, delimited_rows
from searchdb.unsplash.columns import FORMATS, MAX_KEY_BYTES
from searchdb.unsplash.photos import (
    DEFAULT_RENDITION,
    METADATA_COLUMNS,
    MIN_SHORT_SIDE,
    Photo,
    parse_rendition,
    photo_item,
)
from searchdb.unsplash.reader import BadRow, Part, PartReader, Row, find_parts
from tests.helpers import unsplash_files as files

HEADER = "photo_id\tkeyword\tai_service_1_confidence\tsuggested_by_user\n"
GOOD = "p1\tdune\t1.5\tt\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return files.write_dataset(tmp_path / "dataset")


def rows(part: Part) -> list[Row | BadRow]:
    return list(PartReader(part))


def values(part: Part) -> list[dict[str, Any]]:
    """Return the rows of a part without a bad one."""
    found = rows(part)
    assert all(isinstance(row, Row) for row in found), found
    return [dict(zip(part.columns, row.values, strict=True)) for row in found if isinstance(row, Row)]


def keywords_part(tmp_path: Path, content: str | bytes, name: str = "keywords.tsv000") -> Part:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    (part,) = find_parts([path])
    return part


def bad(tmp_path: Path, content: str | bytes) -> BadRow:
    """Return the only bad row among keywords whose other rows are both GOOD."""
    body = content.encode() if isinstance(content, str) else content
    before, report, after = rows(keywords_part(tmp_path, HEADER.encode() + GOOD.encode() + body + GOOD.encode()))
    assert isinstance(before, Row)
    assert isinstance(after, Row)
    assert before.values == after.values == ("p1", "dune", 1.5, True)
    assert isinstance(report, BadRow)
    assert (report.part, report.line) == ("keywords.tsv000", 3)
    assert report.reason.isprintable()
    return report


# --- Finding --------------------------------------------------------------------------------------

ALL = ["photos.tsv000", "photos.tsv001", "keywords.tsv000", "collections.tsv000", "colors.tsv000", "conversions.tsv000"]


def test_a_folder_and_the_folder_above_it(folder: Path) -> None:
    (folder / "DOCS.md").write_text("documentation")
    (folder / "._photos.tsv000").write_text("not a part")
    (folder / "photos.tsv002.txt").write_text("not a part")
    assert [part.name for part in find_parts([folder])] == ALL
    (folder.parent / ".hidden").mkdir()
    (folder.parent / ".hidden" / "photos.tsv009").write_text("not a part")
    assert find_parts([folder.parent]) == find_parts([str(folder)])


@pytest.mark.parametrize("inside", ["", "unsplash-research-dataset-lite-latest/", "a/b/"])
def test_a_zip_reads_like_the_folder(folder: Path, tmp_path: Path, inside: str) -> None:
    archive = files.zipped(folder, tmp_path / "download", inside=inside)
    zipped, plain = find_parts([archive]), find_parts([folder])
    assert [part.name for part in zipped] == ALL
    for one, other in zip(zipped, plain, strict=True):
        assert rows(one) == rows(other)
        assert one.byte_size == other.byte_size


@pytest.mark.parametrize("pattern", ["photos.tsv*", "photos.{tsv,csv}*", "*photos.tsv00[01]", "ph*"])
def test_globs(folder: Path, pattern: str) -> None:
    (folder / "phone.txt").write_text("not a part")
    assert [part.name for part in find_parts([folder / pattern])] == ["photos.tsv000", "photos.tsv001"]


def test_single_parts_named_twice_are_read_once(folder: Path) -> None:
    parts = find_parts([folder / "photos.tsv001", folder / "photos.tsv00*", folder])
    assert [part.name for part in parts] == ALL


@pytest.mark.parametrize(
    "name", ["photos.csv000", "photos.tsv", "photos.csv", "PHOTOS.TSV000", "photos.tsv-01", "photos.tsv_2.3"]
)
def test_names_of_parts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(files.text("photos", [files.photo()]))
    (part,) = find_parts([tmp_path])
    assert (part.table, len(values(part))) == ("photos", 1)


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_parts_named_csv_have_tabs_or_commas(tmp_path: Path, delimiter: str) -> None:
    row = files.photo(photo_description="a, b\tc")
    files.write(tmp_path, "photos.csv000", [row], delimiter=delimiter)
    assert values(*find_parts([tmp_path]))[0]["photo_description"] == "a, b\tc"


def test_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    for missing in ("gone.zip", "photos.tsv*", "~nobody-of-that-name/x"):
        with pytest.raises(SourceError, match="does not exist; give the zip as downloaded, the folder"):
            find_parts([missing])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"the folder .* holds no part of the Unsplash dataset; give"):
        find_parts([tmp_path])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"notes\.txt' is neither a zip nor a part"):
        find_parts([tmp_path / "notes.txt"])
    with pytest.raises(SourceError, match="no part of the Unsplash dataset was given"):
        find_parts([])


def test_broken_zips_are_refused(folder: Path, tmp_path: Path) -> None:
    whole = files.zipped(folder, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "short.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.zip").write_bytes(b"<html>sign in to download</html>")
    (tmp_path / "empty.zip").touch()
    for name in ("short.zip", "none.zip", "empty.zip"):
        with pytest.raises(SourceError, match=rf"{name}' is not a zip, or is incomplete; download it again"):
            find_parts([tmp_path / name])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("__MACOSX/photos.tsv000", "photo_id\n")
        archive.writestr(".trash/photos.tsv000", "photo_id\n")
    with pytest.raises(SourceError, match=r"other\.zip' holds no part of the Unsplash dataset"):
        find_parts([tmp_path / "other.zip"])


def test_an_encrypted_zip_is_refused(folder: Path, tmp_path: Path) -> None:
    data = bytearray(files.zipped(folder, tmp_path / "locked.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "locked.zip") as archive:
        at = archive.start_dir
    while data[at : at + 4] == b"PK\1\2":
        data[at + 8] |= 1
        at += 46 + sum(int.from_bytes(data[at + n : at + n + 2], "little") for n in (28, 30, 32))
    (tmp_path / "locked.zip").write_bytes(data)
    with pytest.raises(SourceError, match="is encrypted; unpack it with its password and give the folder"):
        find_parts([tmp_path / "locked.zip"])


def test_a_zip_with_a_damaged_member_is_refused_when_it_is_read(tmp_path: Path) -> None:
    files.write(tmp_path / "dataset", "photos.tsv000", (files.photo(n) for n in range(2_000)))
    archive = files.zipped(tmp_path / "dataset", tmp_path / "damaged.zip")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0xFF
    archive.write_bytes(data)
    (part,) = find_parts([archive])
    with pytest.raises(SourceError, match=r"photos\.tsv000 in 'damaged\.zip' cannot be read to its end .*download it"):
        rows(part)


@pytest.mark.parametrize("content", ["", "\n\n", "p1\tdune\n", "photo_id\n", '"photo_id\n', "\0\0\xff"])
def test_a_part_without_a_header_is_refused_at_once(tmp_path: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"keywords\.tsv000 has no column (photo_id|keyword): .*as downloaded"):
        keywords_part(tmp_path, content)


# --- Headers --------------------------------------------------------------------------------------


def test_headers_are_matched_by_name(tmp_path: Path) -> None:
    header = '\ufeff\n Keyword \tsurprise\tSuggested By User\t"PHOTO_ID"\t\n'
    part = keywords_part(tmp_path, f"{header}dune\tignored\tt\tp1\t\n")
    assert part.columns == ("keyword", "suggested_by_user", "photo_id")
    assert values(part) == [{"photo_id": "p1", "keyword": "dune", "suggested_by_user": True}]


def test_alternative_column_names_of_the_datasets_sql_are_accepted(tmp_path: Path) -> None:
    row = {"photo_id": "p1", "hex": "A0B1C2", "ai_coverage": "0.5", "ai_score": "0.25", "coverage": "", "score": "1"}
    path = files.write(tmp_path, "colors.tsv", [row], columns=["photo_id", "hex", "ai_coverage", "ai_score"])
    assert values(*find_parts([path]))[0] == {"photo_id": "p1", "hex": "A0B1C2", "coverage": 0.5, "score": 0.25}
    path = files.write(tmp_path, "colors.tsv", [row], columns=["photo_id", "ai_score", "hex", "score"])
    assert values(*find_parts([path]))[0]["score"] == 1.0


# --- Values ---------------------------------------------------------------------------------------


def test_every_kind_of_value(tmp_path: Path) -> None:
    row = files.photo(photo_location_latitude="-12.5", photo_featured="FALSE", exif_iso=" 100 ", ai_description="")
    (photo,) = values(*find_parts([files.write(tmp_path, "photos.tsv000", [row], end="\r\n")]))
    assert photo["photo_submitted_at"] == datetime(2019, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
    assert (photo["photo_featured"], photo["exif_iso"], photo["stats_views"]) == (False, 100, 10_000_000_001)
    assert (photo["photo_location_latitude"], photo["ai_description"], photo["blur_hash"]) == (-12.5, None, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("p1\tdune\tnan\tt\n", "column ai_service_1_confidence: 'nan' is not a number"),
        ("p1\tdune\t1e999\tt\n", "column ai_service_1_confidence: '1e999' is not a number"),
        ("p1\tdune\t1_0\tt\n", "column ai_service_1_confidence: '1_0' is not a number"),
        ("p1\tdune\t1\tmaybe\n", "column suggested_by_user: 'maybe' is neither t nor f"),
        ("\tdune\t1\tt\n", "column photo_id is empty"),
        ("p1\t \t1\tt\n", "column keyword is empty"),
        ("p1\tdune\n", "the row is malformed (2 fields, the header has 4); look for a stray quote or tab"),
        ("p1\tdu\tne\t1\tt\n", "5 fields, the header has 4"),
        (f"p1\t{'x' * (MAX_KEY_BYTES + 1)}\t1\tt\n", "x...' is longer than 1,024 bytes, the limit for a column with"),
        (f"p1\t{'é' * MAX_KEY_BYTES}\t1\tt\n", "é...' is longer than 1,024 bytes"),
        ('p1\tdu"ne\t1\t"t"f\n', "expected after"),
        (f"p1\t{'x' * 200_000}\t1\tt\n", "field larger than field limit"),
        (f"p1\t{'x' * (3 * MAX_ROW_CHARS)}\t1\tt\n", "field larger than field limit"),
        (b"p1\tdune\t\xff\x00\tt\n", "column ai_service_1_confidence: '��' is not a number"),
    ],
)
def test_bad_rows_name_part_line_column_and_value(tmp_path: Path, row: str | bytes, message: str) -> None:
    report = bad(tmp_path, row)
    assert message in str(report)
    assert str(report).startswith("line 3 of keywords.tsv000: ")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("photo_width", "2147483648", "is not a whole number of 4 bytes"),
        ("photo_width", "12.5", "is not a whole number of 4 bytes"),
        ("stats_views", str(2**63), "is not a whole number of 8 bytes"),
        ("stats_views", "9" * 5000, "is not a whole number of 8 bytes"),
        ("photo_submitted_at", "yesterday", "is not a date and time"),
        ("photo_submitted_at", "0001-01-01 00:00:00", "is not in the years 2 to 9998"),
        ("photo_submitted_at", "9999-12-31 23:59:59-12:00", "is not a date and time"),
    ],
)
def test_values_that_a_column_cannot_hold(tmp_path: Path, column: str, value: str, message: str) -> None:
    (part,) = find_parts([files.write(tmp_path, "photos.tsv000", [{**files.photo(), column: value}, files.photo(2)])])
    report, good = rows(part)
    assert isinstance(report, BadRow)
    assert isinstance(good, Row)
    assert report.reason.startswith(f"column {column}: '{value[:20]}")
    assert message in report.reason
    assert report.image_url == "https://images.unsplash.com/photo000001-raw"


def test_blank_fields_past_the_header_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    part = keywords_part(tmp_path, f"{HEADER}\n  \np1\tdune\t\tt\t \t\n\t\t\t\n\t\t\np1\tquay\t \t \n")
    assert [(row["keyword"], row["suggested_by_user"]) for row in values(part)] == [("dune", True), ("quay", None)]


def test_quoted_newlines_tabs_and_quotes(tmp_path: Path) -> None:
    part = keywords_part(tmp_path, f'{HEADER}p1\t"two\r\nlines\tand ""quotes"""\t1\tt\np2\tin "the middle"\t\t\nx\n')
    first, second, report = rows(part)
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.values[1] == 'two\r\nlines\tand "quotes"'
    assert (second.line, second.values[1]) == (4, 'in "the middle"')
    assert isinstance(report, BadRow)
    assert report.line == 5


def test_bytes_that_are_not_utf_8_and_nul_are_replaced(tmp_path: Path) -> None:
    assert values(keywords_part(tmp_path, HEADER.encode() + b"p1\tcaf\xe9\x00\t\t\n"))[0]["keyword"] == "caf��"


@pytest.mark.parametrize("following", [10, 20_000])  # 20,000 lines are longer than a field of the csv module
def test_an_unclosed_quote_affects_only_its_own_row(tmp_path: Path, following: int) -> None:
    rest = "".join(f"p{n}\tdune\t\t\n" for n in range(following))
    found = rows(keywords_part(tmp_path, f'{HEADER}{GOOD}p1\t"open\t1\tt\n{rest}'))
    assert [row.line for row in found] == [*range(2, following + 4)]
    assert [row for row in found if isinstance(row, BadRow)] == [found[1]]


def test_rows_between_two_stray_quotes_are_kept(tmp_path: Path) -> None:
    found = rows(keywords_part(tmp_path, f'{HEADER}p1\t"open\t1\tt\n{GOOD}p2\t"quay"\t1\tt\n{GOOD}p1\t"x\n{GOOD}p3"\n'))
    assert [row.line for row in found if isinstance(row, BadRow)] == [2, 6, 8]
    assert [row.values[0] for row in found if isinstance(row, Row)] == ["p1", "p2", "p1", "p1"]


def test_an_endless_row_is_cut() -> None:
    lines = itertools.chain(['"z\n'], itertools.repeat('x"\t"y\n', MAX_ROW_CHARS // 6 + 10))
    line, found = next(delimited_rows(lines, delimiter="\t"))
    assert line == 1
    assert str(found) == "row longer than 1,048,576 characters"


@pytest.mark.slow
def test_memory_stays_constant(tmp_path: Path) -> None:
    """60,000 rows, with an unclosed quote in the middle; to keep them would take 20 MB, and one takes 1 MB."""
    path = files.many_keywords(tmp_path / "keywords.tsv000", 30_000)
    with path.open("a") as file:
        file.write('p\t"' + "\n" * 10)
    with path.open("ab") as out, files.many_keywords(tmp_path / "keywords.tsv001", 30_000).open("rb") as more:
        out.write(more.read())
    part = find_parts([path])[0]
    tracemalloc.start()
    try:
        count = sum(isinstance(row, Row) for row in PartReader(part))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60_000
    assert peak < 4 * 1024 * 1024


_ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(_ANY, max_size=6), st.sampled_from(["\t", ","]), st.booleans())
def test_what_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], delimiter: str, quoted: bool
) -> None:
    folder = tmp_path_factory.mktemp("part")
    written = [files.photo(n, photo_description=word) for n, word in enumerate(words)]
    # Without quotes around everything, the csv module quotes a lone CR only where its lines end with one.
    style: dict[str, Any] = {"quoting": csv.QUOTE_ALL} if quoted else {"end": "\r\n"}
    (part,) = find_parts([files.write(folder, "photos.csv000", written, delimiter=delimiter, **style)])
    assert [row["photo_description"] for row in values(part)] == [word or None for word in words]


@given(st.binary(max_size=300))
def test_any_bytes_give_rows_or_bad_rows(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    part = keywords_part(tmp_path_factory.mktemp("part"), HEADER.encode() + data)
    for row in rows(part):
        if isinstance(row, Row):
            assert row.values[0]
            assert row.values[1]
            assert not any("\0" in value for value in row.values if isinstance(value, str))


@given(st.lists(st.text(st.sampled_from('ab"\t\n'), max_size=12), max_size=8))
def test_rows_are_never_repeated_or_lost_for_any_quotes(texts: list[str]) -> None:
    """Every row starts on its own line, and without quotes each line is a row."""
    lines = io.StringIO("h\th\n" + "".join(f"{text}\n" for text in texts), newline="").readlines()
    found = list(delimited_rows(iter(lines), delimiter="\t", exact_width=True))
    numbers = [line for line, _ in found]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= len(lines) for number in numbers)
    if not any('"' in line for line in lines):
        assert set(numbers) >= {number for number, line in enumerate(lines, 1) if line.strip()}


# --- Items ----------------------------------------------------------------------------------------


def a_photo(*keywords: str, **given: Any) -> Photo:
    row: dict[str, Any] = dict.fromkeys(FORMATS["photos"].columns)
    row |= {"photo_id": "p1", "photo_image_url": "https://images.unsplash.com/p1"}
    return Photo.from_row(row | given, keywords=keywords)


def item(**given: Any) -> SourceItem:
    return photo_item(a_photo(**given), {})


def test_a_photo_with_everything() -> None:
    taken = datetime(2019, 3, 4, tzinfo=UTC)
    exif = {"exif_camera_make": "Canon", "exif_camera_model": "Canon EOS 5D", "exif_iso": 100}
    found = photo_item(
        a_photo(
            "sea",
            "sun",
            photo_url="https://unsplash.com/photos/p1",
            photo_submitted_at=taken,
            photo_description=" by its photographer ",
            ai_description="by a machine",
            photographer_username="ann",
            photographer_first_name=" Ann ",
            photographer_last_name="Example",
            photo_location_country=" Norway ",
            photo_location_city="  ",
            photo_location_latitude=60.5,
            photo_location_longitude=-5.5,
            photo_width=300,
            photo_height=400,
            photo_featured=False,
            stats_views=0,
            stats_downloads=2**40,
            blur_hash="LKO2",
            **exif,
        ),
        {},
    )
    assert found == SourceItem(
        image="https://images.unsplash.com/p1",
        source="unsplash",
        source_id="p1",
        description="by its photographer",
        credit="Ann Example",
        credit_url="https://unsplash.com/@ann",
        page_url="https://unsplash.com/photos/p1",
        taken_at=taken,
        camera="Canon EOS 5D",
        country="Norway",
        latitude=60.5,
        longitude=-5.5,
        tags=("sea", "sun"),
        metadata={
            "blur_hash": "LKO2",
            "stats_views": 0,
            "stats_downloads": 2**40,
            "photo_width": 300,
            "photo_height": 400,
            "photo_featured": False,
            **exif,
        },
    )
    assert SourceItem.from_json(found.to_json()).to_json() == found.to_json()


def test_a_photo_with_its_url_only() -> None:
    assert item() == SourceItem(image="https://images.unsplash.com/p1", source="unsplash", source_id="p1")


@pytest.mark.parametrize(
    ("first", "last", "username", "credit", "credit_url"),
    [
        ("Ann", None, "ann", "Ann", "https://unsplash.com/@ann"),
        (None, "Example", None, "Example", None),
        (" ", "", "ann/b?c", "ann/b?c", "https://unsplash.com/@ann%2Fb%3Fc"),
        (None, None, " ", None, None),
    ],
)
def test_credit(first: str | None, last: str | None, username: str | None, credit: str, credit_url: str) -> None:
    found = item(photographer_first_name=first, photographer_last_name=last, photographer_username=username)
    assert (found.credit, found.credit_url) == (credit, credit_url)


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D700", "NIKON D700"),
        ("FUJIFILM", " X-T2 ", "FUJIFILM X-T2"),
        (None, "X-T2", "X-T2"),
        ("Apple", " ", "Apple"),
        ("", None, None),
    ],
)
def test_camera(make: str | None, model: str | None, camera: str | None) -> None:
    assert item(exif_camera_make=make, exif_camera_model=model).camera == camera


def test_malformed_fields_are_omitted_and_the_image_is_kept() -> None:
    found = item(photo_url="javascript:alert(1)", photo_location_latitude=91.0, photo_location_longitude=5.0)
    assert (found.page_url, found.latitude, found.longitude) == (None, None, None)
    found = item(photo_location_latitude=9.0, photographer_username="x" * MAX_REFERENCE_BYTES)
    assert (found.latitude, found.credit_url) == (None, None)


@pytest.mark.parametrize("url", [None, "", "  ", "images.unsplash.com/p1", "ftp://h/p1", "https://h/" + "x" * 2048])
def test_a_photo_without_a_usable_url_is_refused(url: str | None) -> None:
    with pytest.raises(InvalidReferenceError, match=r"^column photo_image_url") as caught:
        item(photo_image_url=url)
    assert len(str(caught.value)) < 200


def test_metadata_columns_exist_in_the_dataset() -> None:
    assert set(METADATA_COLUMNS) <= set(FORMATS["photos"].columns)


# --- Renditions -----------------------------------------------------------------------------------


def rendition_of(query: str, url: str = "https://images.unsplash.com/p1", **given: Any) -> dict[str, list[str]]:
    found = photo_item(a_photo(photo_image_url=url, **given), parse_rendition(query))
    assert found.image == url
    assert found.rendition is not None
    assert found.rendition.startswith(url.partition("?")[0] + "?")
    return parse_qs(urlsplit(found.rendition).query)


@pytest.mark.parametrize(
    ("width", "height", "asked", "w"),
    [
        (6000, 4000, "w=640", 640),
        (3000, 1000, "w=640", 672),
        (1000, 3000, "w=640", 640),
        (1000, 3000, "w=100", 224),
        (500, 400, "w=640", 500),
        (3000, 100, "w=640", 3000),
        (None, 4000, "w=640", 640),
        (0, -5, "w=640", 640),
    ],
)
def test_the_width_depends_on_the_aspect_ratio(width: int | None, height: int | None, asked: str, w: int) -> None:
    assert rendition_of(asked, photo_width=width, photo_height=height) == {"w": [str(w)]}


def test_parameters_replace_those_of_the_url() -> None:
    found = rendition_of("?w=640&fm=jpg", "https://images.unsplash.com/p1?ixid=a%2Fb&w=9&fm=png&flag=")
    assert found == {"ixid": ["a/b"], "w": ["640"], "fm": ["jpg"]}
    assert rendition_of(DEFAULT_RENDITION)["q"] == ["80"]


def test_no_rendition_means_the_original() -> None:
    for nothing in (None, "", " "):
        assert photo_item(a_photo(), parse_rendition(nothing)).rendition is None
    url = "https://images.unsplash.com/" + "x" * (MAX_REFERENCE_BYTES - 30)
    assert photo_item(a_photo(photo_image_url=url), parse_rendition(DEFAULT_RENDITION)).rendition is None


@pytest.mark.parametrize(
    "query", ["640", "w=640&&", "w=640&fm", "&", "w=0", "w=abc", "h=-1", "w=1.5", "w=" + "9" * 5000]
)
def test_a_malformed_rendition_is_refused(query: str) -> None:
    with pytest.raises(SourceError, match=r"^the rendition '.*(is not a query string|give it in whole pixels)"):
        parse_rendition(query)


@given(
    st.integers(1, 30_000), st.integers(1, 30_000), st.none() | st.integers(1, 9999), st.none() | st.integers(1, 9999)
)
def test_the_short_side_is_never_too_short(width: int, height: int, w: int | None, h: int | None) -> None:
    query = "&".join(["fit=max", *([f"w={w}"] if w else []), *([f"h={h}"] if h else [])])
    found = rendition_of(query, photo_width=width, photo_height=height)
    asked_w, asked_h = (int(found[side][0]) if side in found else math.inf for side in ("w", "h"))
    scale = min(asked_w / width, asked_h / height, 1)
    assert min(width, height) * scale >= min(MIN_SHORT_SIDE, width, height) - 1e-6
    assert asked_w <= width or asked_w == math.inf
    assert asked_h <= height or asked_h == math.inf
