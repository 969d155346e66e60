"""Decides what a walk of folders leaves out: built-in clutter, patterns of the caller, and `.searchdbignore` files."""

# Strings and os.path instead of Path objects, which would take most of the time of a large walk.
# ruff: noqa: PTH118, PTH119, PTH123

from __future__ import annotations

import fnmatch
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pathspec import GitIgnoreSpec

from searchdb.errors import FileUnreadableError, InvalidReferenceError, SourceError

IGNORE_FILE = ".searchdbignore"
"""Name of the files with patterns, in the syntax of .gitignore, for the folder they are in and those below."""
MAX_IGNORE_BYTES = 1 << 20
"""Largest such file: it is read as a whole, and anything larger is not a list of patterns."""

CLUTTER_FOLDERS = (
    # Network storage: Synology, QNAP
    "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot",
    # Windows, Linux, macOS
    "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "lost+found", "__MACOSX", "Network Trash Folder",
    "Temporary Items",
    # Previews of Lightroom and Capture One
    "*.lrdata", "CaptureOne/Cache",
    # All but the photographs in the libraries of Apple's Photos, iPhoto and Aperture
    *(
        f"{library}/{folder}"
        for library in ("*.photoslibrary", "*.photolibrary", "*.aplibrary")
        for folder in ("resources", "database", "internal", "private", "scopes", "Previews", "Thumbnails")
    ),
)  # fmt: skip
"""Folders that hold no photographs of their own, by name or by `parent/name`, in any case."""
CLUTTER_FILES = (
    "Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "Picasa.ini", "Icon\r", "SYNOPHOTO_*", "SYNOFILE_*",
    # Edits of Apple's Photos; thumbnails and small copies that cameras write beside videos
    "*.aae", "*.thm", "*.lrv",
    # Google Takeout's, of albums and accounts
    "metadata.json", "print-subscriptions.json", "shared_album_comments.json", "user-generated-memory-titles.json",
)  # fmt: skip
"""Files that desktops, network storage, cameras and services put beside photographs, by name, in any case."""


@dataclass(frozen=True, kw_only=True)
class _Pattern:
    """One line of patterns: the expression of its paths, relative to a folder, and whether it excludes them."""

    expression: re.Pattern[str]
    excludes: bool

    def matches(self, path: str, *, is_folder: bool) -> bool:
        """Whether it matches this path itself rather than only a folder above it, or what is in it."""
        return self._ends(path, -1) or (is_folder and self._ends(f"{path}/", len(path) + 1))

    def _ends(self, path: str, end: int) -> bool:
        """Whether it matches, and the name of a folder that it marks ends there; -1 if it marks none."""
        marks = _FOLDER_MARK in self.expression.groupindex
        return any((found.end(_FOLDER_MARK) if marks else -1) == end for found in self.expression.finditer(path))


_SEVERAL_STARS = re.compile(r"(?:\[\^/\]\*){2,}")
_BETWEEN_STARS = re.compile(r"\[\^/\]\*((?:\[\^/\](?!\*)|(?!\[\^/\])[^/()|])+)(?=\[\^/\]\*)")
"""In an expression of pathspec, a `*`, what follows it in the same name, and a look at the next `*`."""
_FOLDER_MARK = "ps_d"
"""The group in which pathspec marks the slash after the name of a folder."""


@dataclass(kw_only=True)
class Exclusion:
    """The patterns of one walk, and what it has met that is no item.

    `count` is the number of files and folders that it has left out; a folder counts once. `sidecars` and `parts` are
    the numbers of files that belong to an image beside them: that describe it, or are a RAW file or a video of it.

    Raises:
        SourceError: a pattern is malformed.
    """

    patterns: str | Sequence[str] = ()
    count: int = 0
    sidecars: int = 0
    parts: int = 0

    def __post_init__(self) -> None:
        patterns = [self.patterns] if isinstance(self.patterns, str) else self.patterns
        try:
            self._compiled = [_compile(pattern) for pattern in patterns]
        except InvalidReferenceError as exc:
            raise SourceError(f"{exc}; --exclude takes the patterns of .gitignore files") from exc

    def rules(self, folder: str, *, counting: bool = False) -> Rules:
        """Return the rules for a named folder itself, to which the patterns are relative."""
        return Rules(own=_Level(folder=folder, patterns=self._compiled), exclusion=self if counting else None)


@dataclass(frozen=True, kw_only=True)
class _Level:
    folder: str
    patterns: Sequence[_Pattern]

    def decide(self, path: str, *, is_folder: bool) -> bool | None:
        """Whether the last pattern that matches excludes the path; None if none matches."""
        if not self.patterns:
            return None
        relative = _normal(path[len(self.folder.rstrip(os.sep)) + 1 :])
        for pattern in reversed(self.patterns):
            if pattern.matches(relative, is_folder=is_folder):
                return pattern.excludes
        return None


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for what is in one folder; those of the innermost `.searchdbignore` file come first."""

    own: _Level
    files: Sequence[_Level] = field(default_factory=tuple[_Level, ...])
    exclusion: Exclusion | None = None

    def excludes(self, path: str, *, is_folder: bool) -> bool:
        """Whether to leave out a file or folder that is in this folder."""
        for level in (self.own, *self.files):
            decision = level.decide(path, is_folder=is_folder)
            if decision is not None:
                return decision
        return _is_clutter(path, is_folder=is_folder)

    def skips(self, path: str, *, is_folder: bool) -> bool:
        """Do the same as `excludes`, and count what is left out."""
        excluded = self.excludes(path, is_folder=is_folder)
        if excluded and self.exclusion is not None:
            self.exclusion.count += 1
        return excluded

    def inside(self, folder: str) -> Rules:
        """Return the rules for what is in a folder of this folder, with those of its `.searchdbignore`.

        Raises:
            FileUnreadableError: the file cannot be read.
            InvalidReferenceError: one of its patterns is malformed.
        """
        lines = _read(os.path.join(folder, IGNORE_FILE))
        if lines is None:
            return self
        patterns: list[_Pattern] = []
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#"):
                try:
                    patterns.append(_compile(line))
                except InvalidReferenceError as exc:
                    raise InvalidReferenceError(f"line {number}: {exc}; until then its folder is skipped") from exc
        return replace(self, files=(_Level(folder=folder, patterns=patterns), *self.files))


def _read(path: str) -> list[str] | None:
    """Return the lines of a `.searchdbignore`; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_IGNORE_BYTES:
            raise FileUnreadableError(
                f"it is not a regular file of at most {MAX_IGNORE_BYTES:,} bytes; until then its folder is skipped"
            )
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            return file.read().split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        # Without its rules, what it excludes would be ingested.
        raise FileUnreadableError(
            f"it cannot be read: {exc.strerror or exc}; until then its folder is skipped"
        ) from exc


def _compile(line: str) -> _Pattern:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # of `re`, for POSIX classes such as [[:alpha:]]
            (pattern,) = GitIgnoreSpec.from_lines([_normal(line)]).patterns
    except (ValueError, re.error, FutureWarning) as exc:
        raise InvalidReferenceError(f"the pattern {line!r} is malformed") from exc
    expression: re.Pattern[str] | None = getattr(pattern, "regex", None)
    if pattern.include is None or expression is None:
        raise InvalidReferenceError(f"the pattern {line!r} matches nothing")
    return _Pattern(expression=re.compile(_linear(expression.pattern)), excludes=pattern.include)


def _linear(expression: str) -> str:
    """Return pathspec's expression without the backtracking of several `*` in one name, which could take hours.

    What is between two `*` matches at the first place where it can, as in `fnmatch.translate`.
    """
    return _BETWEEN_STARS.sub(r"(?>[^/]*?\1)", _SEVERAL_STARS.sub("[^/]*", expression))


def _normal(text: str) -> str:
    """Return a name or pattern in the form in which é is one character: file systems of macOS may have two."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _one_expression(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile names into one expression of `parent/name`, which is faster than one for each."""
    whole = (pattern if "/" in pattern else f"*/{pattern}" for pattern in patterns)
    return re.compile("|".join(map(fnmatch.translate, whole)), re.IGNORECASE)


_CLUTTER = {True: _one_expression(CLUTTER_FOLDERS), False: _one_expression(CLUTTER_FILES)}


def _is_clutter(path: str, *, is_folder: bool) -> bool:
    parent, name = os.path.split(path)
    return _CLUTTER[is_folder].match(f"{os.path.basename(parent)}/{name}") is not None
