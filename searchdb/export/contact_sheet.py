"""Makes a contact sheet: one HTML file with thumbnails in it, which needs no server, no network and no script."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from searchdb.clock import clock
from searchdb.errors import ImageError
from searchdb.export.destination import Sink
from searchdb.export.links import MAX_TEXT_CHARACTERS, link_to, shortened, shown_name, web_link
from searchdb.export.originals import Originals, Thumbnail, in_order
from searchdb.export.report import ExportFailure, ExportReport
from searchdb.export.rows import Row
from searchdb.export.templates import load_template

if TYPE_CHECKING:
    from jinja2 import Template

SHEET_COLUMNS = (
    "id", "image", "rendition", "source", "description", "credit", "credit_url", "page_url", "taken_at", "camera",
    "country", "city", "rating", "width", "height", "colour", "video", "video_time",
)  # fmt: skip
"""What a sheet shows of each image, beside its similarity and relevance."""
MAX_SHEET_IMAGES = 1000
"""Most images of one sheet: about 20 MB with their thumbnails, which a browser still scrolls and prints well."""

_COLOUR = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True, kw_only=True)
class SheetHead:
    """What a sheet says above its images: its title, and the parts of the query and the filters with their values."""

    title: str
    parts: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One image of the sheet, as text."""

    rank: int
    name: str
    link: str | None
    thumbnail: str | None
    width: int
    height: int
    missing: str | None
    colour: str
    time: str | None
    similarity: str | None
    relevance: str | None
    description: str | None
    stars: int
    facts: Sequence[str]
    credit: str | None
    credit_link: str | None


def write_contact_sheet(
    sink: Sink,
    rows: Sequence[Row],
    head: SheetHead,
    originals: Originals,
    *,
    target: str,
    folder: Path | None,
    progress: Callable[[int], None],
) -> ExportReport:
    """Write the sheet and return the report, whose failures are the images without a thumbnail.

    Thumbnails are data URIs; the originals are links, by paths relative to `folder` or by URL.

    Args:
        sink: takes the HTML in UTF-8.
        rows: have SHEET_COLUMNS, and may have `similarity` and `relevance`; at most MAX_SHEET_IMAGES.
        head: what stands above the images.
        originals: makes the thumbnails.
        target: name of the sheet, for the report.
        folder: where the sheet will be; without one, links to files are `file:` URLs.
        progress: called with the number of images done so far.
    """
    report = ExportReport(target=target, format="html")
    place = None if folder is None else os.path.realpath(folder)

    def cells() -> Generator[_Cell]:
        with closing(in_order(lambda row: _thumbnail(originals, row), rows)) as thumbnails:
            for rank, (row, made) in enumerate(zip(rows, thumbnails, strict=True), 1):
                if isinstance(made, ExportFailure):
                    report.failed.append(made)
                report.exported += 1
                yield _cell(rank, row, made, place)
                progress(rank)

    with closing(cells()) as all_cells:
        scores = _scores(rows)
        made_on = datetime.now(UTC).date().isoformat()
        for part in _template().generate(head=head, cells=all_cells, count=len(rows), made_on=made_on, scores=scores):
            sink.write(part.encode())
    return report


def _scores(rows: Sequence[Row]) -> str:
    """Return the names of the numbers of each image, which on paper have no title; empty without a search."""
    relevance = "relevance to the text (%) and " if any(row.get("relevance") is not None for row in rows) else ""
    return f"{relevance}cosine similarity" if rows and "similarity" in rows[0] else ""


@cache
def _template() -> Template:
    return load_template(Path(__file__).with_name("contact_sheet.html"))


def _thumbnail(originals: Originals, row: Row) -> Thumbnail | ExportFailure:
    try:
        return originals.thumbnail(row)
    except ImageError as exc:
        return ExportFailure.of(row["id"], row["image"], exc)


def _cell(rank: int, row: Row, made: Thumbnail | ExportFailure, folder: str | None) -> _Cell:
    reference: str = row["video"] or row["image"]
    failed = isinstance(made, ExportFailure)
    data = None if failed else f"data:image/webp;base64,{base64.b64encode(made.data).decode()}"
    similarity, relevance = row.get("similarity"), row.get("relevance")
    taken_at = row["taken_at"]
    place = ", ".join(part for part in (row["city"], row["country"]) if part)
    facts = (taken_at.date().isoformat() if isinstance(taken_at, datetime) else None, place, row["camera"])
    return _Cell(
        rank=rank,
        name=shortened(shown_name(reference)) or reference[:MAX_TEXT_CHARACTERS],
        link=link_to(reference, folder, row["video_time"]),
        thumbnail=data,
        width=row["width"] or 1 if failed else made.width,
        height=row["height"] or 1 if failed else made.height,
        missing=shortened(made.message) if failed else None,
        colour=row["colour"] if _COLOUR.fullmatch(row["colour"] or "") else "#808080",
        time=None if row["video_time"] is None else clock(row["video_time"], whole=True),
        similarity=None if similarity is None else f"{similarity:.3f}",
        relevance=None if relevance is None else f"{100 * relevance:.0f} %",
        description=shortened(row["description"]),
        stars=max(0, row["rating"] or 0),
        facts=[shown for fact in facts if fact and (shown := shortened(fact))],
        credit=shortened(row["credit"]),
        credit_link=web_link(row["credit_url"] or row["page_url"]),
    )
