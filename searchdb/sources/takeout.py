"""Finds the JSON file that Google Takeout wrote for a photo, whose name it shortens, numbers and shares."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

SUFFIX = ".json"
MAX_NAME = 46
"""Characters of the JSON file's name without `.json`; Takeout cuts what is longer."""
EDITED = (
    "-edited", "-effects", "-smile", "-mix", "-bearbeitet", "-modifié", "-modificato", "-ha editado", "-editado",
    "-editat", "-bewerkt", "-edytowane", "-編集済み",
)  # fmt: skip
"""Ends of the names of edited pictures in several languages; they have no JSON file but that of the original."""

_SUPPLEMENT = "supplemental-metadata"
_NUMBERED = re.compile(r"(.*)(\(\d{1,9}\))")
_NUMBERED_STEM = re.compile(r"(.*)(\(\d{1,9}\))(\.[^.]*)?")


class TakeoutNames:
    """The JSON files of one folder that may be Takeout's, by the photos' names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._found: dict[str, str] = {}
        for name in sorted(names, key=len, reverse=True):  # of two for one photo, the shorter name counts
            self._found[_described(name[: -len(SUFFIX)])] = name

    def of(self, photo: str) -> str | None:
        """Return the name of a photo's JSON file; None if it has none."""
        return next((self._found[each] for each in _wanted(photo) if each in self._found), None)


def describes(name: str, suffixes: Collection[str]) -> bool:
    """Whether a JSON file, by its name, is one of Takeout's for a file with one of these suffixes, in lower case."""
    base = name[: -len(SUFFIX)]
    described = _described(base)
    numbered = _NUMBERED.fullmatch(described)
    photo = numbered[1] if numbered else described
    return f".{photo.rpartition('.')[2].lower()}" in suffixes or f".{_SUPPLEMENT}" in base


def _described(base: str) -> str:
    """Return the photo's name that a JSON file's name begins with, then the number.

    `x.jpg.supplemental-me` gives `x.jpg`, and `x.jpg.supplemental-metadata(1)` gives `x.jpg(1)`.
    """
    numbered = _NUMBERED.fullmatch(base)
    whole, number = numbered.groups() if numbered else (base, "")
    photo, _, last = whole.rpartition(".")
    return (photo if photo and _SUPPLEMENT.startswith(last) else whole) + number


def _wanted(photo: str) -> Iterator[str]:
    """Yield what the JSON file's name may begin with, the likeliest first."""
    for name in (photo, *_originals(photo)):
        numbered = _NUMBERED_STEM.fullmatch(name)
        forms = [(name, "")]
        if numbered:  # x(1).jpg has x.jpg(1).json
            forms.append((numbered[1] + (numbered[3] or ""), numbered[2]))
        for whole, number in forms:
            yield whole + number
            if len(whole) > MAX_NAME - len(number):
                yield whole[:MAX_NAME] + number
                yield whole[: MAX_NAME - len(number)] + number


def _originals(photo: str) -> Iterator[str]:
    """Yield the name of the original of an edited picture: x.jpg for x-edited.jpg, and x(1).jpg for x-edited(1).jpg."""
    stem, dot, suffix = photo.rpartition(".")
    numbered = _NUMBERED.fullmatch(stem)
    plain, number = numbered.groups() if numbered else (stem, "")
    for end in EDITED:
        if dot and plain.endswith(end):
            yield f"{plain.removesuffix(end)}{number}.{suffix}"
