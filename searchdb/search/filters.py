"""Checks the filters of a search: conditions on the metadata that every hit meets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import ColumnElement
from sqlglot import exp
from sqlglot.errors import SqlglotError

from searchdb.db.sql_parser import parse_condition
from searchdb.errors import QueryError, SQLTooComplexError
from searchdb.records import LARGEST_ID, nfc
from searchdb.search.conditions import CONDITIONS
from searchdb.search.filter_table import (
    FILTERS,
    MAX_EXCLUDED,
    MAX_VALUE_CHARACTERS,
    MAX_VALUES,
    MAX_WHERE_CHARACTERS,
    FilterRow,
    Kind,
    Orientation,
)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Conditions that every hit meets, all of them; None or an empty value is no condition.

    The same names serve Python, the command line (`--taken-after`), the API and the page (`taken_after=`): see
    `searchdb.search.filter_table`. Texts are compared in NFC, except in `where`.

    Attributes:
        country, city, camera: one value or several, of which the image has any; upper and lower case are the same.
        tag: one tag or several, all of which the image has, exactly as written.
        any_tag: tags of which it has at least one.
        source: one source or several, from any of which it was ingested.
        folder: one folder or several, as in "Pictures/2024", in any of which its file is, or in a folder below.
        rating: lowest number of stars, 1 to 5.
        taken_after: moment or day from which on it was taken, inclusive; UTC without time zone.
        taken_before: moment or day before which it was taken, exclusive.
        orientation: "landscape" (wider than high), "portrait" or "square".
        min_size: lowest number of pixels of its shorter side.
        near: (latitude, longitude), or "48.1,11.6", in degrees: the image was taken at most `radius_km` away, as the
            crow flies.
        radius_km: kilometres; needs `near`, and `near` needs it.
        words: full text query on description and tags, in the syntax of web searches: `"a phrase"`, `or`, `-without`.
        exclude_id: one id or several, of images to leave out.
        where: a condition in SQL on the columns of `images`; for people who may run SQL, never for visitors.

    Raises:
        QueryError: a value is of the wrong kind, or out of bounds.
    """

    country: str | Collection[str] | None = None
    city: str | Collection[str] | None = None
    camera: str | Collection[str] | None = None
    tag: str | Collection[str] | None = None
    any_tag: str | Collection[str] | None = None
    source: str | Collection[str] | None = None
    folder: str | Collection[str] | None = None
    rating: int | None = None
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
        for row in FILTERS:
            given = getattr(self, row.name)
            checked = None if given is None else _CHECKS[row.kind](row, given)
            object.__setattr__(self, row.name, checked)  # the dataclass is frozen; this is its normal form
        _check_span(self.taken_after, self.taken_before)
        if (self.near is None) != (self.radius_km is None):
            missing, given = ("radius_km", "near") if self.radius_km is None else ("near", "radius_km")
            raise QueryError(
                f"{given} is given without {missing}: a place is near=(latitude, longitude) and radius_km", field=given
            )

    def __bool__(self) -> bool:
        """Whether there is any condition."""
        return any(True for _ in self._set())

    def to_json(self) -> dict[str, Any]:
        """Return the conditions that are set, as JSON values under their names."""
        return {name: _json(value) for name, value in self._set()}

    def condition(self) -> ColumnElement[bool]:
        """Return the conditions as one on `images`."""
        values = dict(self._set())
        if "near" in values:
            values["near"] = (*values["near"], values.pop("radius_km"))
        return sa.and_(sa.true(), *(CONDITIONS[name](value) for name, value in values.items()))

    def _set(self) -> Iterator[tuple[str, Any]]:
        """Yield names and values of the conditions that are set, in the table's order."""
        for row in FILTERS:
            value = getattr(self, row.name)
            if value is not None:
                yield row.name, value


def _json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else value


def _names(row: FilterRow, given: str | Collection[str]) -> tuple[str, ...] | None:
    several: Collection[Any] = (given,) if isinstance(given, str) else given
    values = tuple(dict.fromkeys(nfc(each) if isinstance(each, str) else each for each in several))
    if len(values) > MAX_VALUES:
        raise QueryError(
            f"{row.name} has {len(values):,} values, the limit is {MAX_VALUES}: write a condition in SQL instead",
            field=row.name,
        )
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise QueryError(f"{row.name} has the value {value!r}: it is a text that is not empty", field=row.name)
        if len(value) > MAX_VALUE_CHARACTERS:
            raise QueryError(
                f"{row.name} has a value of {len(value):,} characters, the limit is {MAX_VALUE_CHARACTERS}",
                field=row.name,
            )
        if not _storable(value):
            raise QueryError(
                f"{row.name} has the value {value!r}, with a character that PostgreSQL cannot store", field=row.name
            )
    return values or None


def _storable(text: str) -> bool:
    return "\x00" not in text and text.encode("utf-8", "replace").decode() == text


def _moment(row: FilterRow, given: date | datetime | str) -> datetime:
    moment: date | datetime
    if isinstance(given, str):
        try:
            moment = datetime.fromisoformat(given.strip())
        except ValueError:
            raise QueryError(
                f"{row.name} is {given[:40]!r}: write 2024-05-31, or 2024-05-31T18:00+02:00", field=row.name
            ) from None
    else:
        moment = given
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time.min)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _check_span(after: object, before: object) -> None:
    if isinstance(after, datetime) and isinstance(before, datetime) and after >= before:
        raise QueryError(
            f"taken_after is {after.isoformat()} and taken_before {before.isoformat()}: no image is taken "
            "after the one and before the other",
            field="taken_after",
        )


def _choice(row: FilterRow, given: str) -> str:
    if given not in row.choices:
        raise QueryError(f"{row.name} is {given!r}: it is one of {', '.join(row.choices)}", field=row.name)
    return given


def _whole(row: FilterRow, given: Any) -> int:
    if not isinstance(given, int) or not 1 <= given <= (row.maximum or given):
        raise QueryError(
            f"{row.name} is {given!r:.40}: it is a number of {row.unit} from 1 to {row.maximum:,}", field=row.name
        )
    return given


def _kilometres(row: FilterRow, given: float) -> float:
    if not 0 < given <= (row.maximum or given):
        raise QueryError(
            f"{row.name} is {given}: it is more than 0 and at most {row.maximum:,.0f} kilometres", field=row.name
        )
    return given


def _ids(row: FilterRow, given: int | Collection[int]) -> tuple[int, ...] | None:
    ids: tuple[Any, ...] = (given,) if isinstance(given, int) else tuple(dict.fromkeys(given))
    if len(ids) > MAX_EXCLUDED:
        raise QueryError(f"{row.name} has {len(ids):,} ids, the limit is {MAX_EXCLUDED:,}", field=row.name)
    for each in ids:
        if not isinstance(each, int) or not 0 <= each <= LARGEST_ID:
            raise QueryError(f"{row.name} has {each!r}, which is not an image's id", field=row.name)
    return ids or None


def _words(row: FilterRow, given: str) -> str | None:
    given = nfc(given)
    if len(given) > MAX_VALUE_CHARACTERS or not _storable(given):
        raise QueryError(
            f"{row.name} has {len(given):,} characters, the limit is {MAX_VALUE_CHARACTERS}, none of them NUL",
            field=row.name,
        )
    return given.strip() or None


def _point(row: FilterRow, given: tuple[float, float] | str) -> tuple[float, float] | None:
    if isinstance(given, str) and not given.strip():
        return None
    try:
        first, second = given.split(",") if isinstance(given, str) else given
        latitude, longitude = float(first), float(second)
    except (TypeError, ValueError, OverflowError):
        raise QueryError(
            f"{row.name} is {str(given)[:40]!r}: write latitude,longitude in degrees, like 48.14,11.58", field=row.name
        ) from None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise QueryError(
            f"{row.name} is ({latitude}, {longitude}): the latitude lies between -90 and 90 degrees, "
            "the longitude between -180 and 180",
            field=row.name,
        )
    return latitude, longitude


_CONDITION_HINT = "write one on the columns of images, such as \"width > 2000 AND credit LIKE 'Ann%'\""


def _sql(row: FilterRow, given: str) -> str | None:
    """Return a raw condition that is one expression: it cannot end the statement, nor the parenthesis around it.

    That helps against mistakes only. What makes it safe is that it runs in a read-only transaction, as one prepared
    statement.
    """
    if len(given) > MAX_WHERE_CHARACTERS or not _storable(given):
        raise QueryError(
            f"{row.name} has {len(given):,} characters, the limit is {MAX_WHERE_CHARACTERS:,}, none of them NUL",
            field=row.name,
        )
    if not given:
        return None
    try:
        tree = parse_condition(given)
    except SQLTooComplexError as exc:
        raise QueryError(f"{row.name} cannot be checked: {exc}", field=row.name) from None
    except SqlglotError:
        raise QueryError(f"{row.name} is not one condition in SQL: {_CONDITION_HINT}", field=row.name) from None
    if isinstance(tree, exp.Query):
        raise QueryError(f"{row.name} is a query, not a condition: {_CONDITION_HINT}", field=row.name)
    if tree.find(exp.Placeholder, exp.Parameter) is not None:
        raise QueryError(f"{row.name} has a parameter such as $1 or :name: write its value instead", field=row.name)
    return given


_CHECKS: dict[Kind, Callable[[FilterRow, Any], Any]] = {
    Kind.NAMES: _names,
    Kind.MOMENT: _moment,
    Kind.CHOICE: _choice,
    Kind.WHOLE: _whole,
    Kind.DECIMAL: _kilometres,
    Kind.POINT: _point,
    Kind.WORDS: _words,
    Kind.IDS: _ids,
    Kind.SQL: _sql,
}
"""How a value of each kind is checked and brought into its normal form."""
