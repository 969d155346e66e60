"""What the JSON of Google Takeout says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchdb.errors import MetadataError
from searchdb.media.written.takeout import MAX_JSON_BYTES, read_takeout
from searchdb.records import WrittenMetadata

PHOTO: dict[str, Any] = {
    "title": "IMG_0001.HEIC",
    "description": "Ann at the sea\nin May",
    "imageViews": "12",
    "creationTime": {"timestamp": "1717200000", "formatted": "1 June 2024, 00:00:00 UTC"},
    "photoTakenTime": {"timestamp": "1717173000", "formatted": "31 May 2024, 16:30:00 UTC"},
    "geoData": {"latitude": 48.5, "longitude": -2.25, "altitude": 0.0, "latitudeSpan": 0.0, "longitudeSpan": 0.0},
    "geoDataExif": {"latitude": 1.0, "longitude": 2.0, "altitude": 0.0, "latitudeSpan": 0.0, "longitudeSpan": 0.0},
    "people": [{"name": "Ann"}, {"name": "Bob"}, {"name": "Ann"}],
    "favorited": True,
    "url": "https://photos.google.com/photo/x",
}
NOWHERE = {"latitude": 0.0, "longitude": 0.0}


def said(**changes: Any) -> WrittenMetadata:
    return read_takeout(json.dumps(PHOTO | changes).encode())


def test_all_fields() -> None:
    assert said() == WrittenMetadata(
        description="Ann at the sea\nin May", keywords=("Ann", "Bob"), rating=5,
        taken_at=datetime(2024, 5, 31, 16, 30, tzinfo=UTC), taken_at_from="photoTakenTime",
        latitude=48.5, longitude=-2.25,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"geoData": NOWHERE}, (1.0, 2.0)),
        ({"geoData": NOWHERE, "geoDataExif": NOWHERE}, (None, None)),
        ({"geoData": {"latitude": 0.0, "longitude": 9.0}}, (0.0, 9.0)),
        ({"geoData": {"latitude": 91, "longitude": 9.0}}, (1.0, 2.0)),
        ({"geoData": {"latitude": float("nan"), "longitude": 9.0}}, (1.0, 2.0)),
        ({"geoData": {"latitude": "48", "longitude": True}}, (1.0, 2.0)),
        ({"geoData": None, "geoDataExif": []}, (None, None)),
    ],
)
def test_places(changes: dict[str, Any], expected: tuple[float | None, float | None]) -> None:
    found = said(**changes)
    assert (found.latitude, found.longitude) == expected


@pytest.mark.parametrize("seconds", ["", "soon", None, [], "1e300", "-1e300", "nan", "99999999999", "-99999999999", {}])
def test_times_that_are_none(seconds: Any) -> None:
    assert said(photoTakenTime={"timestamp": seconds}).taken_at is None


def test_what_is_empty_or_of_another_kind_says_nothing() -> None:
    found = said(description="", people=["Ann", None, {"name": 3}], favorited="yes", photoTakenTime="now")
    assert (found.description, found.keywords, found.rating, found.taken_at) == (None, (), None, None)
    assert said(people={"name": "Ann"}, favorited=False, description=["x"]).rating is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON in UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "not the metadata that Google Takeout writes"),
        (b"null", "not the metadata"),
        (b'{"title": "Album", "date": {}}', "not the metadata"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"people":' + b'{"a":' * 100_000, "nested too deeply"),
        (b'{"geoData":' + b"1" * 10_000 + b"}", "not JSON"),
        (b" " * (MAX_JSON_BYTES + 1), "1,000,001 bytes, the limit is 1,000,000"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_takeout(data)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert read_takeout(b"\xef\xbb\xbf" + json.dumps(PHOTO).encode()).rating == 5


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "timestamp", "latitude"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(fields=st.dictionaries(st.sampled_from(sorted(PHOTO)), _VALUES))
def test_any_values_are_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        found = read_takeout(json.dumps(fields).encode())
    except MetadataError:
        return
    assert found.latitude is None or abs(found.latitude) <= 90


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=100))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MetadataError):
        read_takeout(data)
