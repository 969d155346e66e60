"""Tells which files of a folder belong to an image beside them, by their names: sidecars, RAW files, Live Photos."""

# Strings and os.path instead of Path objects, which would take most of the time of a large walk.
# ruff: noqa: PTH113, PTH116, PTH118

from __future__ import annotations

import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from searchdb.records import Companion, CompanionKind
from searchdb.sources import takeout

RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kdc", ".mef",
    ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip
"""RAW files, by suffix: what LibRaw reads of cameras that also write a JPEG or HEIC of the same name. Only for pairing;
what a file is that stands alone, its content tells."""
HEIC_SUFFIXES, JPEG_SUFFIXES = (".heic", ".heif", ".hif"), (".jpg", ".jpeg", ".jpe")
"""What cameras write beside a RAW file, and phones beside the video of a Live Photo."""
IMAGE_SUFFIXES = frozenset({
    *RAW_SUFFIXES, *HEIC_SUFFIXES, *JPEG_SUFFIXES, ".png", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".jxl",
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".3gp", ".mpg", ".mp",
})  # fmt: skip
"""Photos and videos, by suffix: the JSON file of one that is missing is a sidecar, and no file that cannot be read."""
MAX_LIVE_BYTES = 24_000_000
"""Largest video of a Live Photo: three seconds take 2 to 7 MB. A larger one of the same name is a video of its own."""

Role = Literal["sidecar", "part", "lone sidecar"]
"""What a file is that is no item: a sidecar of an image, a part of one, or a sidecar whose image is missing."""

_XMP = ".xmp"
_SIDECARS = (_XMP, takeout.SUFFIX)
_VIDEOS = (".mov", ".mp4", ".mp")
_PAIRED = frozenset({*_SIDECARS, *_VIDEOS, *RAW_SUFFIXES})
_PIXEL = re.compile(r"\.RAW-\d+(\.MP)?\.(COVER|ORIGINAL)$")
"""What Google's camera adds to the name of a JPEG and of its RAW file."""
_ORDER: dict[CompanionKind, int] = {"xmp": 0, "takeout": 1, "raw": 2, "live": 3}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FolderPairs:
    """Which of the files of a folder belong to which.

    Args:
        folder: its path.
        names: of the files and folders in it.
        excluded: whether a path is left out of the walk, so that it belongs to nothing and nothing to it.
    """

    def __init__(self, folder: str, names: Iterable[str], excluded: Callable[[str], bool]) -> None:
        self._folder = folder
        self._roles: dict[str, Role] = {}
        self._images: dict[str, list[str]] = defaultdict(list)
        self._beside: dict[str, list[tuple[int, int, str, CompanionKind]]] = defaultdict(list)
        names = list(names)
        if not any(name[name.rfind(".") :].lower() in _PAIRED for name in names):
            return  # most folders have nothing but images
        suffixes = {name: _split(name)[1] for name in names if not excluded(self._path(name))}
        self._named: dict[str, list[str]] = defaultdict(list)
        self._of_stem: dict[str, list[str]] = defaultdict(list)
        for name, suffix in suffixes.items():
            if suffix not in _SIDECARS:
                self._named[_key(name)].append(name)
                self._of_stem[_split(name)[0]].append(name)
        jsons = [name for name, suffix in suffixes.items() if suffix == takeout.SUFFIX]
        self._jsons = takeout.TakeoutNames(jsons)
        for name, suffix in suffixes.items():
            if suffix in RAW_SUFFIXES:
                self._add_part(name, "raw", self._developed(name))
            elif suffix in _VIDEOS:
                self._add_part(name, "live", self._still(name, suffix))
        for name, suffix in suffixes.items():
            if suffix == _XMP:
                self._add_xmp(name)
            elif suffix not in _SIDECARS and jsons and (described := self._jsons.of(name)):
                self._add(described, "takeout", [name])
        for name in jsons:
            if name not in self._roles and takeout.describes(name, IMAGE_SUFFIXES):
                self._roles[name] = "lone sidecar"

    def role(self, name: str) -> Role | None:
        """Return what a file is that is no item; None for an item."""
        return self._roles.get(name)

    def images(self, name: str) -> Sequence[str]:
        """Return the names of the images that a sidecar or a part belongs to."""
        return self._images.get(name, ())

    def companions(self, name: str) -> tuple[Companion, ...]:
        """Return the files that belong to an image, those first whose metadata takes precedence."""
        if name not in self._beside:
            return ()
        found = (self._companion(other, kind) for *_, other, kind in sorted(self._beside[name]))
        return tuple(each for each in found if each is not None)

    def _companion(self, name: str, kind: CompanionKind) -> Companion | None:
        path = self._path(name)
        try:
            status = os.stat(path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Companion(path=path, kind=kind, byte_size=status.st_size, modified_at=file_time(status.st_mtime_ns))

    # --- pairing ----------------------------------------------------------------------------------

    def _add(self, name: str, kind: CompanionKind, images: Iterable[str], *, rank: int = 0) -> None:
        """Make a file belong to images, or to those that they are parts of."""
        self._roles[name] = "part" if kind in ("raw", "live") else "sidecar"
        for is_part, each in sorted((self._roles.get(each) == "part", each) for each in images):
            for image in self._images[each] if is_part else (each,):
                if image not in self._images[name]:
                    self._images[name].append(image)
                    self._beside[image].append((_ORDER[kind], rank + 2 * is_part, name, kind))

    def _add_part(self, name: str, kind: CompanionKind, image: str | None) -> None:
        if image is not None and os.path.isfile(self._path(image)):
            self._add(name, kind, [image])

    def _add_xmp(self, name: str) -> None:
        base = name[: -len(_XMP)]
        if _key(base) in self._named:
            self._add(name, "xmp", self._named[_key(base)])
        elif base in self._of_stem:
            self._add(name, "xmp", self._of_stem[base], rank=1)
        else:
            self._roles[name] = "lone sidecar"

    def _developed(self, name: str) -> str | None:
        """Return the JPEG or HEIC that a RAW file was developed to by the camera."""
        return next(self._beside_it(name, (*JPEG_SUFFIXES, *HEIC_SUFFIXES)), None)

    def _still(self, name: str, suffix: str) -> str | None:
        """Return the picture of a Live Photo or motion photo that this video is part of."""
        if suffix == ".mp":  # PXL_1.MP is beside PXL_1.MP.jpg
            image = next(iter(self._named.get(_key(f"{name}.jpg"), ())), None)
        else:
            image = next(self._beside_it(name, HEIC_SUFFIXES), None)
            jpeg = next(self._beside_it(name, JPEG_SUFFIXES), None)
            # Takeout renames a Live Photo's video to .MP4, and writes no JSON for it. Other JPEGs beside an MP4 may be
            # the posters of films.
            if image is None and jpeg is not None and (suffix == ".mov" or self._only_has_json(jpeg, name)):
                image = jpeg
        try:
            small = image is not None and os.stat(self._path(name)).st_size <= MAX_LIVE_BYTES
        except OSError:
            return None
        return image if small else None

    def _only_has_json(self, image: str, video: str) -> bool:
        return self._jsons.of(image) is not None and self._jsons.of(video) is None

    def _beside_it(self, name: str, suffixes: Sequence[str]) -> Iterator[str]:
        """Yield the files of the same stem that have one of these suffixes, in their order."""
        stem = _split(name)[0]
        pixel = _PIXEL.search(stem)
        others = self._of_stem.get(stem, [])
        if pixel is not None:
            start = stem[: pixel.start()]
            covers = (f"{start}.RAW-01{motion}.COVER" for motion in ("", ".MP"))
            others = [each for cover in covers for each in self._of_stem.get(cover, [])]
        for suffix in suffixes:
            yield from sorted(each for each in others if _split(each)[1] == suffix)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def file_time(nanoseconds: int) -> datetime | None:
    """Return a file's time; None if a wrong clock set a year past 9999."""
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        return None


def _split(name: str) -> tuple[str, str]:
    """Return a name without its suffix, and the suffix in lower case with its dot; empty for none."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot else (name, "")


def _key(name: str) -> str:
    """Return a name in the form in which suffixes differ by case only where they are others."""
    return "".join(_split(name))
