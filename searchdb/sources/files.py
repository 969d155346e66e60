"""Turns folders, files and globs into SourceItems, in a stable order and in constant memory."""

# Strings and os.path instead of Path objects, which would take most of the time of a large walk.
# ruff: noqa: PTH100, PTH111, PTH112, PTH114, PTH115, PTH116, PTH118, PTH120, PTH206, PTH208

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from searchdb.errors import FileUnreadableError, ImageError, InvalidReferenceError, SourceError
from searchdb.records import MAX_REFERENCE_BYTES, RejectedItem, SourceItem
from searchdb.sources import printable
from searchdb.sources.exclusion import IGNORE_FILE, Exclusion, Rules

SOURCE = "files"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def files(paths: Sequence[str | Path], *, exclusion: Exclusion | None = None) -> Iterator[SourceItem | RejectedItem]:
    """Yield every regular file under the paths, with any extension: decoding decides whether it is an image.

    Folders are walked recursively in the order of names. Globs may contain `**`, and `~` is the home folder. A path
    that exists is taken literally even if it looks like a glob. Hidden files and folders are skipped unless they are
    named explicitly, and so is what `exclusion` leaves out, by default only clutter. Symbolic links to files are
    followed, symbolic links to folders inside a folder are not.

    `image` is the absolute path with the symbolic links of the named folder resolved, so that a file has the same
    reference for every spelling of its folder. `source_id` is the path below the named folder (for a glob: below its
    part without wildcards; for a file: its name) and `tags` are the names of the folders on that path. A file below two
    of the paths is yielded once; only overlapping globs may repeat one.

    Raises:
        SourceError: a path does not exist or a glob matches nothing. Raised before anything is yielded.
    """
    exclusion = exclusion or Exclusion()
    return _items(_arguments(paths, exclusion), exclusion)


def folders(paths: Sequence[str | Path], *, exclusion: Exclusion | None = None) -> list[str]:
    """Return the folders among the paths, each a prefix of its files' `image`, without nested ones.

    Raises:
        SourceError: as for `files`.
    """
    exclusion = exclusion or Exclusion()
    found: dict[str, None] = {}
    for argument in _arguments(paths, exclusion):
        matches = (path for path, _ in argument.matches(exclusion))
        found |= {path: None for path in matches if os.path.isdir(path) and not os.path.islink(path)}
    roots = set(found)
    return [path for path in found if not _covered(path, roots, exclusion)]


def files_in(
    folder: str, *, root: str, exclusion: Exclusion, recursive: bool = True
) -> Iterator[SourceItem | RejectedItem]:
    """Yield what a walk of `root`, one of `folders`, yields from this folder in it, or `root` itself.

    That is nothing if the walk leaves the folder out, or if it is no longer there. Without `recursive` the folder's own
    files only.
    """
    rules = _rules_on_the_way(folder, root, exclusion)
    if rules is not None:
        yield from _walk(folder, below=root, rules=rules, recursive=recursive)


def folders_in(folder: str, *, root: str, exclusion: Exclusion) -> Iterator[str]:
    """Yield the readable folders that a walk of `root` enters: this one in it, or `root` itself, and those below it."""
    rules = _rules_on_the_way(folder, root, exclusion)
    waiting = [] if rules is None else [(folder, rules)]
    while waiting:
        each, rules = waiting.pop()
        try:
            _check_reference(each)
            with os.scandir(each) as entries:
                below = [e.path for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
        except (OSError, InvalidReferenceError):
            continue
        yield each
        try:
            inside = rules.inside(each)
        except ImageError:
            continue
        waiting += ((path, inside) for path in below if not inside.excludes(path, is_folder=True))


def named_paths(paths: Sequence[str | Path]) -> list[str]:
    """Return the absolute folders and files that the paths name, as a walk would yield them.

    Raises:
        SourceError: as for `files`.
    """
    exclusion = Exclusion()
    return [path for argument in _arguments(paths, exclusion) for path, _ in argument.matches(exclusion)]


def missing(paths: Sequence[str | Path]) -> dict[str | Path, str]:
    """Return the paths that neither exist nor are globs, each with the absolute path that its files had."""
    named = {path: os.path.expanduser(path) for path in paths}
    return {
        path: os.path.realpath(name)
        for path, name in named.items()
        if name and "\0" not in os.fspath(name) and not os.path.lexists(name) and not glob.has_magic(os.fspath(name))
    }


# --- Arguments ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Argument:
    """One path or glob: its resolved folder, and the parts of the pattern below it (none for a plain path)."""

    base: str
    parts: tuple[str, ...] = ()

    def matches(self, exclusion: Exclusion, *, counting: bool = False) -> Iterator[tuple[str, Rules]]:
        """Yield each existing path that it matches once, with the rules of its folder; a plain path has its own."""
        rules = exclusion.rules(self.base, counting=counting)
        return iter(((self.base, rules),)) if not self.parts else _matches(self.base, self.parts, rules)


def _arguments(paths: Sequence[str | Path], exclusion: Exclusion) -> list[_Argument]:
    """Check all paths before any of them is read, and return them."""
    arguments: dict[_Argument, None] = {}
    for path in paths:
        named = os.path.expanduser(path)
        if os.path.lexists(named):
            argument = _Argument(base=_resolved(named))
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
    return _join(os.path.realpath(folder), name)


def _glob(pattern: str) -> _Argument:
    parts = pattern.split(os.sep)
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    if os.pardir in parts[wild:]:
        raise SourceError(f"{printable(pattern)!r} has '..' after a wildcard; give the folders one by one")
    base = os.sep.join(parts[:wild]) or (os.sep if wild else os.curdir)
    names = [part for part in parts[wild:] if part]
    # `**/**` matches what `**` does, in many more ways.
    names = [name for name, before in zip(names, [None, *names], strict=False) if not name == before == "**"]
    return _Argument(base=os.path.realpath(base), parts=tuple(names))


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
            paths = (_join(each, name) for name in names if not name.startswith("."))
            below = [path for path in paths if stat.S_ISDIR(_mode(path)) and not inside.skips(path, is_folder=True)]
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
        path = _join(folder, name)
        is_folder = stat.S_ISDIR(_mode(path))
        if (rest and not is_folder) or inside.skips(path, is_folder=is_folder):
            continue
        if rest:
            yield from _matches(path, rest, inside)
        else:
            yield path, inside


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


# --- Items ----------------------------------------------------------------------------------------


def _items(arguments: list[_Argument], exclusion: Exclusion) -> Iterator[SourceItem | RejectedItem]:
    named = {argument.base for argument in arguments if not argument.parts}
    walked: set[str] = set()  # folders that a glob matched
    for argument in arguments:
        for path, rules in argument.matches(exclusion, counting=True):
            if _covered(path, named, exclusion) or _covered(path, walked, exclusion):
                continue
            if argument.parts and (path in named or path in walked):
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                if argument.parts:
                    walked.add(path)
                yield from _walk(path, below=argument.base, rules=rules)
                continue
            item = _item(path, below=argument.base if argument.parts else os.path.dirname(path))
            if item is not None:
                yield item


def _walk(root: str, *, below: str, rules: Rules, recursive: bool = True) -> Iterator[SourceItem | RejectedItem]:
    """Yield a folder's files depth first, in the order of names; only the names in open folders are in memory."""
    pending: list[tuple[str, list[str], Rules]] = [("", [root], rules)]
    while pending:
        folder, names, rules = pending[-1]
        if not names:
            pending.pop()
            continue
        path = _join(folder, names.pop())
        is_folder = path == root or stat.S_ISDIR(_mode(path))
        if path != root and (rules.skips(path, is_folder=is_folder) or (is_folder and not recursive)):
            continue
        if not is_folder:
            item = _item(path, below=below)
            if item is not None:
                yield item
            continue
        try:
            _check_reference(path)  # once for the folder, so that an invalid one is not reported for each file
            inside = os.listdir(path)
        except InvalidReferenceError as exc:
            yield _rejected(path, exc)
        except OSError as exc:
            yield _rejected(path, FileUnreadableError(f"the folder cannot be read: {exc.strerror or exc}"))
        else:
            try:
                rules_inside = rules.inside(path) if IGNORE_FILE in inside else rules
            except ImageError as exc:
                yield _rejected(_join(path, IGNORE_FILE), exc)
                continue
            names = sorted((name for name in inside if not name.startswith(".")), reverse=True)
            pending.append((path, names, rules_inside))


def _item(path: str, *, below: str) -> SourceItem | RejectedItem | None:
    """Return the record for one file; None for a symbolic link to a folder."""
    try:
        _check_reference(path)
        status = os.stat(path)
    except InvalidReferenceError as exc:
        return _rejected(path, exc)
    except FileNotFoundError:
        return _rejected(path, FileUnreadableError(f"the file {_reason_missing(path)}"))
    except OSError as exc:
        return _rejected(path, FileUnreadableError(f"the file cannot be read: {exc.strerror or exc}"))
    if stat.S_ISDIR(status.st_mode):
        return None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown type")
        return _rejected(path, FileUnreadableError(f"the file is {kind}, not a regular file"))
    if not os.access(path, os.R_OK):
        return _rejected(path, FileUnreadableError("the file cannot be read: permission denied"))
    relative = path.removeprefix(below).lstrip(os.sep)
    return SourceItem(
        image=path,
        source=SOURCE,
        source_id=relative,
        tags=tuple(relative.split(os.sep)[:-1]),
        byte_size=status.st_size,
        modified_at=_file_time(status.st_mtime_ns),
    )


def _check_reference(path: str) -> None:
    try:
        size = len(path.encode())
    except UnicodeEncodeError as exc:
        raise InvalidReferenceError("the name is not valid UTF-8; rename it") from exc
    if size > MAX_REFERENCE_BYTES:
        raise InvalidReferenceError(f"the path is {size:,} bytes long, the limit is {MAX_REFERENCE_BYTES:,}")


def _reason_missing(path: str) -> str:
    try:
        return f"is a symbolic link to {printable(os.readlink(path))!r}, which does not exist"
    except OSError:
        return "no longer exists"


def _file_time(nanoseconds: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:  # a wrong clock set a year past 9999
        return None


def _rejected(path: str, error: ImageError) -> RejectedItem:
    return RejectedItem(image=printable(path), source=SOURCE, error=error)


def _rules_on_the_way(folder: str, root: str, exclusion: Exclusion) -> Rules | None:
    """Return the rules with which a walk of a folder comes to one in it; None if it does not."""
    if os.path.realpath(folder) != folder or not os.path.isdir(folder):  # beyond a symbolic link, or no longer there
        return None
    rules, above = exclusion.rules(root), root
    for name in folder.removeprefix(root).split(os.sep):
        if not name:
            continue
        try:
            rules = rules.inside(above)
        except ImageError:
            return None
        above = _join(above, name)
        if name.startswith(".") or rules.excludes(above, is_folder=True):
            return None
    return rules


def _covered(path: str, roots: set[str], exclusion: Exclusion) -> bool:
    """Return whether a walk of one of these folders yields this path: nothing on the way is hidden or excluded."""
    names: list[str] = []
    folder = path
    while folder not in roots or folder == path:
        folder, name = os.path.split(folder)
        if not name or name.startswith("."):
            return False
        names.append(name)
    rules = exclusion.rules(folder)
    while names:
        try:
            rules = rules.inside(folder)
        except ImageError:
            return False
        folder = _join(folder, names.pop())
        if rules.excludes(folder, is_folder=bool(names) or stat.S_ISDIR(_mode(folder))):
            return False
    return True


def _join(folder: str, name: str) -> str:
    return os.path.join(folder, name)
