"""What a visitor asks for, read from the query string and written back into links."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from searchdb.errors import ImageNotFoundError, QueryError
from searchdb.search import MAX_HITS, Query

PAGE_SIZE = 40
"""Hits on a page: ten rows or so on a wide screen. Divides MAX_HITS."""
LAST_PAGE = MAX_HITS // PAGE_SIZE
DEFAULT_THRESHOLD = 0.0
_LARGEST_ID = 2**63 - 1
_LONGEST_NUMBER = 20
"""Characters: more than any number that means something here, and few enough to repeat in a message."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One search as the address bar has it: `?q=…&like=…&not=…&threshold=…&page=…`."""

    text: str | None = None
    like: int | None = None
    exclude: str | None = None
    threshold: float | None = None
    page: int = 1

    @classmethod
    def from_args(cls, args: Mapping[str, str]) -> Ask:
        """Read a query string; what is empty counts as not given.

        Raises:
            QueryError: a number is none, or out of range.
            ImageNotFoundError: `like` is no id that a picture can have.
        """
        like = _whole(args, "like", "the picture's id")
        if like is not None and not 0 <= like <= _LARGEST_ID:
            raise ImageNotFoundError(like)
        page = _whole(args, "page", "the page")
        if page is not None and not 1 <= page <= LAST_PAGE:
            raise QueryError(f"there are pages 1 to {LAST_PAGE}: a search goes no deeper than {MAX_HITS:,} hits")
        return cls(
            text=_words(args.get("q", "")),
            like=like,
            exclude=_words(args.get("not", "")),
            threshold=_decimal(args, "threshold", "the threshold"),
            page=page or 1,
        )

    @property
    def empty(self) -> bool:
        """Whether nothing is looked for."""
        return self.text is None and self.like is None and self.exclude is None

    @property
    def query(self) -> Query:
        """The search itself."""
        return Query(text=self.text, like=self.like, exclude=self.exclude)

    @property
    def least(self) -> float:
        """The least similarity of a hit."""
        return DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    @property
    def offset(self) -> int:
        """Hits before this page."""
        return (self.page - 1) * PAGE_SIZE

    def args(self, **changes: Any) -> dict[str, Any]:
        """Return the query string's arguments, without those not given, for url_for."""
        ask = replace(self, **changes)
        given = {
            "q": ask.text,
            "like": ask.like,
            "not": ask.exclude,
            "threshold": ask.threshold,
            "page": ask.page if ask.page > 1 else None,
        }
        return {name: value for name, value in given.items() if value is not None}


def _words(text: str) -> str | None:
    """Return the text with control characters and runs of blanks as single blanks; None when nothing is left."""
    shown = "".join(" " if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)
    return " ".join(shown.split()) or None


def _whole(args: Mapping[str, str], name: str, label: str) -> int | None:
    text = args.get(name, "").strip()
    if not text:
        return None
    try:
        if len(text) <= _LONGEST_NUMBER:
            return int(text)
    except ValueError:
        pass
    raise QueryError(f"{label} is {_shortened(text)!r}: a whole number is expected")


def _decimal(args: Mapping[str, str], name: str, label: str) -> float | None:
    text = args.get(name, "").strip()
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise QueryError(f"{label} is {_shortened(text)!r}: a number from -1 to 1 is expected") from None


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}…"
