"""The filters that the page offers: the values that the collection has, with their counts, and those that are set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchdb.search.facets import Facet, Facets

from .search_request import SearchRequest

_GROUPS = {
    "country": "Country",
    "city": "City",
    "camera": "Camera",
    "tag": "Tags, all of them",
    "any_tag": "Tags, any of them",
    "source": "Source",
}
_CASELESS = ("country", "city", "camera")
"""Filters to which upper and lower case are one."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value that can be chosen; `count` pictures have it, None where that was not counted."""

    value: str
    count: int | None
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """One filter of which several values may be chosen."""

    name: str
    label: str
    choices: Sequence[Choice]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What the filters' panel shows: lists of values, and the pictures' shapes."""

    groups: Sequence[Group]
    shapes: Sequence[Facet]


def choices(ask: SearchRequest, facets: Facets) -> Choices:
    """Return what can be chosen; a filter by which all pictures are the same is left out unless it is set."""
    offered = {
        "country": facets.country,
        "city": facets.city,
        "camera": facets.camera,
        "tag": facets.tag,
        "any_tag": facets.tag,
        "source": facets.source,
    }
    groups: list[Group] = []
    for name, values in offered.items():
        chosen = getattr(ask.filters, name) or ()
        if chosen or any(facet.count < facets.counted for facet in values):
            groups.append(Group(name=name, label=_GROUPS[name], choices=_choices(name, values, chosen)))
    shapes = facets.orientation if ask.filters.orientation or len(facets.orientation) > 1 else ()
    return Choices(groups=groups, shapes=shapes)


def _choices(name: str, values: Sequence[Facet], chosen: Sequence[str]) -> list[Choice]:
    def key(value: str) -> str:
        return value.lower() if name in _CASELESS else value

    set_now, listed = {key(value) for value in chosen}, {key(facet.value) for facet in values}
    rare = [Choice(value=value, count=None, chosen=True) for value in chosen if key(value) not in listed]
    return rare + [Choice(value=each.value, count=each.count, chosen=key(each.value) in set_now) for each in values]
