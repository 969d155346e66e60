"""Lists the filters: one row each, from which Python, the command line, the API and the page are made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

MAX_VALUES = 100
"""Values of one filter: as many as a person chooses from a list. More belong into `where`, or into SQL."""
MAX_VALUE_CHARACTERS = 500
"""Longest value: the columns hold names, and a filter travels in URLs."""
MAX_EXCLUDED = 10_000
"""Images that can be excluded by id: the ones a person has seen, not a collection."""
MAX_WHERE_CHARACTERS = 10_000
"""Longest raw condition."""
MAX_RADIUS_KM = 20_100.0
"""A little more than half of the Earth's circumference: every point is within this radius."""
MAX_PIXELS = 2**31 - 1
"""The largest number that the columns hold."""

MAX_STARS = 5
"""The best rating of an image."""

Orientation = Literal["landscape", "portrait", "square"]


class Kind(Enum):
    """What a filter's value is, which decides how it is read, checked and offered."""

    NAMES = "one text or several"
    MOMENT = "a day, or a date with a time"
    CHOICE = "one of a few words"
    WHOLE = "a whole number from 1"
    DECIMAL = "a number above 0"
    POINT = "latitude and longitude, in degrees"
    WORDS = "a full text query"
    IDS = "one id of an image or several"
    SQL = "a condition in SQL"


@dataclass(frozen=True, kw_only=True)
class FilterRow:
    """One filter.

    Attributes:
        name: of the argument, the option (with dashes) and the parameter.
        kind: what its value is.
        metavar: what the command line's help shows for the value; empty for a CHOICE, whose words it shows.
        help: what it means; the command line and the API show it.
        label: what the page calls it.
        example: a value, for the API's documentation.
        choices: of a CHOICE.
        maximum: of a WHOLE or a DECIMAL.
        unit: of a WHOLE, what it counts, for messages.
        caseless: whether upper and lower case are the same.
        legend: heading of its list in the page's filter panel; None where it has no list.
        facet: field of `Facets` with the values of that list; its own name unless given.
        public: whether visitors of the page and the API may use it.
    """

    name: str
    kind: Kind
    metavar: str = ""
    help: str
    label: str
    example: str | None = None
    choices: tuple[str, ...] = ()
    maximum: float | None = None
    unit: str = ""
    caseless: bool = False
    legend: str | None = None
    facet: str | None = None
    public: bool = True

    @property
    def several(self) -> bool:
        """Whether it may have several values."""
        return self.kind in (Kind.NAMES, Kind.IDS)


FILTERS = (
    FilterRow(
        name="country", kind=Kind.NAMES, metavar="NAME", label="country", caseless=True, legend="Country",
        help="country where it was taken, in upper or lower case; of several, any",
    ),
    FilterRow(
        name="city", kind=Kind.NAMES, metavar="NAME", label="city", caseless=True, legend="City",
        help="city where it was taken, in upper or lower case; of several, any",
    ),
    FilterRow(
        name="camera", kind=Kind.NAMES, metavar="NAME", label="camera", caseless=True, legend="Camera",
        help="camera it was taken with, in upper or lower case; of several, any",
    ),
    FilterRow(
        name="tag", kind=Kind.NAMES, metavar="TAG", label="tag", legend="Tags, all of them",
        help="tag that it has, exactly as written; of several, all",
    ),
    FilterRow(
        name="any_tag", kind=Kind.NAMES, metavar="TAG", label="tag, any of", legend="Tags, any of them", facet="tag",
        help="tag that it has, exactly as written; of several, any",
    ),
    FilterRow(
        name="source", kind=Kind.NAMES, metavar="NAME", label="source", legend="Source",
        help="source that it was ingested from, such as files, urls or unsplash; of several, any",
    ),
    FilterRow(
        name="folder", kind=Kind.NAMES, metavar="FOLDER", label="folder", legend="Folder", example="Pictures/2024",
        help="folder that its file is in, or in any folder below, as in Pictures/2024; of several, any",
    ),
    FilterRow(
        name="rating", kind=Kind.WHOLE, metavar="STARS", label="stars from", maximum=MAX_STARS, unit="stars",
        help="lowest number of stars that it is rated with, 1 to 5",
    ),
    FilterRow(
        name="taken_after", kind=Kind.MOMENT, metavar="DATE", label="taken from", example="2024-05-31",
        help="day or moment from which on it was taken: 2024-05-31, or 2024-05-31T18:00+02:00; UTC without an offset",
    ),
    FilterRow(
        name="taken_before", kind=Kind.MOMENT, metavar="DATE", label="taken before",
        example="2024-06-01T12:00:00+02:00",
        help="day or moment before which it was taken; UTC without an offset",
    ),
    FilterRow(
        name="orientation", kind=Kind.CHOICE, label="orientation", choices=get_args(Orientation),
        help="shape: wider than high, higher than wide, or neither",
    ),
    FilterRow(
        name="min_size", kind=Kind.WHOLE, metavar="PIXELS", label="shorter side from", maximum=MAX_PIXELS,
        unit="pixels",
        help="lowest number of pixels of its shorter side",
    ),
    FilterRow(
        name="near", kind=Kind.POINT, metavar="LAT,LON", label="near", example="48.14,11.58",
        help="point near which it was taken, in degrees; needs a radius",
    ),
    FilterRow(
        name="radius_km", kind=Kind.DECIMAL, metavar="KM", label="radius", maximum=MAX_RADIUS_KM,
        help="largest distance from the point, in kilometres",
    ),
    FilterRow(
        name="words", kind=Kind.WORDS, metavar="TEXT", label="words", example='harbour "old town" -fog',
        help='full text search in description and tags: words, "a phrase", or, -without',
    ),
    FilterRow(
        name="exclude_id", kind=Kind.IDS, metavar="ID", label="not image",
        help="id of an image to leave out; there may be several",
    ),
    FilterRow(
        name="where", kind=Kind.SQL, metavar="SQL", label="where", public=False,
        help='condition in SQL on the columns of images: "width > 2000 AND ..."',
    ),
)  # fmt: skip
"""All filters, in the order in which they are shown. `search/conditions.py` has the SQL of each."""

PUBLIC_FILTERS = tuple(row for row in FILTERS if row.public)
"""Those that visitors of the page and the API may use."""
