"""Reads numpy's arrays, of npy files and in npz archives, some rows at a time and without unpickling."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from searchdb.errors import SourceError
from searchdb.plurals import counted
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION
from searchdb.sources import printable
from searchdb.vector_files.names import vector_column
from searchdb.vector_files.records import BATCH_ROWS, Layout, RowBatch

_NUMBERS = "fiu"
"""Kinds of numpy types that vectors may have: floating point, integers."""
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    NotImplementedError,
    RuntimeError,
)
"""What numpy and zipfile raise on damaged, foreign or encrypted files."""


@dataclass(frozen=True, kw_only=True)
class Array:
    """An array in a file: its shape, its type, and how to open the file, at its beginning."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    @property
    def is_vectors(self) -> bool:
        """Whether its rows may be vectors."""
        return len(self.shape) == 2 and self.dtype.kind in _NUMBERS

    @property
    def row_values(self) -> int:
        """How many values a row has."""
        return math.prod(self.shape[1:])

    def describe(self) -> str:
        """Return its shape and type in words."""
        kind = "Python objects" if self.dtype.hasobject else str(self.dtype)
        return f"{' x '.join(f'{each:,}' for each in self.shape) or 'one value'} of {kind}"

    def chunks(self, stack: ExitStack) -> Iterator[np.ndarray]:
        """Yield the rows, BATCH_ROWS at a time; the file is open until the stack is closed."""
        rows, row_shape = self.shape[0], self.shape[1:]
        row_bytes = self.dtype.itemsize * self.row_values
        file = stack.enter_context(self.open())
        _read_header(file)
        whole: np.ndarray | None = None
        if self.fortran_order and len(self.shape) > 1:  # columns lie one after the other: all of them are needed
            whole = np.frombuffer(_exactly(file, row_bytes * rows), self.dtype).reshape(self.shape, order="F")
        for first in range(0, rows, BATCH_ROWS):
            count = min(BATCH_ROWS, rows - first)
            if whole is not None:
                yield whole[first : first + count]
            else:
                yield np.frombuffer(_exactly(file, row_bytes * count), self.dtype).reshape(count, *row_shape)


def npy_array(path: Path) -> Array:
    """Return the array of an npy file.

    Raises:
        SourceError: it cannot be read, or is no npy.
    """
    try:
        with path.open("rb") as file:
            shape, fortran_order, dtype = _read_header(file)
            _check_size(shape, dtype, os.fstat(file.fileno()).st_size - file.tell())
    except BROKEN as exc:
        raise broken(path, exc) from exc
    return Array(name=path.name, shape=shape, dtype=dtype, fortran_order=fortran_order, open=lambda: path.open("rb"))


def npz_batches(path: Path, layout: Layout) -> Iterator[RowBatch]:
    """Yield the rows of an npz: a matrix of vectors, and arrays with a value for each of its rows.

    Arrays of other lengths are left out, and those with more values in a row than a vector may have, such as pixels.

    Raises:
        SourceError: it cannot be read, has no such matrix, or needs an array of Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _npz_arrays(archive)
            named = {key: array.describe() for key, array in arrays.items()}
            usable = [each for each, array in arrays.items() if array.is_vectors]
            if not usable and (pickled := next((each for each in arrays.values() if each.dtype.hasobject), None)):
                raise object_error(path.name, pickled.name, of_vectors=True)
            key = vector_column(usable, named, layout.vector, path.name)
            check_width(arrays[key], path.name)
            rows = arrays[key].shape[0]
            if layout.reference is not None and layout.reference in arrays:
                _check_reference(arrays[layout.reference], rows, path)
            beside = {
                name: array
                for name, array in arrays.items()
                if name != key
                and array.shape[:1] == (rows,)
                and array.row_values <= MAX_DIMENSION
                and not array.dtype.hasobject
            }
            unreadable = [name for name, array in arrays.items() if array.dtype.hasobject]
            other_lengths = {
                name: array.shape[0]
                for name, array in arrays.items()
                if len(array.shape) == 1 and array.shape[0] != rows
            }
            yield from matrix_batches(
                path.name, arrays[key], beside, unreadable=unreadable, other_lengths=other_lengths
            )
    except BROKEN as exc:
        raise broken(path, exc) from exc


def matrix_batches(
    name: str,
    vectors: Array,
    beside: Mapping[str, Array],
    *,
    unreadable: list[str],
    other_lengths: Mapping[str, int],
) -> Iterator[RowBatch]:
    """Yield the rows of a matrix, with those of arrays of the same length; `unreadable` ones have no values."""
    with ExitStack() as stack:
        streams = {column: array.chunks(stack) for column, array in beside.items()}
        first = 0
        for matrix in vectors.chunks(stack):
            columns = {column: _plain(next(stream)) for column, stream in streams.items()}
            for column in unreadable:
                columns[column] = UnreadableColumn(len(matrix))
            indexes = range(first, first + len(matrix))
            yield RowBatch(
                name=name,
                unit="row",
                numbers=range(first + 1, first + len(matrix) + 1),
                indexes=indexes,
                vectors=matrix,
                columns=columns,
                other_lengths=other_lengths,
                total=vectors.shape[0],
            )
            first += len(matrix)


class UnreadableColumn(list[Any]):
    """A column of Python objects, which are not unpickled: each value is None."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


def object_error(name: str, column: str, *, of_vectors: bool = False) -> SourceError:
    """Return the error about an array of Python objects that is needed, for its vectors or for its references."""
    way_out = (
        "as a matrix: numpy.savez(file, embeddings=numpy.stack(list_of_vectors))"
        if of_vectors
        else "as texts: numpy.savez(file, paths=numpy.array(list_of_paths, dtype=str))"
    )
    return SourceError(
        f"{name}: the array {printable(column)!r} holds Python objects (pickled), and reading those can run any code. "
        f"Save it {way_out}"
    )


def _check_reference(array: Array, rows: int, path: Path) -> None:
    if array.dtype.hasobject:
        raise object_error(path.name, array.name)
    if array.shape != (rows,):
        raise SourceError(
            f"{path.name}: {printable(array.name)!r} has {array.describe()}, but the file has "
            f"{counted(rows, 'vector')}: a reference for each is needed"
        )


def _npz_arrays(archive: zipfile.ZipFile) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for member in archive.namelist():
        if not member.endswith(".npy"):
            continue
        with archive.open(member) as file:
            shape, fortran_order, dtype = _read_header(file)
            _check_size(shape, dtype, archive.getinfo(member).file_size - file.tell())

        def opened(member: str = member) -> AbstractContextManager[IO[bytes]]:
            return archive.open(member)

        key = member.removesuffix(".npy")
        arrays[key] = Array(name=key, shape=shape, dtype=dtype, fortran_order=fortran_order, open=opened)
    return arrays


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):
        # Version 3 differs from 2 in the encoding of names of fields only, which vectors and columns have not.
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
    try:
        return read(file)
    # ValueError is for what numpy itself finds wrong; the others come out of Python's parser.
    except (SyntaxError, TypeError, tokenize.TokenError, OverflowError, MemoryError, RecursionError) as exc:
        raise ValueError("its header is damaged") from exc


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    """Refuse an array that the `size` bytes of its file cannot hold, before memory is taken for it.

    Raises:
        ValueError: the file is truncated, or its header says something impossible.
    """
    if any(each < 0 for each in shape):
        raise ValueError(f"its header says that the array has {' x '.join(map(str, shape))} values")
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise ValueError(
            f"it is truncated: the header says {' x '.join(f'{each:,}' for each in shape) or 'one value'} of {dtype}, "
            f"but {size:,} bytes follow"
        )


def check_width(vectors: Array, name: str) -> None:
    """Refuse a matrix whose rows are no vectors, before they are read.

    Raises:
        SourceError: they have no numbers, or more than a vector may have.
    """
    if vectors.shape[0] and not 0 < vectors.row_values <= MAX_DIMENSION:
        raise SourceError(
            f"{name}: {printable(vectors.name)!r} has {vectors.row_values:,} numbers in a row, and searchdb stores "
            f"vectors of {MIN_DIMENSION} to {MAX_DIMENSION:,}"
        )


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("it is truncated")
    return data


def _plain(values: np.ndarray) -> list[Any]:
    """Return Python values; bytes as text, times as ISO 8601, and what has several dimensions as lists."""
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "surrogateescape") for value in values.ravel().tolist()]
    if values.dtype.kind == "M":
        return [None if each == "NaT" else each for each in np.datetime_as_string(values).tolist()]
    if values.dtype.kind in "mcV":
        return [str(each) for each in values]
    return values.tolist()


def broken(path: Path, exc: Exception) -> SourceError:
    """Return our error for one of numpy's, of zipfile's or of the system's about reading a file."""
    if isinstance(exc, OSError) and exc.strerror:
        return SourceError(f"{printable(str(path))} cannot be read: {exc.strerror}")
    if isinstance(exc, MemoryError):
        return SourceError(f"{printable(str(path))} cannot be read: it does not fit into memory")
    reason = str(exc).strip().split("\n")[0][:200] or type(exc).__name__
    return SourceError(f"{printable(str(path))} is no readable {path.suffix.lstrip('.') or 'npy'} file: {reason}")
