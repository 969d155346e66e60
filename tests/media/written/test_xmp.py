"""What XMP says, and that hostile XMP is refused cheaply."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchdb.errors import MetadataError
from searchdb.media.written.keywords import MAX_KEYWORDS
from searchdb.media.written.xmp import read_xmp
from searchdb.media.written.xmp_packet import MAX_ATTRIBUTES, MAX_DEPTH, MAX_ELEMENTS, MAX_PACKET_BYTES
from searchdb.records import WrittenMetadata
from tests.helpers.metadata_blocks import array, languages, xmp

MICROSOFT = "http://ns.microsoft.com/photo/1.0"


def test_all_fields_as_elements() -> None:
    packet = xmp(
        languages("dc:title", de="Der Löwe", x_default="The lion")
        + languages("dc:description", x_default="A lion\nin the zoo")
        + languages("dc:rights", x_default="© Ann")
        + array("dc:creator", "Ann", "Bob", kind="Seq")
        + array("dc:subject", "lion", "zoo")
        + "<xmp:Rating>4</xmp:Rating><xmp:Label>Red</xmp:Label>"
        + "<photoshop:City>Zürich</photoshop:City><photoshop:Country>Switzerland</photoshop:Country>"
        + "<exif:DateTimeOriginal>2024-05-31T18:30:00.25+02:00</exif:DateTimeOriginal>"
        + "<exif:GPSLatitude>48,45.0N</exif:GPSLatitude><exif:GPSLongitude>2,15,0W</exif:GPSLongitude>"
        + "<tiff:Make>Canon</tiff:Make><tiff:Model>Canon EOS R5</tiff:Model>"
    )
    assert read_xmp(packet) == WrittenMetadata(
        title="The lion", description="A lion\nin the zoo", keywords=("lion", "zoo"), rating=4, label="Red",
        creator="Ann, Bob", copyright="© Ann", taken_at=datetime(2024, 5, 31, 16, 30, 0, 250_000, UTC),
        taken_at_from="DateTimeOriginal", camera="Canon EOS R5", country="Switzerland", city="Zürich",
        latitude=48.75, longitude=-2.25,
    )  # fmt: skip


def test_simple_properties_as_attributes() -> None:
    found = read_xmp(
        xmp(attributes='xmp:Rating="3" xmp:Label="Green" photoshop:City="Rome" tiff:Model="X100" dc:subject="a, b;c"')
    )
    assert (found.rating, found.label, found.city, found.camera) == (3, "Green", "Rome", "X100")
    assert found.keywords == ("a", "b", "c")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_encodings(encoding: str, wrapped: bool) -> None:
    packet = xmp(array("dc:subject", "Löwe 🦁"), wrapped=wrapped).decode()
    packet = packet.replace("\ufeff", "") if encoding != "utf-8" else packet
    assert read_xmp(packet.encode(encoding)).keywords == ("Löwe 🦁",)


def test_padding_declarations_and_other_prefixes() -> None:
    packet = xmp(array("dc:subject", "lion"), wrapped=False).decode()
    other = (
        packet.replace("dc:", "d:").replace("xmlns:dc", "xmlns:d").replace("rdf:", "r:").replace("xmlns:rdf", "xmlns:r")
    )
    for text in (f'<?xml version="1.0" encoding="UTF-8"?>{packet}', f"\n  {packet}\n\n  ", packet + "\0" * 50, other):
        assert read_xmp(text.encode()).keywords == ("lion",)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        (array("lr:hierarchicalSubject", "Places|Italy|Rome", "Places|Italy"), ("Places", "Italy", "Rome")),
        (array("digiKam:TagsList", "People/Ann", "_Digikam_Internal_Tags_/Scanned", kind="Seq"), ("People", "Ann")),
        (array("MicrosoftPhoto:LastKeywordXMP", "People/Ann"), ("People", "Ann")),
        (
            f'<m:LastKeywordXMP xmlns:m="{MICROSOFT}"><rdf:Bag><rdf:li>Sea/Boat</rdf:li></rdf:Bag></m:LastKeywordXMP>',
            ("Sea", "Boat"),
        ),
        (
            array("dc:subject", "Rome", "AC/DC", "a|b")
            + array("lr:hierarchicalSubject", "Places|Rome", "darktable|exported"),
            ("Rome", "AC/DC", "a", "b", "Places"),
        ),
        (array("dc:subject", " sea ", "", "sea", "two  words", "Caf\u0065\u0301"), ("sea", "two words", "Café")),
        (array("dc:subject", "x" * 301, "x" * 300), ("x" * 300,)),
        (array("dc:subject", *(f"k{n}" for n in range(500))), tuple(f"k{n}" for n in range(MAX_KEYWORDS))),
    ],
)
def test_keywords_are_the_parts_of_their_paths(properties: str, expected: tuple[str, ...]) -> None:
    assert read_xmp(xmp(properties)).keywords == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('xmp:Rating="-1"', -1),
        ('xmp:Rating="0"', 0),
        ('xmp:Rating="3.5"', 4),
        ('xmp:Rating="3.49"', 3),
        ('xmp:Rating="-0.5"', 0),
        ('xmp:Rating=" 5.0 "', 5),
        ('xmp:Rating="6"', None),
        ('xmp:Rating="-2"', None),
        ('xmp:Rating="NaN"', None),
        ('xmp:Rating="1e3"', None),
        ('xmp:Rating="" MicrosoftPhoto:Rating="75"', 4),
        ('MicrosoftPhoto:Rating="99"', 5),
        ('MicrosoftPhoto:Rating="0"', 0),
        ("", None),
    ],
)
def test_ratings(attributes: str, expected: int | None) -> None:
    assert read_xmp(xmp(attributes=attributes)).rating == expected


@pytest.mark.parametrize(
    ("attributes", "expected", "field"),
    [
        ('xmp:CreateDate="2024-05-31T18:30"', datetime(2024, 5, 31, 18, 30, tzinfo=UTC), "CreateDate"),
        (
            'xmp:CreateDate="2024-05-31T18:30Z" photoshop:DateCreated="1965"',
            datetime(1965, 1, 1, tzinfo=UTC),
            "DateCreated",
        ),
        ('photoshop:DateCreated="1965-07"', datetime(1965, 7, 1, tzinfo=UTC), "DateCreated"),
        ('photoshop:DateCreated="1965-07-20T20:17-05:00"', datetime(1965, 7, 21, 1, 17, tzinfo=UTC), "DateCreated"),
        ('exif:DateTimeOriginal="2024:05:31 18:30:00"', datetime(2024, 5, 31, 18, 30, tzinfo=UTC), "DateTimeOriginal"),
        ('exif:DateTimeOriginal="0000-00-00T00:00:00"', None, None),
        ('photoshop:DateCreated="2999-01-01"', None, None),
        ('photoshop:DateCreated="yesterday"', None, None),
    ],
)
def test_times(attributes: str, expected: datetime | None, field: str | None) -> None:
    found = read_xmp(xmp(attributes=attributes))
    assert (found.taken_at, found.taken_at_from) == (expected, field)


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        ("33,52,0S", "151,12.6E", (-33.866667, 151.21)),
        ("-33.866667", "151.21", (-33.866667, 151.21)),
        ("91,0N", "10,0E", (None, None)),
        ("10,0E", "10,0E", (None, None)),
        ("10,0N", "", (None, None)),
        ("north", "east", (None, None)),
    ],
)
def test_places(latitude: str, longitude: str, expected: tuple[float | None, float | None]) -> None:
    found = read_xmp(xmp(attributes=f'exif:GPSLatitude="{latitude}" exif:GPSLongitude="{longitude}"'))
    assert (found.latitude, found.longitude) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "structure",
    [
        '<rdf:Bag><rdf:li rdf:parseType="Resource">{}</rdf:li></rdf:Bag>',
        "<rdf:Bag><rdf:li><rdf:Description>{}</rdf:Description></rdf:li></rdf:Bag>",
    ],
)
@pytest.mark.parametrize("name", ["Iptc4xmpExt:LocationCreated", "Iptc4xmpExt:LocationShown"])
def test_places_in_structures(structure: str, name: str) -> None:
    fields = "<Iptc4xmpExt:City>Rome</Iptc4xmpExt:City><Iptc4xmpExt:CountryName>Italy</Iptc4xmpExt:CountryName>"
    found = read_xmp(xmp(f"<{name}>{structure.format(fields)}</{name}>"))
    assert (found.city, found.country) == ("Rome", "Italy")
    attributes = '<rdf:Bag><rdf:li Iptc4xmpExt:City="Rome" Iptc4xmpExt:CountryName="Italy"/></rdf:Bag>'
    found = read_xmp(xmp(f"<{name}>{attributes}</{name}>"))
    assert (found.city, found.country) == ("Rome", "Italy")


def test_qualifiers_empty_values_and_several_descriptions() -> None:
    qualified = '<rdf:li rdf:parseType="Resource"><rdf:value>lion</rdf:value></rdf:li>'
    assert read_xmp(xmp(f"<dc:subject><rdf:Bag>{qualified}</rdf:Bag></dc:subject>")).keywords == ("lion",)
    assert read_xmp(xmp(languages("dc:title", x_default=" ", de="Löwe"))).title == "Löwe"
    assert read_xmp(xmp("<dc:title>plain</dc:title>")).title == "plain"
    second = '</rdf:Description><rdf:Description xmp:Rating="2">'
    assert read_xmp(xmp(array("dc:subject", "a") + second)).rating == 2
    nested = f"<xmp:Other><rdf:Description>{array('dc:subject', 'of another image')}</rdf:Description></xmp:Other>"
    assert read_xmp(xmp(nested)) == WrittenMetadata()


# --- Hostile packets ------------------------------------------------------------------------------

_ENTITIES = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(10))
_LAUGHS = f'<!DOCTYPE x [<!ENTITY l0 "ha">{_ENTITIES}]>'


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (b"", "not well-formed"),
        (b"\0" * 100, "not well-formed"),
        (b"\xff\xd8\xff\xe0 a photo", "not well-formed"),
        (b"<html><body/></html>", "no rdf:RDF"),
        (xmp()[:-30], "not well-formed"),
        (xmp("<dc:title>&#0;</dc:title>"), "not well-formed"),
        (_LAUGHS.encode() + xmp("<dc:title>&l9;</dc:title>", wrapped=False), "DTD"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + xmp(wrapped=False), "DTD"),
        (b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + xmp("&e;", wrapped=False), "DTD"),
        (xmp("<a>" * MAX_DEPTH + "</a>" * MAX_DEPTH), f"more than {MAX_DEPTH} deep"),
        (xmp("<a/>" * (2 * MAX_ELEMENTS)), "too many elements"),
        (xmp(attributes=" ".join(f'a{n}=""' for n in range(MAX_ATTRIBUTES))), "too many attributes"),
        (xmp(attributes=f'xmlns:a="{"u" * 100_000}"'), "namespace of more than"),
        (xmp(attributes=f"xmlns:{'a' * 500} \n = '{'u' * 1000}'"), "namespace of more than"),
        (b"x" * (MAX_PACKET_BYTES + 1), "2,000,001 bytes, the limit is 2,000,000"),
    ],
)  # fmt: skip
def test_hostile_packets_are_refused(packet: bytes, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_xmp(packet)


@pytest.mark.parametrize(
    "packet",
    [
        xmp("".join(f"<a:e{n}/>" for n in range(2 * MAX_ELEMENTS - 100)), f'xmlns:a="{"u" * 120}"'),
        xmp(attributes=f'xmlns:a="{"u" * 120}" ' + " ".join(f'a:n{n}=""' for n in range(MAX_ATTRIBUTES - 100))),
        xmp(array("dc:subject", *"a" * (MAX_ELEMENTS - 100))),
        xmp("<dc:description>" + "&#128512; " * 180_000 + "</dc:description>"),
        xmp("<dc:description>" + "\U0001f600 x" * 320_000 + "</dc:description>"),
        b"<a " + b"xmlns" * 390_000,
        b"<a xmlns" + b" " * 1_900_000,
    ],
)  # fmt: skip
def test_the_largest_packets_take_little_memory(packet: bytes) -> None:
    """The estimates of `decode_memory` count on it."""
    tracemalloc.start()
    with suppress(MetadataError):
        read_xmp(packet)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


@settings(max_examples=300, deadline=None)
@given(packet=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(packet: bytes) -> None:
    with pytest.raises(MetadataError):
        read_xmp(packet)


_WHOLE = xmp(
    languages("dc:title", x_default="T") + array("dc:subject", "a") + array("lr:hierarchicalSubject", "a|b"),
    'xmp:Rating="3" exif:GPSLatitude="48,51.5N" exif:GPSLongitude="2,21W" photoshop:DateCreated="2024-05-31"',
)


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(_WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_packets_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    packet = bytearray(_WHOLE)
    for place, value in changes:
        packet[place] = value
    with suppress(MetadataError):
        assert isinstance(read_xmp(bytes(packet)), WrittenMetadata)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='<&"'), max_size=50))
def test_any_value_is_read(text: str) -> None:
    names = ("xmp:Rating", "xmp:Label", "exif:GPSLatitude", "photoshop:DateCreated", "dc:title", "photoshop:City")
    found = read_xmp(xmp(array("dc:subject", text), " ".join(f'{name}="{text}"' for name in names)))
    assert found.rating is None or -1 <= found.rating <= 5
