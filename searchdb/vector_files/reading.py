"""Turns the rows of files of vectors into images to store, and bad rows into named failures."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from searchdb.errors import (
    ImageError,
    InvalidReferenceError,
    InvalidVectorError,
    RepeatedReferenceError,
    SourceError,
    VectorWidthError,
)
from searchdb.plurals import counted
from searchdb.records import GivenVector, RejectedItem, SourceItem, is_url
from searchdb.sources import printable
from searchdb.sources.companions import file_time
from searchdb.vector_files.arrays import UnreadableColumn, object_error
from searchdb.vector_files.frames import Frame, frame_of
from searchdb.vector_files.metadata import fields_of, is_export
from searchdb.vector_files.names import REFERENCE_NAMES, reference_column
from searchdb.vector_files.opening import read_batches
from searchdb.vector_files.records import Layout, RowBatch, limited
from searchdb.vector_files.references import Template, reference_of, template_of
from searchdb.vector_files.repeats import Repeats
from searchdb.vector_files.units import UnitVectors, unit_vectors

SOURCE = "vectors"


@dataclass(frozen=True, kw_only=True)
class ReadRows:
    """What became of a batch of rows; `rescaled` vectors had another length than 1."""

    given: Sequence[GivenVector]
    rejected: Sequence[RejectedItem]
    rescaled: int


class VectorReading:
    """Reads files of vectors, which all have to have the same width.

    Args:
        layout: what a person says about the files.
        width: numbers of a vector; None: as many as the first ones have.

    Attributes:
        width: numbers of a vector, None before the first file is read without it.
    """

    def __init__(self, layout: Layout, width: int | None = None) -> None:
        self._layout = layout
        self.width = width
        self._repeats = Repeats()

    def read(self, paths: Iterable[Path], *, limit: int | None = None) -> Generator[ReadRows]:
        """Yield the rows of the files in batches; rows after `limit` are not read.

        Raises:
            SourceError: a file cannot be read or has no rows, its columns cannot be told, or none of its first rows has
                a reference.
            VectorWidthError: none of the first rows of a file has vectors of the right width.
        """
        left = limit
        for path in paths:
            columns: _Columns | None = None
            for batch in limited(read_batches(path, self._layout), left):
                first = columns is None
                columns = columns or _Columns(batch, self._layout)
                units = unit_vectors(batch.vectors, self.width)
                if first:
                    self._check_width(batch, units)
                read = self._rows(batch, units, columns)
                if first:
                    _check_references(batch, read)
                if left is not None:
                    left -= len(batch)
                yield read
            if columns is None:
                raise SourceError(f"{printable(str(path))} has no rows: give a file with vectors, or leave it out")
            if left is not None and left <= 0:
                return

    def _check_width(self, batch: RowBatch, units: UnitVectors) -> None:
        [(found, _)] = units.widths.most_common(1) or [(None, 0)]
        if found is None:
            return
        if self.width is None:
            self.width = found
        elif self.width not in units.widths:
            raise VectorWidthError(batch.name, found, self.width)

    def _rows(self, batch: RowBatch, units: UnitVectors, columns: _Columns) -> ReadRows:
        found: list[tuple[int, GivenVector]] = []
        rejected: list[RejectedItem] = []
        for at, row in enumerate(columns.rows(batch)):
            reference = None
            try:
                if at in batch.malformed:
                    raise InvalidReferenceError(batch.malformed[at])
                frame = columns.frame(row)
                reference = columns.reference(batch, at, row) if frame is None else frame.reference
                if at in units.errors:
                    raise InvalidVectorError(units.errors[at])
                fields = fields_of(columns.others(row), exported=columns.exported, is_frame=frame is not None)
                found.append((at, _given(reference, units.vectors[at], fields, frame)))
            except ImageError as exc:
                rejected.append(_rejected(batch, at, reference, exc))
        repeated = self._repeats.add([each.item.image for _, each in found])
        for (at, each), again in zip(found, repeated, strict=True):
            if again:
                reason = f"an earlier row is of the same image, {each.item.image}"
                rejected.append(_rejected(batch, at, None, RepeatedReferenceError(reason)))
        given = [each for (_, each), again in zip(found, repeated, strict=True) if not again]
        return ReadRows(given=given, rejected=rejected, rescaled=units.rescaled)


class _Columns:
    """Which columns of a file are what, as its first rows tell."""

    def __init__(self, batch: RowBatch, layout: Layout) -> None:
        if not batch.columns and batch.malformed:
            raise SourceError(f"no row of {batch.name} can be used: {batch.place(0)}: {batch.malformed[0]}")
        self._base = layout.base
        self.exported = is_export(batch.columns)
        self._template: Template | None = None
        self._reference = reference_column(batch.columns, layout.reference, layout.base, batch.name)
        if layout.template is not None:
            if layout.reference is None:  # only what is named goes into a template, or what is an id by its name
                self._reference = self._reference if "{}" in layout.template else None
            self._template = template_of(layout.template, batch.columns, batch.name)
        elif self._reference is None:
            has = ", ".join(map(printable, batch.columns)) or "no other columns"
            others = "".join(
                f"; {printable(column)!r} has {counted(count, 'value')}, but the file has "
                f"{counted(batch.total, 'vector')}"
                for column, count in batch.other_lengths.items()
                if column.lower() in REFERENCE_NAMES
            )
            raise SourceError(
                f"{batch.name} does not say which images its vectors are of: it has {has}{others}. Name the column "
                "with paths or URLs with --reference, or make references of the rows' numbers with "
                "--reference-template 'https://example.org/{}.jpg'"
            )
        if self._reference is not None and isinstance(batch.columns[self._reference], UnreadableColumn):
            raise object_error(batch.name, self._reference)

    def rows(self, batch: RowBatch) -> Iterator[dict[str, Any]]:
        """Yield the rows with their values by column."""
        names = list(batch.columns)
        if not names:
            yield from ({} for _ in range(len(batch)))
            return
        for values in zip(*batch.columns.values(), strict=True):
            yield dict(zip(names, values, strict=True))

    def reference(self, batch: RowBatch, at: int, row: Mapping[str, Any]) -> str:
        """Return the reference of a row.

        Raises:
            InvalidReferenceError: it has none, or a malformed one.
        """
        own = batch.indexes[at] if self._reference is None else row.get(self._reference)
        if self._template is not None:
            return reference_of(self._template(row, own), self._base)
        return reference_of(own, self._base)

    def frame(self, row: Mapping[str, Any]) -> Frame | None:
        """Return the frame of a video that a row of an export is, with its reference; None for an image.

        Raises:
            InvalidReferenceError: the frame's time is missing or malformed, or the video's reference is.
        """
        if not self.exported or self._template is not None or self._reference is None:
            return None
        return frame_of(row.get(self._reference), row.get("video"), row.get("video_time"), self._base)

    def others(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row without its reference, unless a template was made of it."""
        if self._reference is not None and self._template is None:
            return {name: value for name, value in row.items() if name != self._reference}
        return row


def _given(reference: str, vector: np.ndarray, fields: dict[str, Any], frame: Frame | None) -> GivenVector:
    facts = {name: fields.pop(name, None) for name in ("sha256", "byte_size", "width", "height", "colour")}
    if frame is not None:
        facts |= {"video": frame.video, "video_time": frame.time_s}
    elif "modified_at" not in fields and not is_url(reference):
        fields["modified_at"] = _modified_at(reference)
        facts["reads_file"] = fields["modified_at"] is not None
    source = fields.pop("source", SOURCE)
    item = SourceItem(image=reference, source=source, **fields)
    return GivenVector(item=item, embedding=vector, **facts)


def _modified_at(path: str) -> datetime | None:
    """Return the time of a file on this machine, by which a later ingest notices changes; None if there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return file_time(status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _rejected(batch: RowBatch, at: int, reference: str | None, error: ImageError) -> RejectedItem:
    return RejectedItem(
        image=printable(reference or f"{batch.name}:{batch.numbers[at]}"),
        source=SOURCE,
        error=type(error)(f"{batch.place(at)}: {error}"),
    )


def _check_references(batch: RowBatch, read: ReadRows) -> None:
    """Refuse a file none of whose first rows has a usable reference: it would only fill the list of failures."""
    errors = Counter(type(each.error) for each in read.rejected)
    if len(batch) and errors[InvalidReferenceError] == len(batch):
        raise SourceError(f"no row of {batch.name} can be used: {read.rejected[0].error}")
