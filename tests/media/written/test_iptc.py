"""What an IPTC block says."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchdb.media.written.iptc import MAX_DATASETS, read_iptc
from searchdb.media.written.keywords import MAX_KEYWORDS
from searchdb.records import WrittenMetadata
from tests.helpers.metadata_blocks import UTF_8, iptc


def test_all_fields() -> None:
    texts = {5: "Title", 120: "Der Löwe", 80: "Ann", 116: "© Ann", 90: "Zürich", 101: "Schweiz", 105: "Headline"}
    block = iptc(
        UTF_8,
        *((2, number, text.encode()) for number, text in texts.items()),
        *((2, 25, word.encode()) for word in ("Löwe", "Zoo", "Places|Zürich", "Zoo")),
        (2, 80, b"Bob"),
        (2, 55, b"20240531"),
        (2, 60, b"183000+0200"),
    )
    assert read_iptc(block) == WrittenMetadata(
        title="Title", description="Der Löwe", keywords=("Löwe", "Zoo", "Places", "Zürich"), creator="Ann, Bob",
        copyright="© Ann", country="Schweiz", city="Zürich", taken_at=datetime(2024, 5, 31, 16, 30, tzinfo=UTC),
        taken_at_from="DateCreated",
    )  # fmt: skip


@pytest.mark.parametrize("charset", ["utf-8", "cp1252", "latin-1"])
def test_without_a_declared_character_set(charset: str) -> None:
    assert read_iptc(iptc((2, 120, "Löwe ß".encode(charset)))).description == "Löwe ß"


def test_the_headline_is_the_title_where_there_is_none() -> None:
    assert read_iptc(iptc((2, 5, b"DSC_0001"), (2, 105, b"A headline"))).title == "A headline"


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        (b"20240531", b"", datetime(2024, 5, 31, tzinfo=UTC)),
        (b"19650000", b"", datetime(1965, 1, 1, tzinfo=UTC)),
        (b"20240531", b"183000", datetime(2024, 5, 31, 18, 30, tzinfo=UTC)),
        (b"20240531", b"996000", None),
        (b"00000000", b"000000", None),
        (b"2024-5-3", b"", None),
        (b"20241341", b"", None),
        (b"", b"183000", None),
    ],
)
def test_dates(date: bytes, time: bytes, expected: datetime | None) -> None:
    assert read_iptc(iptc((2, 55, date), (2, 60, time))).taken_at == expected


def test_what_is_before_a_malformed_dataset_is_kept() -> None:
    good = iptc((2, 5, b"Title"))
    for bad in (b"\x1c\x02\x78\x00\xffshort", b"\0\0\0\0\0", b"\x1c\x02", b"\x1c\x02\x78\xff\xff", b"junk" * 10):
        assert read_iptc(good + bad).title == "Title"


def test_long_datasets_and_many_are_read_within_limits() -> None:
    value = b"word " * 20_000
    long = struct.pack(">BBBHI", 0x1C, 2, 120, 0x8004, len(value)) + value
    found = read_iptc(long + iptc((2, 5, b"Title")))
    assert found.description is not None
    assert (len(found.description), found.title) == (9_999, "Title")
    many = iptc(*((2, 25, b"word%d" % n) for n in range(5 * MAX_DATASETS)))
    assert read_iptc(many).keywords == tuple(f"word{n}" for n in range(MAX_KEYWORDS))


@settings(max_examples=300, deadline=None)
@given(datasets=st.lists(st.tuples(st.just(2), st.sampled_from([5, 25, 55, 60, 80, 120]), st.binary(max_size=30))))
def test_any_values_are_read(datasets: list[tuple[int, int, bytes]]) -> None:
    assert isinstance(read_iptc(iptc(*datasets)), WrittenMetadata)
    assert isinstance(read_iptc(iptc(UTF_8, *datasets)), WrittenMetadata)


@settings(max_examples=200, deadline=None)
@given(block=st.binary(max_size=200))
def test_any_bytes_are_read(block: bytes) -> None:
    assert isinstance(read_iptc(block), WrittenMetadata)
    assert isinstance(read_iptc(b"\x1c\x02" + block), WrittenMetadata)
