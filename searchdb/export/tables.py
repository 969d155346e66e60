"""Writes tables: rows as CSV, TSV, JSON lines, Parquet or npz."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from searchdb.errors import ExportError
from searchdb.export.columns import ExportColumn
from searchdb.export.destination import Sink
from searchdb.export.rows import Row
from searchdb.export.text_formats import CSVWriter, JSONLinesWriter, TSVWriter

FORMATS = ("csv", "tsv", "jsonl", "parquet", "npz", "html")
HTML = "html"
NPZ = "npz"
"""Numpy's archive, which always has the vectors."""
BINARY_FORMATS = ("parquet", NPZ)
"""Formats that a terminal cannot show."""
_EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".npz": NPZ,
    ".html": HTML,
    ".htm": HTML,
}


class TableWriter(Protocol):
    """Writes the rows of one table."""

    def write(self, row: Row) -> None:
        """Write one row."""
        ...

    def close(self) -> None:
        """Write what is left; called only if all went well."""
        ...


def checked_format(name: str | None, target: str) -> str:
    """Return a format of FORMATS: the named one, or else the one of the target's extension; CSV for a stream.

    Raises:
        ExportError: the name is unknown, or the extension does not say the format.
    """
    if name is not None:
        if name not in FORMATS:
            raise ExportError(f"the format is {name[:40]!r}: it is one of {', '.join(FORMATS)}", field="format")
        return name
    if target == "-":
        return "csv"
    extension = Path(target).suffix.lower()
    if extension not in _EXTENSIONS:
        raise ExportError(
            f"the name {Path(target).name!r} does not say the format: end it with {', '.join(_EXTENSIONS)}, "
            "or give the format",
            field="format",
        )
    return _EXTENSIONS[extension]


def write_table(
    sink: Sink,
    form: str,
    columns: Sequence[ExportColumn],
    rows: Iterable[Row],
    *,
    keep_formulas: bool = False,
    about: dict[str, str] | None = None,
    progress: Callable[[int], None],
) -> int:
    """Write all rows and return their number.

    Args:
        sink: takes the bytes.
        form: csv, tsv, jsonl, parquet or npz.
        columns, rows: what to write; the rows are taken one at a time.
        keep_formulas: whether CSV and TSV keep texts that spreadsheets take for formulas as they are.
        about: facts for the metadata of a Parquet file.
        progress: called with the number of rows written so far.

    Raises:
        ExportError: pyarrow is needed and not installed.
        StorageError: the sink cannot be written.
    """
    writer = _writer(sink, form, columns, keep_formulas=keep_formulas, about=about)
    written = 0
    for row in rows:
        writer.write(row)
        written += 1
        progress(written)
    writer.close()
    return written


def _writer(
    sink: Sink, form: str, columns: Sequence[ExportColumn], *, keep_formulas: bool, about: dict[str, str] | None
) -> TableWriter:
    if form == "jsonl":
        return JSONLinesWriter(sink, columns)
    if form == "parquet":
        from searchdb.export.parquet import ParquetWriter

        return ParquetWriter(sink, columns, about=about)
    if form == NPZ:
        from searchdb.export.npz import NpzWriter

        return NpzWriter(sink, columns)
    return (TSVWriter if form == "tsv" else CSVWriter)(sink, columns, keep_formulas=keep_formulas)
