"""The options of a query and of filters, which several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from searchdb.search.filter_table import FILTERS, FilterRow, Kind

_Function = TypeVar("_Function", bound=Callable[..., Any])

_QUERY_OPTIONS = (
    click.option("--image", metavar="PATH|URL", help="image to search by, alone or with TEXT"),
    click.option("--like", type=int, multiple=True, metavar="ID", help="id of a stored image to search by; repeatable"),
    click.option("--unlike", type=int, multiple=True, metavar="ID", help="id of a disliked stored image; repeatable"),
    click.option("--not", "exclude", metavar="TEXT", help="text or content to exclude"),
    click.option(
        "--text-weight", type=float, metavar="FLOAT", help="0: only the images count, 1: only TEXT; middle 0.5"
    ),
    click.option("--threshold", type=float, default=0.0, show_default=True, help="lowest cosine similarity, -1 to 1"),
    click.option(
        "--min-relevance", type=float, default=0.0, show_default=True, help="lowest relevance to TEXT, 0 to 1"
    ),
)


def query_options(command: _Function) -> _Function:
    """Add the argument TEXT and the options of the other parts of a query and of its limits."""
    for option in reversed(_QUERY_OPTIONS):
        command = option(command)
    return click.argument("text", required=False)(command)


def filter_options(command: _Function) -> _Function:
    """Add an option for every filter."""
    for row in reversed(FILTERS):
        name = f"--{row.name.replace('_', '-')}"
        option = click.option(
            name, type=_type_of(row), multiple=row.several, metavar=row.metavar or None, help=row.help
        )
        command = option(command)
    return command


def _type_of(row: FilterRow) -> Any:
    if row.kind is Kind.CHOICE:
        return click.Choice(row.choices)
    return {Kind.WHOLE: int, Kind.IDS: int, Kind.DECIMAL: float}.get(row.kind, str)
