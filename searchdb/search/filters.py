"""What pictures must be like to be hits: conditions on their metadata, checked and turned into SQL."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, time
from typing import Any, Literal, cast, get_args

import sqlalchemy as sa
import sqlglot
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.postgresql import ARRAY
from sqlglot import exp
from sqlglot.errors import SqlglotError

from searchdb.db.tables import images
from searchdb.errors import QueryError
from searchdb.records import LARGEST_ID

MAX_VALUES = 100
"""Values of one filter: as many as a person may choose from a list; more belong into `where`, or into SQL."""
MAX_VALUE_CHARACTERS = 500
"""Longest value: the columns hold names, and a filter travels in URLs."""
MAX_EXCLUDED = 10_000
"""Pictures that can be left out by id: what somebody may have seen, not a collection."""
MAX_WHERE_CHARACTERS = 10_000
"""Longest raw condition."""
MAX_RADIUS_KM = 20_100.0
"""A little more than half of the way around the Earth: beyond it every point is within the radius."""
EARTH_RADIUS_KM = 6371.0088
"""Mean radius (IUGG): the sphere's distances are within 0.6 % of the ellipsoid's."""
MAX_PIXELS = 2**31 - 1
"""The largest number that the columns hold."""

Orientation = Literal["landscape", "portrait", "square"]
ORIENTATION_SIGNS: dict[str, int] = {"landscape": 1, "square": 0, "portrait": -1}
"""The sign of width - height, which images_shape_idx holds."""

shape_sign: ColumnElement[float] = sa.literal_column("sign((width - height)::double precision)")
short_side: ColumnElement[int] = sa.literal_column("LEAST(width, height)")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Conditions that every hit meets, all of them; what is None or empty is no condition.

    The same names serve Python, the command line (`--taken-after`) and the page (`taken_after=`).

    Attributes:
        source, country, city, camera: one value or several, of which the picture has any; upper and lower case are the
            same, but for `source`.
        tag: one tag or several, all of which the picture has, written exactly so.
        any_tag: tags of which it has at least one.
        taken_after: moment or day from which on it was taken, itself included; without time zone it is UTC.
        taken_before: moment or day before which it was taken, itself not included.
        orientation: "landscape" (wider than high), "portrait" or "square".
        min_size: least pixels of its shorter side.
        near: (latitude, longitude), or "48.1,11.6", in degrees, around which it was taken, at most `radius_km` away as
            the crow flies.
        radius_km: kilometres; needs `near`, and `near` needs it.
        words: full text that description and tags contain, as web searches have it: `"a phrase"`, `or`, `-without`.
        exclude_id: one id or several, of pictures that are no hits.
        where: a condition in SQL on the columns of `images`; for those who may run SQL, never for visitors.

    Raises:
        QueryError: a value is not of its kind, or out of bounds.
    """

    source: str | Collection[str] | None = None
    country: str | Collection[str] | None = None
    city: str | Collection[str] | None = None
    camera: str | Collection[str] | None = None
    tag: str | Collection[str] | None = None
    any_tag: str | Collection[str] | None = None
    taken_after: date | datetime | str | None = None
    taken_before: date | datetime | str | None = None
    orientation: Orientation | None = None
    min_size: int | None = None
    near: tuple[float, float] | str | None = None
    radius_km: float | None = None
    words: str | None = None
    exclude_id: int | Collection[int] | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        for name in ("source", "country", "city", "camera", "tag", "any_tag"):
            self._set(name, _values(name, getattr(self, name)))
        for name in ("taken_after", "taken_before"):
            self._set(name, _moment(name, getattr(self, name)))
        self._set("exclude_id", _ids(self.exclude_id))
        self._set("near", _point(self.near))
        self._set("words", _words(self.words))
        self._set("where", self.where and _checked_condition(self.where))
        _check_span(self.taken_after, self.taken_before)
        _check_place(self.near, self.radius_km)
        if self.orientation is not None and self.orientation not in ORIENTATION_SIGNS:
            raise QueryError(
                f"orientation is {self.orientation!r}: it is one of {', '.join(get_args(Orientation))}",
                field="orientation",
            )
        if self.min_size is not None and not 1 <= self.min_size <= MAX_PIXELS:
            raise QueryError(
                f"min_size is {self.min_size}: it is a number of pixels from 1 to {MAX_PIXELS:,}", field="min_size"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; this is its normal form

    def __bool__(self) -> bool:
        """Whether there is any condition."""
        return any(getattr(self, f.name) is not None for f in fields(self))

    def to_json(self) -> dict[str, Any]:
        """Return the conditions that are set, as JSON values under their names."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: value.isoformat()
            if isinstance(value, datetime)
            else list(cast(tuple[Any, ...], value))
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
            if value is not None
        }

    def condition(self) -> ColumnElement[bool]:
        """Return the conditions as one on `images`, written so that the indexes of migration 0004 serve them."""
        return sa.and_(sa.true(), *self._conditions())

    def _conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        for name in ("country", "city", "camera"):
            if values := getattr(self, name):
                found.append(sa.func.lower(images.c[name]).in_([sa.func.lower(value) for value in values]))
        if self.source:
            found.append(images.c.source.in_(self.source))
        if self.tag:
            found.append(images.c.tags.contains(_array(self.tag)))
        if self.any_tag:
            found.append(images.c.tags.overlap(_array(self.any_tag)))
        if self.taken_after is not None:
            found.append(images.c.taken_at >= self.taken_after)
        if self.taken_before is not None:
            found.append(images.c.taken_at < self.taken_before)
        if self.orientation is not None:
            found.append(shape_sign == ORIENTATION_SIGNS[self.orientation])
        if self.min_size is not None:
            found.append(short_side >= self.min_size)
        if isinstance(self.near, tuple) and self.radius_km is not None:
            found += _around(*self.near, self.radius_km)
        if self.words:
            vector: sa.Function[Any] = sa.func.image_words(images.c.description, images.c.tags)
            found.append(vector.bool_op("@@")(sa.func.websearch_to_tsquery(sa.literal_column("'english'"), self.words)))
        if isinstance(self.exclude_id, tuple):
            found.append(images.c.id.not_in(self.exclude_id))
        if self.where:
            # On a line of its own: a comment at its end cannot take our parenthesis with it.
            found.append(sa.literal_column(f"({self.where}\n)", sa.Boolean))
        return found


def _array(values: Collection[str] | str) -> ColumnElement[Any]:
    return sa.cast(list(values), ARRAY(sa.Text))


def _values(name: str, given: str | Collection[str] | None) -> tuple[str, ...] | None:
    values = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given or ()))
    if not values:
        return None
    if len(values) > MAX_VALUES:
        raise QueryError(
            f"{name} has {len(values):,} values, the limit is {MAX_VALUES}: write a condition in SQL instead",
            field=name,
        )
    for value in values:
        if not isinstance(cast(object, value), str) or not value.strip():
            raise QueryError(f"{name} has the value {value!r}: it is a text that is not empty", field=name)
        if len(value) > MAX_VALUE_CHARACTERS:
            raise QueryError(
                f"{name} has a value of {len(value):,} characters, the limit is {MAX_VALUE_CHARACTERS}", field=name
            )
        if not _storable(value):
            raise QueryError(
                f"{name} has the value {value!r}, with a character that no text in PostgreSQL has", field=name
            )
    return values


def _storable(text: str) -> bool:
    return "\x00" not in text and text.encode("utf-8", "replace").decode() == text


def _moment(name: str, given: date | datetime | str | None) -> datetime | None:
    if given is None:
        return None
    moment: date | datetime
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given.strip())
        except ValueError:
            raise QueryError(
                f"{name} is {given[:40]!r}: write 2024-05-31, or 2024-05-31T18:00+02:00", field=name
            ) from None
    else:
        moment = given
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time.min)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _check_span(after: object, before: object) -> None:
    if isinstance(after, datetime) and isinstance(before, datetime) and after >= before:
        raise QueryError(
            f"taken_after is {after.isoformat()} and taken_before {before.isoformat()}: nothing is taken "
            "from the one on and before the other",
            field="taken_after",
        )


def _ids(given: int | Collection[int] | None) -> tuple[int, ...] | None:
    ids = (given,) if isinstance(given, int) else tuple(dict.fromkeys(given or ()))
    if len(ids) > MAX_EXCLUDED:
        raise QueryError(f"exclude_id has {len(ids):,} ids, the limit is {MAX_EXCLUDED:,}", field="exclude_id")
    if wrong := next(
        (each for each in ids if not isinstance(cast(object, each), int) or not 0 <= each <= LARGEST_ID), None
    ):
        raise QueryError(f"exclude_id has {wrong!r}, which is no picture's id", field="exclude_id")
    return ids or None


def _words(given: str | None) -> str | None:
    if given is None or not given.strip():
        return None
    if len(given) > MAX_VALUE_CHARACTERS or not _storable(given):
        raise QueryError(
            f"words has {len(given):,} characters, the limit is {MAX_VALUE_CHARACTERS}, none of them NUL", field="words"
        )
    return given.strip()


def _point(given: tuple[float, float] | str | None) -> tuple[float, float] | None:
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    try:
        latitude, longitude = given.split(",") if isinstance(given, str) else given
        return float(latitude), float(longitude)
    except (TypeError, ValueError):
        raise QueryError(
            f"near is {str(given)[:40]!r}: write latitude,longitude in degrees, like 48.14,11.58", field="near"
        ) from None


def _check_place(near: object, radius_km: float | None) -> None:
    if (near is None) != (radius_km is None):
        missing, given = ("radius_km", "near") if radius_km is None else ("near", "radius_km")
        raise QueryError(
            f"{given} is given without {missing}: a place is near=(latitude, longitude) and radius_km", field=given
        )
    if not isinstance(near, tuple) or radius_km is None:
        return
    latitude, longitude = cast(tuple[float, float], near)
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise QueryError(
            f"near is ({latitude}, {longitude}): the latitude lies between -90 and 90 degrees, "
            "the longitude between -180 and 180",
            field="near",
        )
    if not 0 < radius_km <= MAX_RADIUS_KM:
        raise QueryError(
            f"radius_km is {radius_km}: it is more than 0 and at most {MAX_RADIUS_KM:,.0f} kilometres",
            field="radius_km",
        )


def _around(latitude: float, longitude: float, radius_km: float) -> list[ColumnElement[bool]]:
    """Return the conditions for a circle on the sphere: a box, which the index serves, and the distance in it.

    The box is that of J. P. Matuschek, "Finding Points Within a Distance of a Latitude/Longitude Using Bounding
    Coordinates"; the distance is the haversine formula's (R. W. Sinnott, 1984).
    """
    lat, lon = images.c.latitude, images.c.longitude
    angle = radius_km / EARTH_RADIUS_KM
    reach = math.degrees(angle) + 1e-9  # rounding must not cut off what lies on the circle
    low, high = latitude - reach, latitude + reach
    found: list[ColumnElement[bool]] = [lat.between(max(low, -90.0), min(high, 90.0))]
    if low > -90 and high < 90:  # else a pole is inside, and with it every longitude
        width = math.degrees(math.asin(min(math.sin(angle) / math.cos(math.radians(latitude)), 1.0))) + 1e-9
        west, east = longitude - width, longitude + width
        if west < -180:
            found.append(sa.or_(lon >= west + 360, lon <= east))
        elif east > 180:
            found.append(sa.or_(lon >= west, lon <= east - 360))
        else:
            found.append(lon.between(west, east))
    # The haversine of an angle is (1 - cos) / 2: right to a quarter of a metre, and without the squares of tiny sines,
    # which PostgreSQL refuses as underflow. It refuses the radians of tiny angles, too, so the cosine is of degrees.
    parallels = math.cos(math.radians(latitude)) * sa.func.cosd(lat)
    chord = _haversine(lat - latitude) + parallels * _haversine(lon - longitude)
    # Antipodes give a little more than 1 by rounding.
    distance = 2 * EARTH_RADIUS_KM * sa.func.asin(sa.func.sqrt(sa.func.least(chord, 1.0)))
    return [*found, distance <= radius_km]


def _haversine(degrees: ColumnElement[float]) -> ColumnElement[float]:
    return (1 - sa.func.cosd(degrees, type_=sa.Double)) / 2.0


def _checked_condition(where: str) -> str:
    """Return a raw condition that is one expression: it cannot end the statement, nor the parenthesis around it.

    That is a help against slips. What keeps it from harm is that it runs in a read-only transaction, as one prepared
    statement.
    """
    if len(where) > MAX_WHERE_CHARACTERS or not _storable(where):
        raise QueryError(
            f"where has {len(where):,} characters, the limit is {MAX_WHERE_CHARACTERS:,}, none of them NUL",
            field="where",
        )
    try:
        tree = sqlglot.parse_one(where, dialect="postgres", into=exp.Condition)
    except SqlglotError:
        raise QueryError(f"where is not one condition in SQL: {_CONDITION_HINT}", field="where") from None
    if isinstance(tree, exp.Query):
        raise QueryError(f"where is a query, not a condition: {_CONDITION_HINT}", field="where")
    if tree.find(exp.Placeholder, exp.Parameter) is not None:
        raise QueryError("where has a parameter such as $1 or :name: write its value in its place", field="where")
    return where


_CONDITION_HINT = "write one on the columns of images, such as \"width > 2000 AND credit LIKE 'Ann%'\""
