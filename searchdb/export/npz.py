"""Writes rows as npz, the archive of numpy's arrays: a matrix of vectors, and a text array for each other column."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy_format

from searchdb.db.tables import Embedding
from searchdb.export.columns import ExportColumn
from searchdb.export.destination import Sink
from searchdb.export.rows import Row
from searchdb.export.text_formats import as_text

_CHUNK = 1024 * 1024


class NpzWriter:
    """Writes vectors as float32 of shape (rows, numbers), and all else as texts like those in CSV, empty for missing.

    Numpy pads texts to the longest one of their array. An array begins with its length, which is known at the end:
    until then the rows wait in temporary files.
    """

    def __init__(self, sink: Sink, columns: Sequence[ExportColumn]) -> None:
        self._sink = sink
        self._files = ExitStack()
        self._columns = [(column, tempfile.TemporaryFile()) for column in columns]  # noqa: SIM115 - closed by close
        for _, file in self._columns:
            self._files.enter_context(file)
        self._rows = 0
        self._dimension = 0
        self._longest = {column.name: 1 for column in columns}

    def write(self, row: Row) -> None:
        """Take one row."""
        self._rows += 1
        for column, file in self._columns:
            value = row[column.name]
            if isinstance(column.type, Embedding):
                self._dimension = len(value)
                file.write(np.asarray(value, "<f4").tobytes())
            else:
                text = as_text(value)
                text = "" if text is None else str(text)
                self._longest[column.name] = max(self._longest[column.name], len(text))
                file.write(f"{json.dumps(text)}\n".encode())

    def close(self) -> None:
        """Write the archive."""
        with self._files, zipfile.ZipFile(cast("IO[bytes]", _Unseekable(self._sink)), "w") as archive:
            for column, file in self._columns:
                is_vectors = isinstance(column.type, Embedding)
                dtype = np.dtype("<f4") if is_vectors else np.dtype(f"<U{self._longest[column.name]}")
                shape = (self._rows, self._dimension) if is_vectors else (self._rows,)
                member = zipfile.ZipInfo(f"{column.name}.npy")
                # Numbers of vectors hardly get smaller.
                member.compress_type = zipfile.ZIP_STORED if is_vectors else zipfile.ZIP_DEFLATED
                with archive.open(member, "w", force_zip64=True) as target:
                    header: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                    npy_format.write_array_header_1_0(target, header)
                    file.seek(0)
                    for data in _chunks(file) if is_vectors else _texts(file, self._longest[column.name]):
                        target.write(data)


class _Unseekable:
    """The file object that zipfile writes to: it cannot go back, as a pipe cannot."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._sink.write(content)
        return len(content)

    def flush(self) -> None:
        pass


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.read(_CHUNK):
        yield data


def _texts(file: IO[bytes], longest: int) -> Iterator[bytes]:
    for line in file:
        yield cast("str", json.loads(line)).ljust(longest, "\0").encode("utf-32-le")
