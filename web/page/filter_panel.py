"""The page's filter panel: the values in the collection, with their counts, and the ones that are selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from searchdb.db.counts import RowCount
from searchdb.search.facets import Facet, Facets
from searchdb.search.filter_table import PUBLIC_FILTERS, FilterRow

from .search_request import SearchRequest


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of a filter; `count` is the number of images that have it, None if it was not counted."""

    value: str
    count: RowCount | None
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """One filter that allows several values."""

    name: str
    label: str
    choices: Sequence[Choice]


@dataclass(frozen=True, kw_only=True)
class FilterPanel:
    """The contents of the panel: lists of values, the shapes of the images, and from how many stars on."""

    groups: Sequence[Group]
    shapes: Sequence[Choice]
    ratings: Sequence[Choice]


def filter_panel(search: SearchRequest, facets: Facets) -> FilterPanel:
    """Return the panel's contents; a filter whose value all images share is left out unless it is set."""
    groups: list[Group] = []
    for row in PUBLIC_FILTERS:
        if row.legend is None:
            continue
        values: Sequence[Facet] = getattr(facets, row.facet or row.name)
        chosen = getattr(search.filters, row.name) or ()
        if chosen or any(facet.count < facets.total for facet in values):
            groups.append(
                Group(name=row.name, label=row.legend, choices=_choices(row, values, chosen, facets.complete))
            )
    orientation = search.filters.orientation
    shapes = [_choice(each, facets.complete, each.value == orientation) for each in facets.orientation]
    return FilterPanel(
        groups=groups, shapes=shapes if orientation or len(shapes) > 1 else (), ratings=_ratings(search, facets)
    )


def _ratings(search: SearchRequest, facets: Facets) -> Sequence[Choice]:
    """Return the ratings that occur, and the one that is set, the most stars first."""
    chosen = search.filters.rating
    listed = [_choice(each, facets.complete, each.value == str(chosen)) for each in facets.rating]
    if chosen is not None and not any(each.chosen for each in listed):
        listed.append(Choice(value=str(chosen), count=None, chosen=True))
    return sorted(listed, key=lambda each: each.value, reverse=True)


def _choices(row: FilterRow, values: Sequence[Facet], chosen: Sequence[str], exact: bool) -> list[Choice]:
    def key(value: str) -> str:
        return value.lower() if row.caseless else value

    selected, listed = {key(value) for value in chosen}, {key(facet.value) for facet in values}
    rare = [Choice(value=value, count=None, chosen=True) for value in chosen if key(value) not in listed]
    return rare + [_choice(each, exact, key(each.value) in selected) for each in values]


def _choice(facet: Facet, exact: bool, chosen: bool) -> Choice:
    return Choice(value=facet.value, count=RowCount(rows=facet.count, exact=exact), chosen=chosen)
