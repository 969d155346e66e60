"""Reads JSON lines: an object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast


def json_objects(
    lines: Iterable[str], first_line: int = 1, *, loads: Callable[[str], object] = json.loads
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the number of each line that is not blank, and its object, or what is wrong with the line.

    Args:
        lines: the lines.
        first_line: the number of the first one.
        loads: parses a line; raises ValueError or RecursionError if it cannot.
    """
    for at, line in enumerate(lines, first_line):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except (ValueError, RecursionError) as exc:
            yield at, f"the line is not JSON ({problem_of(exc)})"
            continue
        yield at, cast("dict[str, Any]", row) if isinstance(row, dict) else "the line is not a JSON object, {...}"


def problem_of(exc: ValueError | RecursionError) -> str:
    """Return what is wrong with a text that json cannot parse; what Python says of its own limits helps nobody."""
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if "set_int_max_str_digits" in str(exc):
        return f"a number in it has more than {sys.get_int_max_str_digits():,} digits"
    return str(exc)
