"""Random changes for a while, after which exactly what is on disk is stored, and moved files have kept their ids.

A minute of them, or another seed: TEST_WATCH_S=60 TEST_WATCH_SEED=7 pytest tests/watch/test_random_changes.py
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from searchdb.client import SearchDB
from tests.helpers.waiting import until
from tests.helpers.watching import Watching, draw, failures, ids, on_disk, picture, stored, until_equal

SECONDS = float(os.environ.get("TEST_WATCH_S", "4"))
SEED = int(os.environ.get("TEST_WATCH_SEED", "1"))
KEPT = 30
"""Files that are only moved, in folders that are only moved: their images keep their ids."""

pytestmark = pytest.mark.slow


class Changes:
    """Changes files below a folder at random; `bad` are those that are no images at the end."""

    def __init__(self, folder: Path, outside: Path, seed: int) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._outside = outside
        self._number = 1000
        self.bad: set[Path] = set()
        self.made = 0

    def make(self) -> None:
        """Make one change."""
        changes: list[Callable[[], None]] = [
            self.create, self.create, self.copy, self.rename, self.rename, self.move_kept, self.move_kept,
            self.rename_folder, self.overwrite, self.replace, self.truncate, self.cut, self.delete, self.delete_folder,
            self.fill_folder, self.move_out, self.move_in, self.swap, self.write_slowly, self.touch,
        ]  # fmt: skip
        self._random.choice(changes)()
        self.made += 1

    # The folders `kept*` hold the files that are only moved.

    def _new(self, suffix: str = ".jpg") -> str:
        self._number += 1
        return f"{self._number}{suffix}"

    def _content(self) -> bytes:
        self._number += 1
        return picture(self._number)

    def _folders(self) -> list[Path]:
        found = [path for path in sorted(self._folder.rglob("*")) if path.is_dir() and "kept" not in str(path)]
        return [self._folder, *found]

    def _files(self) -> list[Path]:
        return [path for path in sorted(self._folder.rglob("*.jpg")) if "kept" not in str(path)]

    def _any(self, paths: list[Path]) -> Path | None:
        return self._random.choice(paths) if paths else None

    def _target(self) -> Path:
        return self._random.choice(self._folders()) / self._new()

    def create(self) -> None:
        self._target().write_bytes(self._content())

    def copy(self) -> None:
        if (path := self._any(self._files())) and path not in self.bad:
            shutil.copy2(path, self._target())

    def rename(self) -> None:
        if (path := self._any(self._files())) and path not in self.bad:
            path.rename(self._target())

    def move_kept(self) -> None:
        folders = sorted(self._folder.glob("kept*"))
        path = self._any([path for folder in folders for path in sorted(folder.iterdir())])
        if path:
            path.rename(self._random.choice(folders) / self._new())

    def rename_folder(self) -> None:
        kept = self._random.random() < 0.5
        folders = sorted(self._folder.glob("kept*")) if kept else self._folders()[1:]
        folder = self._any([each for each in folders if not any(bad.is_relative_to(each) for bad in self.bad)])
        if folder:
            parent = self._folder if kept else self._random.choice(self._folders())
            if not parent.is_relative_to(folder):
                folder.rename(parent / f"{'kept' if kept else 'folder'}-{self._new('')}")

    def overwrite(self) -> None:
        if path := self._any(self._files()):
            path.write_bytes(self._content())
            self.bad.discard(path)

    def replace(self) -> None:
        if path := self._any(self._files()):
            fresh = path.with_name(f".{path.name}.AbCdEf")
            fresh.write_bytes(self._content())
            fresh.replace(path)
            self.bad.discard(path)

    def truncate(self) -> None:
        if path := self._any(self._files()):
            os.truncate(path, 0)
            self.bad.add(path)

    def cut(self) -> None:
        if path := self._any(self._files()):
            path.write_bytes(self._content()[:200])
            self.bad.add(path)

    def delete(self) -> None:
        if path := self._any(self._files()):
            path.unlink()
            self.bad.discard(path)

    def delete_folder(self) -> None:
        if (folder := self._any(self._folders()[1:])) and self._random.random() < 0.4:
            shutil.rmtree(folder)
            self.bad = {path for path in self.bad if not path.is_relative_to(folder)}

    def fill_folder(self) -> None:
        folder = self._random.choice(self._folders()) / self._new("") / "deep"
        folder.mkdir(parents=True)
        for _ in range(self._random.randint(1, 5)):
            (folder / self._new()).write_bytes(self._content())

    def move_out(self) -> None:
        if (path := self._any(self._files())) and path not in self.bad:
            path.rename(self._outside / path.name)

    def move_in(self) -> None:
        if path := self._any(sorted(self._outside.iterdir())):
            shutil.move(path, self._target())

    def swap(self) -> None:
        first, second = self._any(self._files()), self._any(self._files())
        if first and second and first != second and not {first, second} & self.bad:
            between = first.with_name(f".{first.name}")
            first.rename(between)
            second.rename(first)
            between.rename(second)

    def write_slowly(self) -> None:
        content, path = self._content(), self._target()
        with path.open("wb") as file:
            for part in (content[:300], content[300:]):
                file.write(part)
                file.flush()
                time.sleep(0.05)

    def touch(self) -> None:
        if path := self._any(self._files()):
            path.touch()
            path.chmod(self._random.choice([0o644, 0o600]))


@pytest.mark.parametrize("poll", [False, True], ids=["events", "polling"])
def test_what_is_on_disk_is_stored(collection: SearchDB, photos: Path, tmp_path: Path, poll: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    draw(photos / "kept-a", KEPT // 2)
    draw(photos / "kept-b", KEPT - KEPT // 2, first=KEPT // 2)
    draw(photos / "folder", 20, first=100)
    changes = Changes(photos, outside, SEED)
    with Watching(collection, photos, prune="always", poll=poll):
        until_equal(collection, photos)
        before = {stored(collection)[path]: image_id for path, image_id in ids(collection).items() if "/kept-" in path}
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            changes.make()
            time.sleep(0.01)

        def is_equal() -> bool:
            good = {path: sha for path, sha in on_disk(photos).items() if Path(path) not in changes.bad}
            rows = stored(collection)
            # An image whose file turned bad stays stored, as it was.
            known = {path: sha for path, sha in rows.items() if Path(path) not in changes.bad}
            return known == good and set(failures(collection)) == set(map(str, changes.bad))

        until(is_equal, f"the collection to be equal to the disk after {changes.made} changes with seed {SEED}")
    assert set(failures(collection).values()) <= {"EmptyFileError", "DamagedImageError"}
    after = {sha: ids(collection)[path] for path, sha in stored(collection).items() if "/kept-" in path}
    assert after == before
    assert len(after) == KEPT
    assert hashlib.sha256(picture(0)).digest() in after
    assert collection.store.counts()["pending"] == 0
