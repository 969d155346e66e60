"""Turns checked filter values into SQL conditions on `images`, in the form that the indexes of migration 0004 serve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import images

EARTH_RADIUS_KM = 6371.0088
"""Mean radius (IUGG): the sphere's distances are within 0.6 % of the ellipsoid's."""
ORIENTATION_SIGNS: dict[str, int] = {"landscape": 1, "square": 0, "portrait": -1}
"""The sign of width - height, which images_shape_idx holds."""

shape_sign: ColumnElement[float] = sa.literal_column("sign((width - height)::double precision)")
short_side: ColumnElement[int] = sa.literal_column("LEAST(width, height)")


def _any_case(column: sa.Column[str | None]) -> Callable[[Sequence[str]], ColumnElement[bool]]:
    return lambda values: sa.func.lower(column).in_([sa.func.lower(value) for value in values])


def _array(values: Sequence[str]) -> ColumnElement[Any]:
    return sa.cast(list(values), ARRAY(sa.Text))


def _taken_after(moment: datetime) -> ColumnElement[bool]:
    return images.c.taken_at >= moment


def _taken_before(moment: datetime) -> ColumnElement[bool]:
    return images.c.taken_at < moment


def _min_size(pixels: int) -> ColumnElement[bool]:
    return short_side >= pixels


def _orientation(orientation: str) -> ColumnElement[bool]:
    return shape_sign == ORIENTATION_SIGNS[orientation]


def _rating(stars: int) -> ColumnElement[bool]:
    return images.c.rating >= stars


def _folder(folders: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition for folders and all below them; as one condition on the column each, for the index."""
    column = images.c.folder
    names = [folder.strip("/") for folder in folders]
    if "" in names:  # "/" is above all of them
        return column.is_not(None)
    return sa.or_(column.in_(names), *(sa.func.starts_with(column, f"{name}/") for name in names))


def _words(words: str) -> ColumnElement[bool]:
    vector: sa.Function[Any] = sa.func.image_words(images.c.description, images.c.tags)
    return vector.bool_op("@@")(sa.func.websearch_to_tsquery(sa.literal_column("'english'"), words))


def _where(condition: str) -> ColumnElement[bool]:
    # On a line of its own: a comment at its end cannot take our parenthesis with it.
    return sa.literal_column(f"({condition}\n)", sa.Boolean)


def _within(circle: tuple[float, float, float]) -> ColumnElement[bool]:
    """Return the condition for a circle on the sphere: a box, which the index serves, and the distance in it.

    The circle is latitude and longitude in degrees, and the radius in kilometres. The box is that of J. P. Matuschek,
    "Finding Points Within a Distance of a Latitude/Longitude Using Bounding Coordinates"; the distance is the haversine
    formula's (R. W. Sinnott, 1984).
    """
    latitude, longitude, radius_km = circle
    lat, lon = images.c.latitude, images.c.longitude
    angle = radius_km / EARTH_RADIUS_KM
    reach = math.degrees(angle) + 1e-9  # rounding must not cut off what lies on the circle
    low, high = latitude - reach, latitude + reach
    found: list[ColumnElement[bool]] = [lat.between(max(low, -90.0), min(high, 90.0))]
    if low > -90 and high < 90:  # otherwise a pole is inside, and with it every longitude
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
    return sa.and_(*found, distance <= radius_km)


def _haversine(degrees: ColumnElement[float]) -> ColumnElement[float]:
    return (1 - sa.func.cosd(degrees, type_=sa.Double)) / 2.0


CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "country": _any_case(images.c.country),
    "city": _any_case(images.c.city),
    "camera": _any_case(images.c.camera),
    "tag": lambda tags: images.c.tags.contains(_array(tags)),
    "any_tag": lambda tags: images.c.tags.overlap(_array(tags)),
    "source": lambda sources: images.c.source.in_(sources),
    "folder": _folder,
    "rating": _rating,
    "taken_after": _taken_after,
    "taken_before": _taken_before,
    "orientation": _orientation,
    "min_size": _min_size,
    "near": _within,
    "words": _words,
    "exclude_id": lambda ids: images.c.id.not_in(ids),
    "where": _where,
}
"""The condition of each filter, by its name in the filter table; `near` takes latitude, longitude and `radius_km`."""
