"""The page's filter panel: the values in the collection, with their counts, and the ones that are selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchdb.search.facets import Facet, Facets
from searchdb.search.filter_table import PUBLIC_FILTERS, FilterRow

from .search_request import SearchRequest


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a filter; `count` is the number of images that have it, None if it was not counted."""

    value: str
    count: int | None
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """One filter that allows several values."""

    name: str
    label: str
    choices: Sequence[Choice]


@dataclass(frozen=True, kw_only=True)
class FilterPanel:
    """The contents of the panel: lists of values, and the shapes of the images."""

    groups: Sequence[Group]
    shapes: Sequence[Facet]


def filter_panel(search: SearchRequest, facets: Facets) -> FilterPanel:
    """Return the panel's contents; a filter whose value all images share is left out unless it is set."""
    groups: list[Group] = []
    for row in PUBLIC_FILTERS:
        if row.legend is None:
            continue
        values: Sequence[Facet] = getattr(facets, row.facet or row.name)
        chosen = getattr(search.filters, row.name) or ()
        if chosen or any(facet.count < facets.counted for facet in values):
            groups.append(Group(name=row.name, label=row.legend, choices=_choices(row, values, chosen)))
    shapes = facets.orientation if search.filters.orientation or len(facets.orientation) > 1 else ()
    return FilterPanel(groups=groups, shapes=shapes)


def _choices(row: FilterRow, values: Sequence[Facet], chosen: Sequence[str]) -> list[Choice]:
    def key(value: str) -> str:
        return value.lower() if row.caseless else value

    selected, listed = {key(value) for value in chosen}, {key(facet.value) for facet in values}
    rare = [Choice(value=value, count=None, chosen=True) for value in chosen if key(value) not in listed]
    return rare + [Choice(value=each.value, count=each.count, chosen=key(each.value) in selected) for each in values]
