"""Reads vectors and metadata from Parquet, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from searchdb.errors import SourceError
from searchdb.sources import printable
from searchdb.vector_files.names import vector_column
from searchdb.vector_files.records import BATCH_ROWS, Layout, RowBatch

_HASHES = ("sha256",)
"""Columns of bytes that are read; others hold the images themselves."""
_UNHOLDABLE = (ValueError, OverflowError, LookupError)
"""What pyarrow raises for values that Python cannot hold: a date after 9999, other texts than UTF-8, unknown zones."""
_OUT_OF_RANGE = "<value out of range"
"""What pyarrow writes for times that its own calendar has not."""


def parquet_batches(path: Path, layout: Layout) -> Iterator[RowBatch]:
    """Yield the rows of a Parquet file with a column of lists of numbers, or of texts such as `[0.1,0.2]`.

    Columns of bytes are left out, and of an image of the library datasets its path is taken.

    Raises:
        SourceError: it cannot be read, or has no such column, or pyarrow is not installed.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        columns = {field.name: str(field.type) for field in schema}
        usable = [field.name for field in schema if _may_be_vectors(field, layout.vector)]
        vector = vector_column(usable, columns, layout.vector, path.name)
        first = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=_read_columns(schema, vector)):
            count = batch.num_rows
            yield RowBatch(
                name=path.name,
                unit="row",
                numbers=range(first + 1, first + count + 1),
                indexes=range(first, first + count),
                vectors=_vectors(batch.column(batch.schema.names.index(vector))),
                columns=_columns(batch, leaving_out=vector),
            )
            first += count


def parquet_columns(path: Path) -> Iterator[tuple[int, dict[str, list[Any]]]]:
    """Yield the columns of a Parquet file without vectors, a batch of rows at a time, with the number of rows.

    Raises:
        SourceError: it cannot be read, or pyarrow is not installed.
    """
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=_read_columns(file.schema_arrow, None)):
            yield batch.num_rows, _columns(batch)


def parquet_row_count(path: Path) -> int:
    """Return the number of rows.

    Raises:
        SourceError: the file cannot be read, or pyarrow is not installed.
    """
    with _opened(path) as file:
        return int(file.metadata.num_rows)


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")  # an optional dependency
    except ImportError as exc:
        raise SourceError(
            "reading Parquet needs pyarrow, which is not installed: run `pip install 'searchdb[parquet]'`, or give "
            "JSONL or npz"
        ) from exc
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except OSError as exc:
        raise SourceError(f"{printable(str(path))} cannot be read: {exc.strerror or _first_line(exc)}") from exc
    except (arrow.ArrowException, UnicodeDecodeError) as exc:  # the latter for names of columns
        raise SourceError(f"{printable(str(path))} is no readable Parquet file: {_first_line(exc)}") from exc


def _first_line(exc: Exception) -> str:
    return str(exc).strip().split("\n")[0][:200] or type(exc).__name__


def _may_be_vectors(field: Any, wanted: str | None) -> bool:
    """Whether a column is of lists of numbers, or of texts and a person says that they are vectors."""
    types = import_module("pyarrow.types")
    kind = field.type
    if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
        return bool(types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    return field.name == wanted and bool(types.is_string(kind) or types.is_large_string(kind))


def _read_columns(schema: Any, vector: str | None) -> list[str]:
    """Return the columns to read: no bytes, and of images their path."""
    types = import_module("pyarrow.types")
    names: list[str] = []
    for field in schema:
        kind = field.type
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and kind.get_field_index("path") >= 0:
            names.append(f"{field.name}.path")
        elif vector is None and _may_be_vectors(field, None):
            continue
        elif field.name in _HASHES or not (
            types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
        ):
            names.append(field.name)
    return names


def _columns(batch: Any, *, leaving_out: str | None = None) -> dict[str, list[Any]]:
    return {name: _values(batch.column(at)) for at, name in enumerate(batch.schema.names) if name != leaving_out}


def _values(column: Any) -> list[Any]:
    """Return the values of a column; those that Python cannot hold become texts, or None."""
    arrow = import_module("pyarrow")
    if (whole := _microseconds(column.type)) is not None:
        column = column.cast(whole, safe=False)
    try:
        return cast("list[Any]", column.to_pylist())
    except _UNHOLDABLE:
        return [_value(arrow, each) for each in column]


def _value(arrow: Any, scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except _UNHOLDABLE:
        kind = scalar.type
    types = import_module("pyarrow.types")
    if types.is_string(kind) or types.is_large_string(kind):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")  # as texts in other files are read
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_value(arrow, each) for each in scalar.values]
    try:
        value = _value(arrow, scalar.cast(_microseconds(kind) or arrow.string(), safe=False))
    except arrow.ArrowException:
        return None
    return None if isinstance(value, str) and value.startswith(_OUT_OF_RANGE) else value


def _microseconds(kind: Any) -> Any:
    """Return the type of times in microseconds for one of nanoseconds, of which Python's types have none, else None."""
    arrow, types = import_module("pyarrow"), import_module("pyarrow.types")
    if types.is_timestamp(kind) and kind.unit == "ns":
        return arrow.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return arrow.duration("us")
    return arrow.time64("us") if types.is_time64(kind) and kind.unit == "ns" else None


def _vectors(column: Any) -> np.ndarray | list[Any]:
    """Return a matrix if all vectors have the same length, otherwise what each row has."""
    types = import_module("pyarrow.types")
    if types.is_string(column.type) or types.is_large_string(column.type):
        return _values(column)
    if column.null_count == 0 and len(column):
        lengths = (
            {column.type.list_size}
            if types.is_fixed_size_list(column.type)
            else set(column.value_lengths().to_pylist())
        )
        if len(lengths) == 1 and (width := lengths.pop()):
            flat = column.flatten()  # numbers that are null become NaN
            return flat.to_numpy(zero_copy_only=False).reshape(len(column), width)
    return [None if not row.is_valid else row.values.to_numpy(zero_copy_only=False) for row in column]
