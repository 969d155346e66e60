"""Tells whether lists and objects are nested deeper than programs read them."""

from __future__ import annotations

from typing import Any, cast

MAX_NESTING = 100
"""How deep lists and objects of a row may be nested: what is stored is read back by programs with limits."""


def is_deep(values: dict[str, Any]) -> bool:
    """Whether an object is nested more than MAX_NESTING deep, itself included."""
    level: list[list[Any] | dict[str, Any]] = [values]
    for _ in range(MAX_NESTING):
        inside = (inner for each in level for inner in (each.values() if isinstance(each, dict) else each))
        level = [cast("list[Any]", each) for each in inside if isinstance(each, dict | list) and _holds_more(each)]
        if not level:
            return False
    return True


def _holds_more(values: Any) -> bool:
    # Vectors are the longest lists: their numbers need not be looked at one by one.
    return isinstance(values, dict) or not {dict, list}.isdisjoint(map(type, values))
