"""Turns folders, files and globs into SourceItems, in a stable order and in constant memory."""

# Strings and os.path instead of Path objects, which would take most of the time of a large walk.
# ruff: noqa: PTH111, PTH112, PTH114, PTH115, PTH116, PTH119, PTH206, PTH208

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from searchdb.errors import FileUnreadableError, ImageError, InvalidReferenceError
from searchdb.records import MAX_REFERENCE_BYTES, Companion, RejectedItem, SourceItem, nfc
from searchdb.sources import printable
from searchdb.sources.arguments import Argument, join, mode_of, read_arguments
from searchdb.sources.companions import FolderPairs, Role, file_time
from searchdb.sources.exclusion import IGNORE_FILE, Exclusion, Rules

SOURCE = "files"

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def files(paths: Sequence[str | Path], *, exclusion: Exclusion | None = None) -> Iterator[SourceItem | RejectedItem]:
    """Yield every regular file under the paths, with any extension: decoding decides whether it is an image.

    Files that belong to an image beside them are its `companions` and no items: sidecars, and the RAW file or the video
    of one that the camera stored in two files. For one that is named itself, its image is ingested. They are counted in
    `exclusion`, and so is a sidecar without an image, which is left out.

    Folders are walked recursively in the order of names. Globs may contain `**`, and `~` is the home folder. A path
    that exists is taken literally even if it looks like a glob. Hidden files and folders are skipped unless they are
    named explicitly, and so is what `exclusion` leaves out, by default only clutter. Symbolic links to files are
    followed, symbolic links to folders inside a folder are not.

    `image` is the absolute path with the symbolic links of the named folder resolved, so that a file has the same
    reference for every spelling of its folder. `source_id` is the path below the named folder (for a glob: below its
    part without wildcards; for a file: its name), `tags` are the names of the folders on that path, and `folder` is the
    named folder's name and these. A file below two of the paths is yielded once; only overlapping globs may repeat one.

    Raises:
        SourceError: a path does not exist or a glob matches nothing. Raised before anything is yielded.
    """
    exclusion = exclusion or Exclusion()
    return _items(read_arguments(paths, exclusion), exclusion)


def folders(paths: Sequence[str | Path], *, exclusion: Exclusion | None = None) -> list[str]:
    """Return the folders among the paths, each a prefix of its files' `image`, without nested ones.

    Raises:
        SourceError: as for `files`.
    """
    exclusion = exclusion or Exclusion()
    found: dict[str, None] = {}
    for argument in read_arguments(paths, exclusion):
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
    return [path for argument in read_arguments(paths, exclusion) for path, _ in argument.matches(exclusion)]


def missing(paths: Sequence[str | Path]) -> dict[str | Path, str]:
    """Return the paths that neither exist nor are globs, each with the absolute path that its files had."""
    named = {path: os.path.expanduser(path) for path in paths}
    return {
        path: os.path.realpath(name)
        for path, name in named.items()
        if name and "\0" not in os.fspath(name) and not os.path.lexists(name) and not glob.has_magic(os.fspath(name))
    }


# --- Items ----------------------------------------------------------------------------------------


def _items(arguments: list[Argument], exclusion: Exclusion) -> Iterator[SourceItem | RejectedItem]:
    named = {argument.base for argument in arguments if not argument.parts}
    walked: set[str] = set()  # folders that a glob matched
    pairs = _PairsOfFolder()
    described: set[str] = set()  # images whose sidecars or parts were named
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
            folder, name = os.path.split(path)
            beside = pairs.of(folder, rules if argument.parts else _rules_in(folder, exclusion))
            role, images = beside.role(name), [name]
            if role is not None:
                _count(exclusion, role)
                found = {each: join(folder, each) for each in beside.images(name)}
                images = [each for each, image in found.items() if image not in named and image not in described]
                if argument.parts:  # those that the glob itself matches are yielded in their turn
                    images = [each for each in images if not fnmatch.fnmatchcase(each, argument.parts[-1])]
                described |= {found[each] for each in images}
            for each in images:
                below = argument.base if argument.parts else folder
                item = _item(join(folder, each), below=below, companions=beside.companions(each))
                if item is not None:
                    yield item


class _PairsOfFolder:
    """What belongs together in the folder of a named file, kept for the next file, which is mostly in the same one."""

    def __init__(self) -> None:
        self._folder: str | None = None
        self._pairs = _pairs("", [], Exclusion().rules(""))

    def of(self, folder: str, rules: Rules) -> FolderPairs:
        if folder != self._folder:
            try:
                names = os.listdir(folder)
            except OSError:  # the file can be read nevertheless, if it is named
                names = []
            self._folder, self._pairs = folder, _pairs(folder, names, rules)
        return self._pairs


def _pairs(folder: str, names: Sequence[str], rules: Rules) -> FolderPairs:
    visible = sorted(name for name in names if not name.startswith("."))
    return FolderPairs(folder, visible, partial(rules.excludes, is_folder=False))


def _rules_in(folder: str, exclusion: Exclusion) -> Rules:
    """Return the rules for what is in the folder of a named file."""
    rules = exclusion.rules(folder)
    try:
        return rules.inside(folder)
    except ImageError:
        return rules


def _count(exclusion: Exclusion | None, role: Role) -> None:
    if exclusion is not None:
        exclusion.parts += role == "part"
        exclusion.sidecars += role == "sidecar"
        exclusion.count += role == "lone sidecar"


def _walk(root: str, *, below: str, rules: Rules, recursive: bool = True) -> Iterator[SourceItem | RejectedItem]:
    """Yield a folder's files depth first, in the order of names; only the names in open folders are in memory."""
    pending: list[tuple[str, list[str], Rules, FolderPairs]] = [("", [root], rules, _pairs("", [], rules))]
    while pending:
        folder, names, rules, pairs = pending[-1]
        if not names:
            pending.pop()
            continue
        name = names.pop()
        path = join(folder, name)
        is_folder = path == root or stat.S_ISDIR(mode_of(path))
        if path != root and (rules.skips(path, is_folder=is_folder) or (is_folder and not recursive)):
            continue
        if not is_folder:
            if (role := pairs.role(name)) is not None:
                _count(rules.exclusion, role)
                continue
            item = _item(path, below=below, companions=pairs.companions(name))
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
                yield _rejected(join(path, IGNORE_FILE), exc)
                continue
            names = sorted((name for name in inside if not name.startswith(".")), reverse=True)
            pending.append((path, names, rules_inside, _pairs(path, names, rules_inside)))


def _item(path: str, *, below: str, companions: Sequence[Companion]) -> SourceItem | RejectedItem | None:
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
    tags, folder = _place(relative.rpartition(os.sep)[0], below)
    return SourceItem(
        image=path,
        source=SOURCE,
        source_id=relative,
        tags=tags,
        folder=folder,
        companions=companions,
        byte_size=status.st_size,
        modified_at=file_time(status.st_mtime_ns),
    )


@lru_cache(maxsize=16)  # most files are in the folder of the one before
def _place(relative: str, below: str) -> tuple[tuple[str, ...], str | None]:
    """Return the tags and the folder of the files in a folder, given by its path below the named folder."""
    names = tuple(relative.split(os.sep)) if relative else ()
    return names, nfc("/".join(filter(None, (os.path.basename(below), *names)))) or None


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
        above = join(above, name)
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
        folder = join(folder, names.pop())
        if rules.excludes(folder, is_folder=bool(names) or stat.S_ISDIR(mode_of(folder))):
            return False
    return True
