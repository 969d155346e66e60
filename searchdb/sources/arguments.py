"""Turns paths and globs as a person gives them into the folders and files that they name."""

# Strings and os.path instead of Path objects, which would take most of the time of a large walk.
# ruff: noqa: PTH100, PTH111, PTH112, PTH118, PTH206, PTH208

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from searchdb.errors import ImageError, SourceError
from searchdb.sources import printable
from searchdb.sources.exclusion import Exclusion, Rules


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One path or glob: its resolved folder, and the parts of the pattern below it (none for a plain path)."""

    base: str
    parts: tuple[str, ...] = ()

    def matches(self, exclusion: Exclusion, *, counting: bool = False) -> Iterator[tuple[str, Rules]]:
        """Yield each existing path that it matches once, with the rules of its folder; a plain path has its own."""
        rules = exclusion.rules(self.base, counting=counting)
        return iter(((self.base, rules),)) if not self.parts else _matches(self.base, self.parts, rules)


def read_arguments(paths: Sequence[str | Path], exclusion: Exclusion) -> list[Argument]:
    """Check all paths before any of them is read, and return them."""
    arguments: dict[Argument, None] = {}
    for path in paths:
        named = os.path.expanduser(path)
        if os.path.lexists(named):
            argument = Argument(base=_resolved(named))
        elif glob.has_magic(named):
            argument = _glob(named)
            if next(argument.matches(exclusion), None) is None:
                raise SourceError(
                    f"nothing matches {printable(named)!r}; check the spelling, and begin patterns for hidden names "
                    "with a dot"
                )
        else:
            raise SourceError(f"{printable(named)!r} does not exist; give a folder, a file or a glob")
        arguments[argument] = None
    return list(arguments)


def _resolved(path: str) -> str:
    """Return a folder resolved, and a file as its name in its resolved folder, as a walk would yield it."""
    if os.path.isdir(path):
        return os.path.realpath(path)
    folder, name = os.path.split(os.path.abspath(path))
    return join(os.path.realpath(folder), name)


def _glob(pattern: str) -> Argument:
    parts = pattern.split(os.sep)
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    if os.pardir in parts[wild:]:
        raise SourceError(f"{printable(pattern)!r} has '..' after a wildcard; give the folders one by one")
    base = os.sep.join(parts[:wild]) or (os.sep if wild else os.curdir)
    names = [part for part in parts[wild:] if part]
    # `**/**` matches what `**` does, in many more ways.
    names = [name for name, before in zip(names, [None, *names], strict=False) if not name == before == "**"]
    return Argument(base=os.path.realpath(base), parts=tuple(names))


def _matches(folder: str, parts: tuple[str, ...], rules: Rules) -> Iterator[tuple[str, Rules]]:
    """Yield the paths below a folder that match the parts of a pattern.

    The standard library's glob does not sort, and under `**` it follows symbolic links to folders, even in a cycle.
    """
    part, rest = parts[0], parts[1:]
    if part == "**":
        if not rest:
            yield folder, rules
            return
        waiting = [(folder, rules)]
        while waiting:  # not by recursion: folders may be nested deeper than Python's calls
            each, of_each = waiting.pop()
            yield from _matches(each, rest, of_each)
            try:
                names, inside = sorted(os.listdir(each)), of_each.inside(each)
            except (OSError, ImageError):
                continue
            paths = (join(each, name) for name in names if not name.startswith("."))
            below = [path for path in paths if stat.S_ISDIR(mode_of(path)) and not inside.skips(path, is_folder=True)]
            waiting += ((path, inside) for path in reversed(below))
        return
    try:
        names = sorted(os.listdir(folder))
        inside = rules.inside(folder)
    except (OSError, ImageError):
        if os.path.isdir(folder):
            yield folder, rules  # walking it then reports why it cannot be read
        return
    for name in names:
        if not fnmatch.fnmatchcase(name, part) or (name.startswith(".") and not part.startswith(".")):
            continue
        path = join(folder, name)
        is_folder = stat.S_ISDIR(mode_of(path))
        if (rest and not is_folder) or inside.skips(path, is_folder=is_folder):
            continue
        if rest:
            yield from _matches(path, rest, inside)
        else:
            yield path, inside


def mode_of(path: str) -> int:
    """Return the mode of a file, folder or link itself; 0 if there is none."""
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def join(folder: str, name: str) -> str:
    """Return the path of what is in a folder."""
    return os.path.join(folder, name)
