"""What readers of files of vectors yield: rows in batches, column by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

BATCH_ROWS = 2000
"""Rows that are in memory, and stored in one transaction: 12 MB of vectors of 768 numbers in double precision."""


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """Some consecutive rows of a file.

    `name` is the file's, for messages, and `unit` what it has: "row", or "line" of a text. `numbers` are those of the
    rows in the file, from 1; `indexes` those of its data, from 0, as numpy counts. `vectors` are a matrix with a row
    for each, or a list of what each row has: numbers, a text such as `[0.1,0.2]`, or None. `columns` are the other
    columns, all of one length. `malformed` are the reasons why rows could not be read, by their position in the batch.
    `other_lengths` are the columns that were left out because they have more or fewer values than there are vectors,
    `total`, and how many.
    """

    name: str
    unit: str
    numbers: Sequence[int]
    indexes: Sequence[int]
    vectors: np.ndarray | Sequence[Any]
    columns: Mapping[str, Sequence[Any]]
    malformed: Mapping[int, str] = field(default_factory=dict[int, str])
    other_lengths: Mapping[str, int] = field(default_factory=dict[str, int])
    total: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, position: int) -> str:
        """Return where a row is, such as `row 17 of photos.npz`."""
        return f"{self.unit} {self.numbers[position]:,} of {self.name}"

    def first(self, count: int) -> RowBatch:
        """Return the first rows of the batch."""
        return replace(
            self,
            numbers=self.numbers[:count],
            indexes=self.indexes[:count],
            vectors=self.vectors[:count],
            columns={name: values[:count] for name, values in self.columns.items()},
            malformed={at: reason for at, reason in self.malformed.items() if at < count},
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How files of vectors are laid out, as far as a person says it; the rest is found by the usual names.

    `form` is one of FORMATS; `reference` and `vector` are names of columns, or keys of an npz; `base` is the folder
    that relative paths begin in; `template` makes a reference of each row, with `{}` for the reference column's value,
    or without such a column for the row's number from 0, and `{name}` for that of another column. `metadata` is the
    file with the other columns of an npy.
    """

    form: str | None = None
    reference: str | None = None
    vector: str | None = None
    base: str | None = None
    template: str | None = None
    metadata: str | None = None


def limited(batches: Iterator[RowBatch], limit: int | None) -> Iterator[RowBatch]:
    """Yield the batches up to `limit` rows."""
    left = limit
    for batch in batches:
        if left is None or len(batch) <= left:
            yield batch
        else:
            yield batch.first(left)
        if left is not None:
            left -= len(batch)
            if left <= 0:
                return
