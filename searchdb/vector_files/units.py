"""Turns vectors of any length into unit vectors, and says which rows have none that can be stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from searchdb.plurals import counted

UNIT_TOLERANCE = 0.01
"""How far a length may be from 1 and still count as 1: half precision rounds each number by 0.0005 of itself."""
SINGLE_PRECISION = 1e-6
"""How far the length of a unit vector in single precision is from 1 by rounding, at most."""
_SHORTEST = 1e-30
"""Shorter vectors count as zero: their direction is what rounding left of it."""


@dataclass(frozen=True, kw_only=True)
class UnitVectors:
    """Unit vectors, float32 of shape (n, width); those of rows in `errors`, by their position, are zero.

    `rescaled` is the number of vectors that had another length than 1. `widths` are the numbers of the given vectors,
    by how many there are.
    """

    vectors: np.ndarray
    errors: Mapping[int, str]
    rescaled: int
    widths: Counter[int]


def unit_vectors(given: np.ndarray | Sequence[Any], width: int | None) -> UnitVectors:
    """Return the unit vectors of numbers, texts or lists; without a `width`, the one of most rows is taken.

    Vectors of another width, zero vectors, and those with NaN or infinity get an error.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, which the errors tell
        return _unit_vectors(given, width)


def _unit_vectors(given: np.ndarray | Sequence[Any], width: int | None) -> UnitVectors:
    if isinstance(given, np.ndarray):
        found = int(given.shape[1])
        widths = Counter({found: len(given)})
        errors: dict[int, str] = {}
        width = found if width is None else width
        if found != width:
            return UnitVectors(
                vectors=np.zeros((len(given), width), np.float32),
                errors=dict.fromkeys(range(len(given)), _wrong_width(found, width)),
                rescaled=0,
                widths=widths,
            )
        matrix = given.astype(np.float64)
    else:
        values = [parsed(each) for each in given]
        errors = {at: each for at, each in enumerate(values) if isinstance(each, str)}
        rows = [(at, each) for at, each in enumerate(values) if not isinstance(each, str)]
        widths = Counter(len(row) for _, row in rows)
        width = width or (widths.most_common(1)[0][0] if widths else 1)
        matrix = np.zeros((len(given), width))
        for at, row in rows:
            if len(row) == width:
                matrix[at] = row
            else:
                errors[at] = _wrong_width(len(row), width)
    largest = np.abs(matrix).max(axis=1, initial=0.0)
    finite = np.isfinite(largest)  # a NaN or an infinity anywhere is the largest
    errors |= {int(at): _not_finite(matrix[at]) for at in np.flatnonzero(~finite) if int(at) not in errors}
    usable = finite & (largest > _SHORTEST)
    errors |= {
        int(at): "the vector is zero, so it has no direction"
        for at in np.flatnonzero(finite & ~usable)
        if int(at) not in errors
    }
    matrix[~usable] = 0.0
    scaled = matrix / np.where(usable, largest, 1.0)[:, None]  # first by the largest, so that no square overflows
    norms = np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    units = (scaled / np.where(usable, norms, 1.0)[:, None]).astype(np.float32)
    lengths = np.where(usable, norms, 1.0) * np.where(usable, largest, 1.0)
    exact = np.abs(lengths - 1) <= SINGLE_PRECISION  # kept as they are, so that an export comes back bit for bit
    units[exact & usable] = matrix[exact & usable]
    rescaled = int((np.abs(lengths - 1) > UNIT_TOLERANCE).sum())
    return UnitVectors(vectors=units, errors=errors, rescaled=rescaled, widths=widths)


def parsed(value: Any) -> np.ndarray | str:
    """Return numbers as an array of shape (n,), or why they are none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "the row has no vector"
    given = value
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("{") and text.endswith("}"):  # an array in PostgreSQL's notation
            text = f"[{text[1:-1]}]"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return f"the vector {_shown(given)} is not a list of numbers, such as [0.1,-0.2]"
    if not isinstance(value, np.ndarray | list):
        return f"the vector {_shown(given)} is not a list of numbers, such as [0.1,-0.2]"
    try:
        array = np.asarray(cast("Any", value), dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return f"the vector {_shown(given)} holds something else than numbers"
    if array.ndim != 1:
        return f"the vector {_shown(given)} is not a plain list of numbers"
    return array if len(array) else "the vector has no numbers"


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _not_finite(row: np.ndarray) -> str:
    return "the vector holds NaN" if np.isnan(row).any() else "the vector holds an infinite number"


def _wrong_width(found: int, width: int) -> str:
    return f"the vector has {counted(found, 'number')}, the others have {width:,}"
