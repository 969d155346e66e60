"""What EXIF says, in the character sets that cameras and programs write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from searchdb.media.written.exif import read_exif
from searchdb.media.written.text import MAX_DESCRIPTION_CHARACTERS, MAX_NAME_CHARACTERS
from searchdb.records import WrittenMetadata
from tests.helpers.hostile_files import exif_bytes

DESCRIPTION, ARTIST, COPYRIGHT, COMMENT = 0x010E, 0x013B, 0x8298, 0x9286
XP_TITLE, XP_COMMENT, XP_AUTHOR, XP_KEYWORDS, XP_SUBJECT = range(0x9C9B, 0x9CA0)
RATING, RATING_PERCENT = 0x4746, 0x4749


def of_block(block: bytes) -> WrittenMetadata:
    image = Image.new("RGB", (1, 1))
    image.info["exif"] = block
    return read_exif(image).written


def said(tags: dict[int, Any] | None = None, shot: dict[int, Any] | None = None) -> WrittenMetadata:
    return of_block(exif_bytes(tags=tags or {}, shot=shot or {}))


def utf_16(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le")


def test_windows_fields() -> None:
    found = said(
        {
            XP_TITLE: utf_16("Der Löwe 🦁"),
            XP_COMMENT: utf_16("Im Zoo"),
            XP_AUTHOR: utf_16("Ann; Bob"),
            XP_KEYWORDS: utf_16("Löwe; Zoo;;Löwe "),
            RATING: 4,
        }
    )
    assert (found.title, found.description, found.creator) == ("Der Löwe 🦁", "Im Zoo", "Ann; Bob")
    assert (found.keywords, found.rating) == (("Löwe", "Zoo"), 4)
    assert said({XP_SUBJECT: utf_16("A lion"), XP_COMMENT: utf_16("")}).description == "A lion"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"A boat  \0", "A boat"),
        ("Ein Löwe, 10 €".encode(), "Ein Löwe, 10 €"),
        ("Ein Löwe, 10 €".encode("cp1252"), "Ein Löwe, 10 €"),
        ("東京".encode(), "東京"),
        (b"two\r\nlines\n\n\n\n\nand   more", "two\nlines\n\nand more"),
        (b"before\0behind", "before"),
        (b" \0\0\0", None),
        (b"", None),
    ],
)
def test_descriptions_are_read_in_their_character_set(raw: bytes, expected: str | None) -> None:
    assert said({DESCRIPTION: raw}).description == expected


JAPANESE = "海の写真 2024"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"ASCII\0\0\0A boat", "A boat"),
        (b"ASCII\0\0\0" + "Löwe".encode(), "Löwe"),
        (b"UNICODE\0" + "A boat".encode("utf-16-le"), "A boat"),
        (b"UNICODE\0" + "A boat".encode("utf-16-be"), "A boat"),
        (b"UNICODE\0" + "A boat".encode("utf-16"), "A boat"),
        (b"UNICODE\0" + JAPANESE.encode("utf-16-le") + b"\0\0", JAPANESE),
        (b"UNICODE\0" + JAPANESE.encode("utf-16-be"), JAPANESE),
        (b"UNICODE\0" + "Löwe".encode("utf-16-le") + b"\0", "Löwe"),
        (b"JIS\0\0\0\0\0" + JAPANESE.encode("iso2022_jp"), JAPANESE),
        (b"JIS\0\0\0\0\0" + JAPANESE.encode("shift_jis"), JAPANESE),
        (bytes(8) + b"A boat", "A boat"),
        (b"A boat without a code", "A boat without a code"),
        (b"ASCII\0\0\0" + b" " * 100, None),
        (b"ASCII\0\0\0" + bytes(100), None),
        (bytes(300), None),
        (b"ZXIF\1\2\3\4binary of a maker", None),
        (b"ASC", "ASC"),
        (b"UNICODE\0\xd8", None),
    ],
)
def test_comments_are_read_in_the_character_set_that_they_name(raw: bytes, expected: str | None) -> None:
    assert said(shot={COMMENT: raw}).description == expected


@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_comment_that_makes_sense_in_both_byte_orders_is_in_the_files(endian: str) -> None:
    text = "木水火"
    exif = Image.Exif()
    exif.endian = endian
    exif.get_ifd(0x8769)[COMMENT] = b"UNICODE\0" + text.encode("utf-16-le" if endian == "<" else "utf-16-be")
    assert of_block(exif.tobytes()).description == text


@pytest.mark.parametrize(
    "junk",
    [
        "OLYMPUS DIGITAL CAMERA         ", "SONY DSC", "DCIM\\100MEDIA\\DJI_0001.JPG", "DCIM100GOPRO", "default",
        "Created with GIMP", "Processed with VSCO with a6 preset", "KONICA MINOLTA DIGITAL CAMERA", "Exif_JPEG_PICTURE",
        "DSC_0001.JPG", "IMG_20240531_183000", "P1010001", "charset=InvalidCharsetId", "????????", "----", "\ufffd" * 9,
        "Untitled", "<KENOX S860  / Samsung S860>", "charset=Ascii SONY DSC", "GE DIGITAL CAMERA", "Minolta DSC",
        "SAMSUNG CSC", "DCF 1.0", "GC-X1E Image", "000015", "030524_2221~01", '<?xml version="1.0"?><OME>A</OME>',
        '{"shape": [32, 32, 3]}', "<MetaData>\n<prop id='a'/>", "[Analyze]\nMethods=A", "ImageJ=1.53t\nimages=3",
        "Software: Microsoft Office", "Kofax PDF Filter - version 3.75.",
    ],
)  # fmt: skip
def test_what_devices_write_by_default_is_no_description(junk: str) -> None:
    assert said({DESCRIPTION: junk.encode()}).description is None
    found = said({DESCRIPTION: junk.encode(), XP_COMMENT: utf_16("A boat"), XP_TITLE: utf_16(junk)})
    assert (found.title, found.description) == (None, "A boat")


@pytest.mark.parametrize(
    "text",
    [
        "Screenshot",
        "Created for my mother",
        "IMG of a boat",
        "Sony",
        "🏖️",
        "1965",
        "1998-99",
        "2024-05-31",
        "[Analyze] it",
        "?!? What is this",
        "東",
    ],
)
def test_what_people_may_have_written_is_kept(text: str) -> None:
    assert said({DESCRIPTION: text.encode()}).description == text


def test_joiners_are_kept_and_controls_are_not() -> None:
    family, persian = "👨\u200d👩\u200d👧", "می\u200cخواهم"
    assert said({DESCRIPTION: f"{family} {persian} a\u202eb\x01c".encode()}).description == f"{family} {persian} a b c"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({RATING: 0}, 0),
        ({RATING: 5}, 5),
        ({RATING: 6}, None),
        ({RATING: 77, RATING_PERCENT: 75}, 4),
        ({RATING_PERCENT: 0}, 0),
        ({RATING_PERCENT: 1}, 1),
        ({RATING_PERCENT: 25}, 2),
        ({RATING_PERCENT: 99}, 5),
        ({RATING_PERCENT: 101}, None),
        ({}, None),
    ],
)
def test_ratings(tags: dict[int, int], expected: int | None) -> None:
    assert said(tags).rating == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"Ann\0Bob\0", "Ann, Bob"), (b" \0Bob", "Bob"), (b"\xa9 2024 Ann", "© 2024 Ann"), (b" \0 \0", None)],
)
def test_copyright_is_the_photographers_and_the_editors(raw: bytes, expected: str | None) -> None:
    assert said({COPYRIGHT: raw}).copyright == expected


def test_texts_have_limits() -> None:
    long = "word " * 20_000
    found = said({DESCRIPTION: long.encode(), ARTIST: long.encode(), XP_KEYWORDS: utf_16(f"{'k' * 301};short")})
    assert found.description is not None
    assert found.creator is not None
    assert (len(found.description), len(found.creator)) == (MAX_DESCRIPTION_CHARACTERS - 1, 999)
    assert found.keywords == ("short",)
    camera = of_block(exif_bytes(make="M" * 1000, model="X" * 1000)).camera
    assert camera is not None
    assert len(camera) == MAX_NAME_CHARACTERS


def test_a_long_description_is_cut_between_characters() -> None:
    found = said({DESCRIPTION: ("a" + "ö" * 200_000).encode()}).description
    assert found == "a" + "ö" * (MAX_DESCRIPTION_CHARACTERS - 1)


@settings(max_examples=300, deadline=None)
@given(
    code=st.sampled_from([b"", b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0"]),
    comment=st.binary(max_size=300),
    description=st.binary(max_size=100),
    windows=st.binary(max_size=60),
)
def test_any_bytes_are_read(code: bytes, comment: bytes, description: bytes, windows: bytes) -> None:
    found = said({DESCRIPTION: description, XP_KEYWORDS: windows, XP_TITLE: windows}, {COMMENT: code + comment})
    for text in (found.description, found.title, *found.keywords):
        assert text is None or (text == text.strip() and "\0" not in text)


@settings(max_examples=200, deadline=None)
@given(
    block=st.binary(max_size=200),
    start=st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]),
)
def test_any_block_is_read(block: bytes, start: bytes) -> None:
    assert isinstance(of_block(start + block), WrittenMetadata)
