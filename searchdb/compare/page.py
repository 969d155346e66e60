"""Makes the page of a comparison: one HTML file with both models' lists, which needs no server and no script."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from searchdb.clock import clock
from searchdb.compare.embedding import RankableImage
from searchdb.compare.quality import FEWEST_DIFFERENT
from searchdb.compare.records import Difference, ModelComparison, QueryResult, RankedImage
from searchdb.compare.verdict import HEADLINE, duration, rate, short_name, signed, significance, size, verdict
from searchdb.errors import CompareError, StorageError
from searchdb.export.destination import Sink
from searchdb.export.links import MAX_TEXT_CHARACTERS, link_to, shortened, shown_name
from searchdb.export.templates import load_template
from searchdb.records import mask_credentials

if TYPE_CHECKING:
    from jinja2 import Template

MAX_SHOWN_QUERIES = 100
"""Most queries whose lists are shown: about 10 MB, which a browser still scrolls well. Of more, those that differ most
are shown."""
MAX_SHOWN_LEFT_OUT = 50
GENERATOR = b'<meta name="generator" content="searchdb model compare">'
"""What tells a page of ours from other files."""
_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One image in a list."""

    rank: int
    name: str
    about: str
    link: str | None
    thumbnail: int | None
    time: str | None
    similarity: str
    other_rank: int
    is_only: bool
    is_relevant: bool


@dataclass(frozen=True, kw_only=True)
class _Side:
    """A model's list for one query."""

    letter: str
    other: str
    cells: Sequence[_Cell]


@dataclass(frozen=True, kw_only=True)
class _Section:
    """The lists of one query; `number` is its place among all."""

    number: int
    result: QueryResult
    common: int
    sides: Sequence[_Side]


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """A confidence interval to draw: percentages of a line with 0 in its middle."""

    left: float
    width: float
    middle: float


def check_output(path: Path) -> None:
    """Check that a page may be written: nothing is there, or a page of ours, or no regular file, such as a pipe.

    Raises:
        CompareError: another file is there.
        StorageError: the folder does not exist, or the file cannot be read.
    """
    try:
        if path.is_dir():
            raise CompareError(f"{path} is a folder: name a file in it, such as {path / 'a.html'}", field="output")
        if not path.parent.is_dir():
            raise StorageError(str(path), f"the folder {path.parent} does not exist", full=False)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise StorageError(str(path), "permission denied", full=False)
        if not path.is_file():
            return
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as exc:
        raise StorageError(str(path), exc.strerror or str(exc), full=False) from exc
    if head and GENERATOR not in head:
        raise CompareError(
            f"{path} exists and is not a comparison of models: name another file, or remove it", field="output"
        )


def write_page(
    sink: Sink, comparison: ModelComparison, shown: Mapping[int, RankableImage], *, folder: Path | None
) -> None:
    """Write the page in UTF-8.

    Args:
        sink: takes the HTML.
        comparison: what to show.
        shown: the images of the lists, by id.
        folder: where the page will be; without one, links to files are `file:` URLs.
    """
    place = None if folder is None else os.path.realpath(folder)
    numbered = list(enumerate(comparison.queries, 1))
    if len(numbered) > MAX_SHOWN_QUERIES:
        differing = sorted(numbered, key=lambda each: each[1].rank_biased_overlap)[:MAX_SHOWN_QUERIES]
        numbered = sorted(differing, key=lambda each: each[0])
    sections = [_section(number, result, shown, place) for number, result in numbered]
    used = dict.fromkeys(cell.thumbnail for section in sections for side in section.sides for cell in side.cells)
    thumbnails = ((key, _data_uri(shown[key])) for key in used if key is not None)
    left_out = comparison.left_out[:MAX_SHOWN_LEFT_OUT]
    models = [("A", comparison.first), ("B", comparison.second)]
    parts = _template().generate(
        comparison=comparison,
        models=[(letter, model, short_name(model)) for letter, model in models],
        sentences=list(verdict(comparison)),
        sections=sections,
        shown_numbers={section.number for section in sections},
        thumbnails=thumbnails,
        intervals=_intervals(comparison.differences),
        left_out=[(shortened(each.image), shortened(each.message)) for each in left_out],
        columns=min(comparison.count, comparison.compared, 10),
        made_on=datetime.now(UTC).date().isoformat(),
        headline=HEADLINE,
        fewest=FEWEST_DIFFERENT,
    )
    for part in parts:
        sink.write(part.encode())


@cache
def _template() -> Template:
    return load_template(
        Path(__file__).with_name("page.html"),
        rate=rate,
        duration=duration,
        size=size,
        significance=significance,
        signed=signed,
    )


def _section(number: int, result: QueryResult, shown: Mapping[int, RankableImage], folder: str | None) -> _Section:
    count = len(result.first)
    return _Section(
        number=number,
        result=result,
        common=round(result.overlap * count),
        sides=[
            _Side(letter=letter, other=other, cells=[_cell(each, shown[each.id], count, folder) for each in ranked])
            for letter, other, ranked in (("A", "B", result.first), ("B", "A", result.second))
        ],
    )


def _cell(ranked: RankedImage, image: RankableImage, count: int, folder: str | None) -> _Cell:
    reference = image.video or image.image
    name = shortened(shown_name(reference)) or mask_credentials(reference)[:MAX_TEXT_CHARACTERS]
    return _Cell(
        rank=ranked.rank,
        name=name,
        about=shortened(image.description) or name,
        link=link_to(reference, folder, image.video_time),
        thumbnail=None if image.thumbnail is None else image.id,
        time=None if image.video_time is None else clock(image.video_time, whole=True),
        similarity=f"{ranked.similarity:.3f}",
        other_rank=ranked.other_rank,
        is_only=ranked.other_rank > count,
        is_relevant=bool(ranked.relevant),
    )


def _data_uri(image: RankableImage) -> str:
    assert image.thumbnail is not None  # noqa: S101 - those without one are not drawn
    return f"data:image/webp;base64,{base64.b64encode(image.thumbnail.data).decode()}"


def _intervals(differences: Sequence[Difference]) -> dict[str, _Interval]:
    """Return the intervals on one scale, which reaches as far to both sides of 0."""
    reach = max((max(abs(each.low), abs(each.high), abs(each.difference)) for each in differences), default=0.0) or 1.0

    def place(value: float) -> float:
        return round(50 + 46 * value / reach, 2)

    return {
        each.figure: _Interval(
            left=place(each.low), width=place(each.high) - place(each.low), middle=place(each.difference)
        )
        for each in differences
    }
