"""Writes rows as Parquet, with pyarrow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from searchdb.db.tables import Embedding
from searchdb.errors import ExportError
from searchdb.export.columns import ExportColumn
from searchdb.export.destination import Sink
from searchdb.export.rows import Row

GROUP_ROWS = 10_000
"""Rows of a row group, which readers load at a time: 20 MB of vectors."""
GROUP_BYTES = 32 * 1024 * 1024
"""Bytes of JSON after which a row group ends early: the metadata of one image may be long."""


class ParquetWriter:
    """Writes Parquet: times in UTC, tags as lists, JSON as text, embeddings as fixed-size lists of float32.

    A time that Python cannot hold, such as infinity, is null. `about` goes into the file's own metadata.

    Raises:
        ExportError: pyarrow is not installed.
    """

    def __init__(self, sink: Sink, columns: Sequence[ExportColumn], *, about: dict[str, str] | None = None) -> None:
        self._arrow = _import("pyarrow")
        self._parquet = _import("pyarrow.parquet")
        self._columns = columns
        self._about = {f"searchdb.{name}": value for name, value in (about or {}).items()}
        self._file = _ArrowFile(sink)
        self._writer: Any = None
        self._schema: Any = None
        self._dimension = -1
        self._group: list[list[Any]] = [[] for _ in columns]
        self._long_bytes = 0

    def write(self, row: Row) -> None:
        """Take one row; the rows are written in groups."""
        for column, values in zip(self._columns, self._group, strict=True):
            value = _CONVERSIONS.get(type(column.type), _same)(row[column.name])
            if isinstance(column.type, JSONB) and value is not None:
                self._long_bytes += len(value)
            values.append(value)
        if len(self._group[0]) >= GROUP_ROWS or self._long_bytes >= GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        """Write what is left, and the end of the file; without it, there is no valid file."""
        if self._group[0]:
            self._write_group()
        self._opened().close()

    def _write_group(self) -> None:
        arrays = [self._array(column.type, values) for column, values in zip(self._columns, self._group, strict=True)]
        self._group, self._long_bytes = [[] for _ in self._columns], 0
        writer = self._opened()
        writer.write_table(self._arrow.table(arrays, schema=self._schema), row_group_size=GROUP_ROWS)

    def _opened(self) -> Any:
        """Return the writer; it is made when the first rows have told how many numbers a vector has."""
        if self._writer is None:
            fields = [(column.name, self._type(column.type)) for column in self._columns]
            self._schema = self._arrow.schema(fields).with_metadata(self._about)
            self._writer = self._parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        return self._writer

    def _array(self, kind: sa.types.TypeEngine[Any], values: list[Any]) -> Any:
        if isinstance(kind, Embedding):  # never null
            self._dimension = len(values[0])
            flat = self._arrow.array(np.concatenate(values).astype(np.float32, copy=False))
            return self._arrow.FixedSizeListArray.from_arrays(flat, self._dimension)
        return self._arrow.array(values, type=self._type(kind))

    def _type(self, kind: sa.types.TypeEngine[Any]) -> Any:
        arrow = self._arrow
        if isinstance(kind, Embedding):
            return arrow.list_(arrow.float32(), self._dimension)
        if isinstance(kind, ARRAY):
            return arrow.list_(arrow.string())
        types: dict[type[sa.types.TypeEngine[Any]], Callable[[], Any]] = {
            sa.BigInteger: arrow.int64,
            sa.Integer: arrow.int32,
            sa.SmallInteger: arrow.int16,
            sa.Double: arrow.float64,
            sa.Text: arrow.string,
            sa.LargeBinary: arrow.binary,
            sa.DateTime: lambda: arrow.timestamp("us", tz="UTC"),
            JSONB: arrow.string,
        }
        return types[type(kind)]()


class _ArrowFile:
    """The file object that pyarrow writes to: it asks for its position, which a pipe does not tell.

    After an error of the sink, what pyarrow still writes, to end the file, goes nowhere.
    """

    closed = False

    def __init__(self, sink: Sink) -> None:
        self._sink: Sink | None = sink
        self._position = 0

    def write(self, data: Any) -> int:
        content = bytes(data)
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.write(content)
            self._sink = sink
        self._position += len(content)
        return len(content)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def _import(name: str) -> Any:
    try:
        return import_module(name)  # an optional dependency
    except ImportError as exc:
        raise ExportError(
            "Parquet needs pyarrow, which is not installed: run `pip install 'searchdb[parquet]'`, or export CSV or "
            "JSONL",
            field="format",
        ) from exc


def _same(value: Any) -> Any:
    return value


def _moment(value: Any) -> Any:
    return value if isinstance(value, datetime) else None


def _json_text(value: Any) -> Any:
    return None if value is None else json.dumps(value, ensure_ascii=False)


_CONVERSIONS: dict[type[sa.types.TypeEngine[Any]], Callable[[Any], Any]] = {
    sa.DateTime: _moment,
    JSONB: _json_text,
}
