"""Finds stored images whose files no longer exist, and removes them unless that looks like a disk that is not there."""

# Strings and os.path instead of Path objects, which would take most of the time in a large collection.
# ruff: noqa: PTH120, PTH208

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from searchdb.errors import ConfigError, SourceError
from searchdb.ingest.frames import StoredFile
from searchdb.ingest.presence import is_gone
from searchdb.ingest.store import Store

Prune = bool | Literal["always"]
"""Whether to remove images whose files are gone: `True` only unless most of a folder's are, `"always"` in any case."""

MANY_OF_A_FOLDER = 100
"""Lost images from which on a direct sub-folder may be a disk that is not there: few deleted albums are larger."""
MANY_OF_AN_EMPTY_FOLDER = 10
"""The same for a folder that still exists and holds nothing but hidden files: deleted albums go with their folder, a
mount point stays, perhaps with a marker."""
EXAMPLES = 3
"""Paths shown of a loss."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """A folder most of whose stored images are gone: `gone` of `stored`, with a few of their paths."""

    folder: str
    gone: int
    stored: int
    examples: Sequence[str]

    def __str__(self) -> str:
        return (
            f"{self.gone:,} of the {self.stored:,} images stored from {self.folder} are gone, "
            f"such as {', '.join(self.examples)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"folder": self.folder, "gone": self.gone, "stored": self.stored, "examples": list(self.examples)}


@dataclass(kw_only=True)
class GoneFiles:
    """The stored images and frames of videos whose files are gone, and the folders that lost most of theirs."""

    images: list[StoredFile] = field(default_factory=list[StoredFile])
    losses: list[Loss] = field(default_factory=list[Loss])

    @property
    def files(self) -> int:
        """The number of files that are gone: one for all frames of a video."""
        return len({each.file for each in self.images})


@dataclass(kw_only=True)
class _Tally:
    stored: int = 0
    gone: int = 0
    examples: list[str] = field(default_factory=list[str])

    def add(self, other: _Tally) -> None:
        self.stored += other.stored
        self.gone += other.gone
        self.examples = [*self.examples, *other.examples][:EXAMPLES]

    def loss(self, folder: str) -> Loss:
        return Loss(folder=folder, gone=self.gone, stored=self.stored, examples=tuple(self.examples))


def find_gone(store: Store, roots: Iterable[str]) -> GoneFiles:
    """Return the images stored from below these folders whose files are gone, and what makes their number suspicious.

    A folder is a loss if more than half of the images stored from it are gone. A sub-folder must also have lost many:
    MANY_OF_AN_EMPTY_FOLDER at any depth, or MANY_OF_A_FOLDER directly below one of the folders.
    """
    found = GoneFiles()
    seen: set[int] = set()  # a folder may be named beside one that it is in
    for root in roots:
        tallies: dict[str, _Tally] = {}
        videos: dict[str, bool] = {}  # whether each is gone
        for each in store.images_under(root):
            if each.file in videos:
                gone = videos[each.file]
            else:
                gone = is_gone(each.file)
                tally = tallies.setdefault(os.path.dirname(each.file), _Tally())
                tally.stored += 1
                tally.gone += gone
                if gone and tally.gone <= EXAMPLES:
                    tally.examples.append(each.file)
            if each.is_frame:
                videos[each.file] = gone
            if gone and each.id not in seen:
                seen.add(each.id)
                found.images.append(each)
        found.losses += _losses(root, tallies)
    return found


def check_prune(prune: object, *, complete: bool) -> None:
    """Refuse any other value than those of `Prune`, which would count as true, and to prune without a complete ingest.

    Raises:
        ConfigError: it is another value, or it removes images although `complete` is false.
    """
    if prune is not True and prune is not False and prune != "always":
        raise ConfigError(f"prune is {prune!r}, but must be True, False or 'always'")
    if prune and not complete:
        raise ConfigError(
            "prune needs a complete ingest, so that moved files keep their images: leave out limit and enqueue_only"
        )


def check_missing(store: Store, roots: Iterable[str], prune: Prune) -> None:
    """Refuse named paths that do not exist, unless images that are stored from there are to be removed in any case.

    Raises:
        SourceError: one of them must exist; the message says how to remove the images stored from there.
    """
    for root in roots:
        stored = len({each.file for each in store.images_under(root)})
        if not stored:
            raise SourceError(f"{root!r} does not exist; give a folder, a file or a glob")
        if prune != "always":
            raise SourceError(
                f"{root!r} does not exist, but {stored:,} images are stored from there: mount its disk or, "
                "if it was deleted or moved on purpose, remove them with --prune --yes"
            )


def _losses(root: str, tallies: dict[str, _Tally]) -> Iterator[Loss]:
    """Yield the losses below a folder, of nested ones only the outermost."""
    totals: dict[str, _Tally] = {}
    for folder, tally in tallies.items():
        for ancestor in _up_to(root, folder):
            totals.setdefault(ancestor, _Tally()).add(tally)
    found: list[str] = []
    for folder in sorted(totals):  # each folder before those in it
        total = totals[folder]
        if total.gone * 2 <= total.stored or any(folder.startswith(_inside(outer)) for outer in found):
            continue
        many = total.gone >= MANY_OF_A_FOLDER and os.path.dirname(folder) == root
        if folder == root or many or (total.gone >= MANY_OF_AN_EMPTY_FOLDER and _shows_nothing(folder)):
            found.append(folder)
            yield total.loss(folder)


def _up_to(root: str, folder: str) -> Iterator[str]:
    """Yield the folder and those above it, up to the root; only the root for a named file's own folder."""
    while folder.startswith(_inside(root)) and folder != root:
        yield folder
        folder = os.path.dirname(folder)
    yield root


def _inside(folder: str) -> str:
    """Return what the paths of all files in a folder begin with."""
    return folder.rstrip(os.sep) + os.sep


def _shows_nothing(folder: str) -> bool:
    """Whether it is a folder, without anything in it that a walk would look at."""
    try:
        return all(name.startswith(".") for name in os.listdir(folder))
    except OSError:
        return False
