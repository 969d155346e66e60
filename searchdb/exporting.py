"""Exporting from a collection: tables of rows, folders of files, contact sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from searchdb.db.current_model import current_model
from searchdb.errors import ExportError, QueryError
from searchdb.export.columns import COLUMNS, ExportColumn, chosen_columns, with_vectors
from searchdb.export.contact_sheet import MAX_SHEET_IMAGES, SHEET_COLUMNS, SheetHead, write_contact_sheet
from searchdb.export.destination import Sink, file_sink
from searchdb.export.folder import FOLDER_COLUMNS, MAX_FOLDER_FILES, fill_folder
from searchdb.export.originals import Originals
from searchdb.export.report import ExportReport
from searchdb.export.rows import Row, Selection, selected_rows
from searchdb.export.tables import HTML, NPZ, checked_format, write_table
from searchdb.records import LARGEST_ID, Hit
from searchdb.search.filter_table import FILTERS
from searchdb.search.filters import Filters
from searchdb.search.ranking import FIRST_HITS
from searchdb.switching import SwitchingCollection

DEFAULT_HITS = FIRST_HITS
"""Results of a search that are exported unless a number is given."""
STREAM = "-"

ExportProgress = Callable[[int, int | None], None]
"""Called with the number of images done so far, and the number of all if it is known."""

_FILTER_NAMES = frozenset(row.name for row in FILTERS)


def no_progress(done: int, total: int | None) -> None:
    """Ignore the progress."""


class ExportingCollection(SwitchingCollection):
    """A collection with the methods that export from it."""

    def export(
        self,
        target: str | Path | Sink,
        text: str | None = None,
        *,
        format: str | None = None,  # noqa: A002 - the field's name for it
        columns: Sequence[str] | None = None,
        count: int | None = None,
        vectors: bool = False,
        keep_formulas: bool = False,
        progress: ExportProgress = no_progress,
        **search: Any,
    ) -> ExportReport:
        """Export the results of a search, best first, or all images that filters select, by ascending id.

        The file has its name only when it is complete, and replaces a file of this name. A table is written in constant
        memory, from one snapshot of the collection.

        Args:
            target: a file, or something with `write(bytes)`.
            text: what to search for; `search` may have other parts of a query.
            format: csv, tsv, jsonl, parquet, npz or html; by default what the file's extension says. `html` is a
                contact sheet: one file with thumbnails, of at most MAX_SHEET_IMAGES images.
            columns: of a table, names of `searchdb.export.columns.COLUMNS`; by default all but vectors and details, for
                which `*` stands.
            vectors: add the vectors, so that `ingest_vectors` can read the file; an npz always has them.
            count: the most images; by default DEFAULT_HITS for a search, otherwise all.
            keep_formulas: leave texts in CSV and TSV as they are that spreadsheets take for formulas.
            progress: called with the number of images done, and of all if it is known.
            search: the arguments of `SearchDB.search`: parts of a query, limits, filters.

        Raises:
            ExportError: the format or a column is unknown, or there are too many images for a contact sheet.
            QueryError: the query or a filter is wrong.
            StorageError: the file cannot be written.
        """
        name = str(target) if isinstance(target, str | Path) else STREAM
        form = checked_format(format, name)
        if vectors and form == HTML:
            raise ExportError("a contact sheet has no vectors: choose another format", field="format")
        if vectors or form == NPZ:
            columns = with_vectors(columns)
        if form == HTML and columns is not None:
            raise ExportError("a contact sheet has no columns: leave them out", field="columns")
        searched = _is_search(text, search)
        chosen = () if form == HTML else chosen_columns(columns, searched=searched)
        selection = self._selection(text, count, search)
        if isinstance(target, str | Path):
            path = Path(target).expanduser()
            opened, folder = file_sink(path), path.parent
        else:
            opened, folder = nullcontext(target), None
        if form == HTML:
            rows = self._all_rows(selection, SHEET_COLUMNS, MAX_SHEET_IMAGES, "a contact sheet")
            head = _head(text, search)
            with opened as sink:
                return write_contact_sheet(
                    sink,
                    rows,
                    head,
                    self._originals(selection),
                    target=name,
                    folder=folder,
                    progress=lambda done: progress(done, len(rows)),
                )
        about = self._about_model() if any(column.name == "embedding" for column in chosen) else {}
        with selected_rows(self._reading_engine(selection), selection, chosen) as rows, opened as sink:
            exported = write_table(
                sink,
                form,
                chosen,
                rows,
                keep_formulas=keep_formulas,
                about=about,
                progress=lambda done: progress(done, selection.total),
            )
        return ExportReport(target=name, format=form, exported=exported)

    def export_folder(
        self,
        target: str | Path,
        text: str | None = None,
        *,
        copy: bool = False,
        count: int | None = None,
        progress: ExportProgress = no_progress,
        **search: Any,
    ) -> ExportReport:
        """Fill the folder `target` with symbolic links to images, or copies, named by rank, such as `001 harbour.jpg`.

        Nothing that exists is overwritten, and what an earlier call wrote is kept: another call completes an
        interrupted export. Images at URLs are downloaded, only with `copy`. Frames of videos are small images. What
        fails is in the report. See `export` for the other arguments.

        Raises:
            ExportError: there are more than MAX_FOLDER_FILES images.
            QueryError: the query or a filter is wrong.
            StorageError: the folder cannot be made or written.
        """
        selection = self._selection(text, count, search)
        rows = self._all_rows(selection, FOLDER_COLUMNS, MAX_FOLDER_FILES, "a folder")
        return fill_folder(
            Path(target).expanduser(),
            rows,
            self._originals(selection),
            copy=copy,
            progress=lambda done: progress(done, len(rows)),
        )

    def _find(self, **arguments: Any) -> list[Hit]:
        """Search with the arguments of `SearchDB.search`."""
        raise NotImplementedError

    def _selection(self, text: str | None, count: int | None, search: Mapping[str, Any]) -> Selection:
        """Return what to export: a search is run, filters are only checked."""
        if count is not None and count < 1:
            raise QueryError(f"the count is {count}, but it starts at 1", field="count")
        if _is_search(text, search):
            return Selection(hits=self._find(text=text, count=count or DEFAULT_HITS, **search))
        if parts := [name for name, value in search.items() if name not in _FILTER_NAMES and not _is_empty(value)]:
            raise QueryError(
                f"{parts[0]} is given with nothing to search for: add a text, an image or the id of a stored image",
                field=parts[0],
            )
        filters = {name: value for name, value in search.items() if name in _FILTER_NAMES}
        # More than LIMIT takes means all.
        return Selection(filters=Filters(**filters), count=None if count is None else min(count, LARGEST_ID))

    def _all_rows(self, selection: Selection, names: tuple[str, ...], limit: int, what: str) -> list[Row]:
        """Return all rows, of which `what` can have `limit`."""
        wanted: list[ExportColumn] = [COLUMNS[name] for name in names]
        if selection.hits is not None:
            wanted += [COLUMNS["similarity"], COLUMNS["relevance"]]
        elif selection.count is None or selection.count > limit:
            selection = Selection(filters=selection.filters, count=limit + 1)
        with selected_rows(self._reading_engine(selection), selection, wanted) as rows:
            found: list[Row] = [dict(row) for row in rows]
        if len(found) > limit:
            raise ExportError(
                f"more than {limit:,} images are selected, and {what} has at most that many: give a count, or filter "
                "further"
            )
        return found

    def _reading_engine(self, selection: Selection) -> Engine:
        """Return the database to export from: the one in DATABASE_URL_READ if it is set."""
        raw = selection.hits is None and selection.filters.where is not None
        return self.database.reader if raw or self.settings.reader_url() is not None else self.database.engine

    def _originals(self, selection: Selection) -> Originals:
        return Originals(
            self._reading_engine(selection),
            self.fetcher,
            max_pixels=self.settings.max_image_pixels,
            memory=self.memory,
        )

    def _about_model(self) -> dict[str, str]:
        with self.database.connect() as connection:
            model = current_model(connection)
        return {} if model is None else {"model": model.name, "weights_sha256": model.weights_sha256.hex()}


def _is_search(text: str | None, search: Mapping[str, Any]) -> bool:
    return text is not None or any(not _is_empty(search.get(name)) for name in ("image", "like"))


def _is_empty(value: Any) -> bool:
    """Whether an argument is as if it was not given: a threshold of 0, for example."""
    return value is None or value in ((), [], 0.0)


def _head(text: str | None, search: Mapping[str, Any]) -> SheetHead:
    """Return what a contact sheet says above its images."""
    given = {name: value for name, value in search.items() if not _is_empty(value)}
    filters = Filters(**{name: value for name, value in given.items() if name in _FILTER_NAMES}).to_json()
    labels = {row.name: row.label for row in FILTERS} | {"exclude": "not"}
    shown = {name: value for name, value in given.items() if name not in _FILTER_NAMES} | filters
    parts = [(labels.get(name, name.replace("_", " ")), _in_words(value)) for name, value in shown.items()]
    return SheetHead(title=text or ("Search by image" if _is_search(text, search) else "All images"), parts=parts)


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple | set):
        return ", ".join(map(str, value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
