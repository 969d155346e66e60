"""Opens files of vectors in any format: by their extension, by a named format, or by what belongs to an npy."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from searchdb.errors import SourceError
from searchdb.sources import printable
from searchdb.vector_files.arrays import npz_batches
from searchdb.vector_files.parquet import parquet_batches
from searchdb.vector_files.records import Layout, RowBatch
from searchdb.vector_files.sidecars import npy_batches
from searchdb.vector_files.text import copy_batches, delimited_batches, jsonl_batches, looks_like_copy

FORMATS = ("npz", "npy", "parquet", "jsonl", "csv", "tsv", "copy")
_EXTENSIONS = {
    ".npz": "npz",
    ".npy": "npy",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "copy",
    ".copy": "copy",
}
_READERS = {
    "npz": npz_batches,
    "npy": npy_batches,
    "parquet": parquet_batches,
    "jsonl": jsonl_batches,
    "csv": partial(delimited_batches, delimiters=(",", ";", "\t")),
    "tsv": partial(delimited_batches, delimiters=("\t",)),
    "copy": copy_batches,
}
_READ_IN_FOLDERS = (".npz", ".npy", ".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
_TEXT_VECTORS = re.compile(r"text_emb")
"""clip-retrieval writes the vectors of captions into `text_emb`, beside those of the images in `img_emb`."""


def vector_files(paths: list[str]) -> list[Path]:
    """Return the files of vectors among paths: a folder stands for those in it.

    Of a folder of clip-retrieval these are its `img_emb/img_emb_*.npy`, in the order of their numbers.

    Raises:
        SourceError: a path does not exist, or there is no file of vectors in a folder.
    """
    found: list[Path] = []
    for name in paths:
        path = Path(os.path.expanduser(name))  # noqa: PTH111 - pathlib raises for an unknown ~user
        if path.is_dir():
            found += _in_folder(path)
        elif os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a folder above may not be entered
            found.append(path)
        else:
            raise SourceError(f"the file {printable(name)!r} does not exist")
    return found


def read_batches(path: Path, layout: Layout) -> Iterator[RowBatch]:
    """Yield the rows of a file of vectors in batches, in constant memory.

    Raises:
        SourceError: it cannot be read, its format is unknown, or it has no vectors that can be told.
    """
    return _READERS[_format(path, layout.form)](path, layout)


def _format(path: Path, named: str | None) -> str:
    if named is not None:
        if named not in FORMATS:
            raise SourceError(f"the format is {printable(named)!r}: it is one of {', '.join(FORMATS)}")
        return named
    suffix = path.suffix.lower()
    form = _EXTENSIONS.get(suffix)
    if form is None:
        raise SourceError(
            f"the name {printable(path.name)!r} does not say the format: end it with {', '.join(_EXTENSIONS)}, or give "
            f"the format, one of {', '.join(FORMATS)}"
        )
    if form == "tsv":
        try:
            return "copy" if looks_like_copy(path) else form
        except OSError as exc:
            raise SourceError(f"{printable(str(path))} cannot be read: {exc.strerror or exc}") from exc
    return form


def _in_folder(folder: Path) -> list[Path]:
    of_images = folder / "img_emb"
    inside = of_images if of_images.is_dir() else folder
    found = sorted(
        (each for each in inside.iterdir() if each.suffix.lower() in _READ_IN_FOLDERS and each.is_file()),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
    )
    arrays = [each for each in found if each.suffix.lower() == ".npy" and not _TEXT_VECTORS.match(each.name)]
    found = arrays or found  # the others are what belongs to the arrays
    if not found:
        raise SourceError(
            f"the folder {printable(str(folder))!r} has no files of vectors: npz, npy, Parquet, JSONL, CSV"
        )
    return found
