"""The filter table is what Python, the command line, the API and the page offer."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import click
import pytest
from werkzeug.datastructures import MultiDict

from searchdb.cli.search import search_command
from searchdb.client import SearchDB
from searchdb.search.conditions import CONDITIONS
from searchdb.search.filter_table import FILTERS, PUBLIC_FILTERS, FilterRow, Kind
from searchdb.search.filters import Filters
from web.api.requests import Narrowing
from web.page.search_request import SearchRequest

NAMES = [row.name for row in FILTERS]
EXAMPLES = {
    Kind.NAMES: "x", Kind.MOMENT: "2024-05-31", Kind.CHOICE: "square", Kind.WHOLE: "5", Kind.DECIMAL: "5",
    Kind.POINT: "1,2", Kind.WORDS: "boat", Kind.IDS: "7",
}  # fmt: skip


def test_python_has_every_filter() -> None:
    assert [field.name for field in fields(Filters)] == NAMES
    parameters = list(inspect.signature(SearchDB.search).parameters)
    assert parameters[-len(NAMES) :] == NAMES
    in_search, in_filters = get_type_hints(SearchDB.search), get_type_hints(Filters)
    assert {name: in_search[name] for name in NAMES} == {name: in_filters[name] for name in NAMES}


def test_every_filter_has_a_condition() -> None:
    assert set(CONDITIONS) == set(NAMES) - {"radius_km"}  # the condition of `near` takes it


def test_the_command_line_has_every_filter() -> None:
    options = {option.name: option for option in search_command.params if isinstance(option, click.Option)}
    for row in FILTERS:
        assert options[row.name].help == row.help
        assert options[row.name].multiple == row.several


def test_the_api_has_every_public_filter() -> None:
    assert list(Narrowing.model_fields)[-len(PUBLIC_FILTERS) :] == [row.name for row in PUBLIC_FILTERS]


@pytest.mark.parametrize("row", PUBLIC_FILTERS, ids=lambda row: row.name)
def test_the_page_reads_every_public_filter_and_shows_it_as_a_chip(row: FilterRow) -> None:
    given = {row.name: EXAMPLES[row.kind]}
    if row.name == "radius_km":
        given["near"] = "1,2"
    request = SearchRequest.from_args(MultiDict(given))
    assert getattr(request.filters, row.name) is not None
    assert [chip.label for chip in request.chips] == ["near" if row.name == "radius_km" else row.label]
    assert SearchRequest.from_args(MultiDict(list(request.fields))).filters == request.filters
