"""Reads an npy file with the file beside it that says what its vectors are of, such as clip-retrieval's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from searchdb.errors import SourceError
from searchdb.plurals import counted
from searchdb.sources import printable
from searchdb.vector_files.arrays import BROKEN, Array, broken, check_width, npy_array
from searchdb.vector_files.parquet import parquet_columns, parquet_row_count
from searchdb.vector_files.records import Layout, RowBatch
from searchdb.vector_files.text import sidecar_rows

_NUMBERED = re.compile(r"(?:img|image|text)_emb(?:edding)?s?_(\d+)")
_SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv", ".txt")


def npy_batches(path: Path, layout: Layout) -> Iterator[RowBatch]:
    """Yield the rows of a matrix in an npy file, with those of its sidecar.

    The sidecar is the file that `layout` names, or one beside it with the same name and another extension, or
    clip-retrieval's `metadata_0.parquet` for `img_emb_0.npy`, in its folder or in `../metadata`. A text of another
    extension has a reference on each line. Without a sidecar, rows have no columns.

    Raises:
        SourceError: a file cannot be read, the array is no matrix of numbers, or the sidecar has more or fewer rows.
    """
    array = npy_array(path)
    if not array.is_vectors:
        raise SourceError(f"{path.name} holds {array.describe()}, but vectors are a matrix of numbers, one in each row")
    check_width(array, path.name)
    sidecar = Path(layout.metadata).expanduser() if layout.metadata is not None else find_sidecar(path)
    if sidecar is not None and (count := _row_count(sidecar)) != array.shape[0]:
        raise SourceError(
            f"{printable(sidecar.name)} has {counted(count, 'row')}, but {printable(path.name)} has "
            f"{counted(array.shape[0], 'vector')}: they do not belong together"
        )
    yield from _batches(path, array, None if sidecar is None else _Columns(sidecar))


def find_sidecar(path: Path) -> Path | None:
    """Return the file that belongs to an npy file, None if there is none."""
    candidates = [path.with_suffix(suffix) for suffix in _SUFFIXES]
    if numbered := _NUMBERED.fullmatch(path.stem):
        name = f"metadata_{numbered[1]}.parquet"
        candidates += [path.with_name(name), path.parent.parent / "metadata" / name]
    return next((each for each in candidates if each.is_file()), None)


class _Columns:
    """The columns of a sidecar, of which as many rows can be taken as there are vectors."""

    def __init__(self, path: Path) -> None:
        self._rows = _rows(path)

    def take(self, count: int) -> dict[str, list[Any]]:
        """Return the next rows, column by column."""
        rows = list(itertools.islice(self._rows, count))
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix.lower() != ".parquet":
        yield from sidecar_rows(path)
        return
    for count, columns in parquet_columns(path):
        for at in range(count):
            yield {name: values[at] for name, values in columns.items()}


def _row_count(path: Path) -> int:
    return parquet_row_count(path) if path.suffix.lower() == ".parquet" else sum(1 for _ in sidecar_rows(path))


def _batches(path: Path, array: Array, columns: _Columns | None) -> Iterator[RowBatch]:
    first = 0
    with ExitStack() as stack:
        for matrix in _chunks(path, array, stack):
            yield RowBatch(
                name=path.name,
                unit="row",
                numbers=range(first + 1, first + len(matrix) + 1),
                indexes=range(first, first + len(matrix)),
                vectors=matrix,
                columns={} if columns is None else columns.take(len(matrix)),
            )
            first += len(matrix)


def _chunks(path: Path, array: Array, stack: ExitStack) -> Iterator[np.ndarray]:
    try:
        yield from array.chunks(stack)
    except BROKEN as exc:
        raise broken(path, exc) from exc
