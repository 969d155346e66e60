"""A search as the page's URL has it: read from the query string, and written back into links."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from werkzeug.datastructures import MultiDict

from searchdb.errors import ImageNotFoundError, QueryError
from searchdb.records import LARGEST_ID, ModelIdentity
from searchdb.search.combination import MIDDLE
from searchdb.search.filter_table import FILTERS, PUBLIC_FILTERS, FilterRow, Kind
from searchdb.search.filters import Filters
from searchdb.search.searcher import MAX_HITS, Query

from .. import vector_param as vectors

PAGE_SIZE = 40
"""Hits on a page: about ten rows on a wide screen. Divides MAX_HITS."""
LAST_PAGE = MAX_HITS // PAGE_SIZE
MOST_CHIPS = 30
"""Values of one filter that are shown one by one, each with the URL of the search without it."""
DEFAULT_THRESHOLD = 0.0
DEFAULT_RADIUS_KM = 50.0
"""Radius for a place that is given without one: a city and its surroundings."""
_LONGEST_NUMBER = 20
"""Characters of the longest number accepted; short enough to repeat in a message."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One value of a filter that is set, and the search without it."""

    label: str
    value: str
    without: SearchRequest


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """One search as the URL has it: `?q=…&like=…&not=…&threshold=…&page=…`, and filters by their names.

    `vector` is the image to search by, in the form that `web.vector_param` writes. `text_weight` counts only where the
    search `is_balanced`: a form without scripts sends it with what remains of a search, too.
    """

    text: str | None = None
    like: tuple[int, ...] = ()
    unlike: tuple[int, ...] = ()
    exclude: str | None = None
    text_weight: float | None = None
    threshold: float | None = None
    min_relevance: float | None = None
    filters: Filters = Filters()  # noqa: RUF009 - frozen
    vector: str | None = None
    page: int = 1

    @classmethod
    def from_args(cls, args: MultiDict[str, str]) -> SearchRequest:
        """Read a query string; what is empty counts as not given.

        Raises:
            QueryError: a number or a filter is malformed or out of range, or `where`, which is SQL, is given.
            ImageNotFoundError: an id in `like` or `unlike` is out of range.
        """
        page = _whole(args, "page", "the page")
        if page is not None and not 1 <= page <= LAST_PAGE:
            raise QueryError(
                f"there are pages 1 to {LAST_PAGE}: a search goes no deeper than {MAX_HITS:,} hits", field="page"
            )
        return cls(
            text=_words(args.get("q", "")),
            like=_ids(args, "like"),
            unlike=_ids(args, "unlike"),
            exclude=_words(args.get("not", "")),
            text_weight=_decimal(args, "text_weight", "the weight of the text"),
            threshold=_decimal(args, "threshold", "the similarity"),
            min_relevance=_decimal(args, "min_relevance", "the relevance"),
            filters=_filters(args),
            vector=args.get("vector", "").strip() or None,
            page=page or 1,
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to search for."""
        return not (self.text or self.like or self.unlike or self.exclude or self.vector)

    @property
    def is_balanced(self) -> bool:
        """Whether a text and an image are looked for, between which there is a balance."""
        return self.text is not None and (bool(self.like) or self.vector is not None)

    @property
    def balance(self) -> float:
        """What the text counts, 0 to 1; the images count the rest."""
        return MIDDLE if self.text_weight is None else self.text_weight

    @property
    def needs_model(self) -> bool:
        """Whether the model is needed for it, as it is for all but stored images."""
        return bool(self.text or self.exclude or self.vector)

    def query(self, model: Callable[[], ModelIdentity]) -> Query:
        """Return the query of the search; only for a vector the model is asked for.

        Raises:
            QueryError: the vector is malformed, or was made by another model.
        """
        vector = None if self.vector is None else vectors.from_text(self.vector, model())
        return Query(
            text=self.text,
            vector=vector,
            like=self.like,
            unlike=self.unlike,
            exclude=self.exclude,
            text_weight=self.text_weight if self.is_balanced else None,
        )

    @property
    def least(self) -> float:
        """The least similarity of a hit."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    @property
    def offset(self) -> int:
        """Hits before this page."""
        return (self.page - 1) * PAGE_SIZE

    @property
    def unfiltered(self) -> SearchRequest:
        """The search without filters."""
        return replace(self, filters=Filters(), page=1)

    def elsewhere(self, **looked_for: Any) -> dict[str, Any]:
        """Return the arguments of another search within the same filters."""
        return SearchRequest(filters=self.filters, **looked_for).args()

    @property
    def fields(self) -> Iterator[tuple[str, str]]:
        """Names and values of the hidden fields that repeat this search in a form, from its first page."""
        for name, value in self.args(page=1).items():
            for each in value if isinstance(value, list) else [value]:
                yield name, str(each)

    @property
    def chips(self) -> Iterator[Chip]:
        """The values of the filters that are set, one by one."""
        labels = {row.name: row.label for row in FILTERS}
        for name, value in _given(self.filters).items():
            label = labels[name]
            if name == "near":
                around = f"{value}, {self.filters.radius_km:g} km around"
                yield Chip(label=label, value=around, without=self._with(near=None, radius_km=None))
            elif name != "radius_km":
                values = value if isinstance(value, list) else [value]
                if len(values) > MOST_CHIPS:
                    yield Chip(label=label, value=f"{len(values)} of them", without=self._with(**{name: None}))
                    continue
                for each in values:
                    left = [other for other in values if other != each] or None
                    shown = str(each).removesuffix("T00:00:00+00:00")
                    yield Chip(label=label, value=shown, without=self._with(**{name: left}))

    def _with(self, **filters: Any) -> SearchRequest:
        return replace(self, filters=replace(self.filters, **filters), page=1)

    def args(self, **changes: Any) -> dict[str, Any]:
        """Return the query string's arguments, without those not given, for url_for."""
        request = replace(self, **changes)
        given = {
            "q": request.text,
            "like": list(request.like) or None,
            "unlike": list(request.unlike) or None,
            "not": request.exclude,
            "text_weight": request.text_weight if request.is_balanced and request.balance != MIDDLE else None,
            "threshold": request.threshold,
            "min_relevance": request.min_relevance,
            **_given(request.filters),
            "vector": request.vector,
            "page": request.page if request.page > 1 else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def _filters(args: MultiDict[str, str]) -> Filters:
    if args.get("where", "").strip():
        raise QueryError(
            "the page does not run SQL from its visitors: `where` is for the command line and for Python", field="where"
        )
    values: dict[str, Any] = {row.name: _filter_value(row, args) for row in PUBLIC_FILTERS}
    if values["near"] and values["radius_km"] is None:
        values["radius_km"] = DEFAULT_RADIUS_KM
    return Filters(**values)


def _filter_value(row: FilterRow, args: MultiDict[str, str]) -> Any:
    """Return what the query string gives for a filter; None, or an empty list, where it gives nothing."""
    if row.kind is Kind.NAMES:
        return [each for each in args.getlist(row.name) if each.strip()]
    if row.kind is Kind.IDS:
        return [_number(each, row.name, "the image's id") for each in args.getlist(row.name) if each.strip()]
    if row.kind is Kind.WHOLE:
        return _whole(args, row.name, row.label)
    if row.kind is Kind.DECIMAL:
        return _decimal(args, row.name, row.label)
    return args.get(row.name, "").strip() or None


def _ids(args: MultiDict[str, str], name: str) -> tuple[int, ...]:
    ids = [_number(each, name, "the image's id") for each in args.getlist(name) if each.strip()]
    for each in ids:
        if not 0 <= each <= LARGEST_ID:
            raise ImageNotFoundError(each)
    return tuple(dict.fromkeys(ids))


def _given(filters: Filters) -> dict[str, Any]:
    """Return the filters that are set, as a query string has them."""
    given = filters.to_json()
    if "near" in given:
        given["near"] = ",".join(f"{degrees:g}" for degrees in given["near"])
    return given


def _words(text: str) -> str | None:
    """Return the text with control characters and runs of blanks as single blanks; None when nothing is left."""
    shown = "".join(" " if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)
    return " ".join(shown.split()) or None


def _whole(args: Mapping[str, str], name: str, label: str) -> int | None:
    text = args.get(name, "").strip()
    if not text:
        return None
    return _number(text, name, label)


def _number(text: str, name: str, label: str) -> int:
    try:
        if len(text) <= _LONGEST_NUMBER:
            return int(text)
    except ValueError:
        pass
    raise QueryError(f"{label} is {_shortened(text)!r}: a whole number is expected", field=name)


def _decimal(args: Mapping[str, str], name: str, label: str) -> float | None:
    text = args.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise QueryError(f"{label} is {_shortened(text)!r}: a number is expected", field=name) from None


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}…"
