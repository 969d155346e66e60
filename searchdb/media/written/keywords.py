"""Makes tags of keywords, also of those that are paths in a hierarchy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from searchdb.media.written.text import MAX_NAME_CHARACTERS, one_line

MAX_KEYWORDS = 200
"""Keywords that are kept of one image: twice what agencies accept. Each is an entry in the index on tags."""

_OF_PROGRAMS = ("darktable", "_Digikam_Internal_Tags_")
"""First parts of paths under which programs keep notes of their own."""


def flat(paths: Iterable[str], separator: str) -> Iterator[str]:
    """Yield each part of each path, from the widest to the narrowest: `Places|Italy|Rome` is three keywords."""
    for path in paths:
        parts = path.split(separator)
        if parts[0].strip() not in _OF_PROGRAMS:
            yield from parts


def united(*groups: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct keywords of all groups in their order, in NFC, at most MAX_KEYWORDS.

    A keyword of more than MAX_NAME_CHARACTERS is left out: half a text says less than none.
    """
    kept: dict[str, None] = {}
    for group in groups:
        for text in group:
            if len(kept) == MAX_KEYWORDS:
                return tuple(kept)
            keyword = one_line(text, limit=MAX_NAME_CHARACTERS + 1)
            if keyword is not None and len(keyword) <= MAX_NAME_CHARACTERS:
                kept[keyword] = None
    return tuple(kept)
