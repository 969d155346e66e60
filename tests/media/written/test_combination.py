"""Which of several sources counts, for each field."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from searchdb.media.written.combination import combine, combine_within_file
from searchdb.media.written.keywords import MAX_KEYWORDS
from searchdb.records import WrittenMetadata

NOTHING = WrittenMetadata()
TIME = datetime(2020, 1, 1, tzinfo=UTC)
FULL = WrittenMetadata(
    title="T", description="D", keywords=("k",), rating=3, label="Red", creator="C", copyright="(c)", taken_at=TIME,
    taken_at_from="DateTimeOriginal", camera="X100", country="Italy", city="Rome", latitude=1.5, longitude=2.5,
)  # fmt: skip


def dated(field: str, days: int) -> WrittenMetadata:
    return WrittenMetadata(taken_at=TIME + timedelta(days=days), taken_at_from=field)


def test_the_first_that_says_something_counts() -> None:
    other = WrittenMetadata(title="other", rating=0, city="Oslo", latitude=9, longitude=9)
    assert combine(FULL) == FULL
    assert combine(NOTHING, FULL, other) == FULL
    assert combine(FULL, other, NOTHING) == FULL
    assert combine(other, FULL).rating == 0
    assert combine(other, FULL).description == "D"
    assert combine(NOTHING, NOTHING) == NOTHING


def test_a_place_is_of_one_source() -> None:
    found = combine(WrittenMetadata(latitude=9), FULL)
    assert (found.latitude, found.longitude) == (1.5, 2.5)


def test_of_times_a_better_kind_counts_first() -> None:
    taken, created = dated("DateTimeOriginal", 1), dated("DateCreated", 2)
    digitized, changed = dated("DateTimeDigitized", 3), dated("DateTime", 4)
    takeout = dated("photoTakenTime", 5)
    for order, best in (
        ((changed, digitized, taken), taken),
        ((created, taken), created),
        ((taken, created), taken),
        ((changed, takeout), changed),
        ((takeout, digitized), digitized),
        ((NOTHING, takeout), takeout),
    ):
        found = combine(*order)
        assert (found.taken_at, found.taken_at_from) == (best.taken_at, best.taken_at_from)


def test_keywords_are_united_within_their_limit() -> None:
    groups = [WrittenMetadata(keywords=[f"{letter}{n}" for n in range(150)]) for letter in "ab"]
    found = combine(WrittenMetadata(keywords=("b0", "c")), *groups).keywords
    assert found[:3] == ("b0", "c", "a0")
    assert len(found) == len(set(found)) == MAX_KEYWORDS


def test_within_a_file_words_are_of_xmp_and_measurements_of_exif() -> None:
    def block(name: str, day: int) -> WrittenMetadata:
        return WrittenMetadata(
            title=name, keywords=(name,), camera=name, city=name, taken_at=TIME + timedelta(days=day),
            taken_at_from="DateTimeOriginal", latitude=day, longitude=day,
        )  # fmt: skip

    exif, iptc, xmp, texts = (block(name, day) for day, name in enumerate(("exif", "iptc", "xmp", "texts")))
    found = combine_within_file(exif=exif, iptc=iptc, xmp=xmp, texts=texts)
    assert (found.title, found.city, found.keywords) == ("xmp", "xmp", ("xmp", "iptc", "exif", "texts"))
    assert (found.camera, found.taken_at, found.latitude) == ("exif", TIME, 0)
    found = combine_within_file(exif=NOTHING, iptc=iptc, xmp=NOTHING, texts=texts)
    assert (found.title, found.camera) == ("iptc", "iptc")
