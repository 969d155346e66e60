"""Random changes for a while, after which exactly what is on disk is stored, and moved files have kept their ids.

A minute of them, or another seed: TEST_WATCH_S=60 TEST_WATCH_SEED=7 pytest tests/watch/test_random_changes.py
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.db.tables import images
from tests.helpers.databases import NewSettings
from tests.helpers.photo_files import box, heic
from tests.helpers.sidecars import write_takeout, write_xmp
from tests.helpers.videos import draw_video
from tests.helpers.waiting import until
from tests.helpers.watching import Watching, draw, failures, picture

SECONDS = float(os.environ.get("TEST_WATCH_S", "2"))
SEED = int(os.environ.get("TEST_WATCH_SEED", "1"))
KEPT = 20
"""Images that are only moved, in folders that are only moved: they keep their ids."""
FILES = (".jpg", ".heic", ".nef", ".mp4")
BESIDE = (".xmp", ".jpg.json", ".nef")
"""Endings of the files beside a JPEG, in place of its own."""

pytestmark = pytest.mark.slow


class Changes:
    """Changes files below a folder at random; `bad` are those that are no images at the end.

    `clips` are videos to copy.
    """

    def __init__(self, folder: Path, outside: Path, seed: int, clips: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._folder = folder
        self._outside = outside
        self._clips = clips
        self._number = 1000
        self.bad: set[Path] = set()
        self.made = 0

    def make(self) -> None:
        """Make one change."""
        changes: list[Callable[[], None]] = [
            self.create, self.create, self.copy, self.rename, self.rename, self.move_kept, self.move_kept,
            self.rename_folder, self.overwrite, self.replace, self.truncate, self.cut, self.delete, self.delete_folder,
            self.fill_folder, self.move_out, self.move_in, self.swap, self.write_slowly, self.touch,
            self.create_pair, self.create_other, self.describe, self.describe, self.remove_beside,
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

    def _files(self, suffixes: Sequence[str] = FILES) -> list[Path]:
        found = [path for path in sorted(self._folder.rglob("*")) if path.suffix in suffixes]
        return [path for path in found if "kept" not in str(path) and path.is_file()]

    def _alone(self) -> list[Path]:
        """The JPEGs without a RAW file, which would be shown in place of a damaged one."""
        return [path for path in self._files([".jpg"]) if not path.with_suffix(".nef").exists()]

    def _any(self, paths: list[Path]) -> Path | None:
        return self._random.choice(paths) if paths else None

    def _target(self, suffix: str = ".jpg") -> Path:
        return self._random.choice(self._folders()) / self._new(suffix)

    def create(self) -> None:
        self._target().write_bytes(self._content())

    def create_pair(self) -> None:
        """Write a RAW file and its JPEG; Pillow reads the RAW file, as it does many."""
        raw = self._target(".nef")
        content = self._content()
        with Image.open(BytesIO(content)) as image:
            image.save(raw, "TIFF")
        raw.with_suffix(".jpg").write_bytes(content)

    def create_other(self) -> None:
        """Write a HEIC or a video."""
        path = self._target(self._random.choice((".heic", ".mp4")))
        if path.suffix == ".heic":
            with Image.open(BytesIO(self._content())) as image:
                path.write_bytes(heic(image))
        else:
            path.write_bytes(self._random.choice(self._clips) + box(b"free", path.name.encode()))

    def describe(self) -> None:
        """Write a sidecar, or another one."""
        if path := self._any(self._files()):
            self._number += 1
            if self._random.random() < 0.7:
                write_xmp(path.with_suffix(".xmp"), rating=self._number % 6, text=str(self._number))
            else:
                write_takeout(path.with_name(f"{path.name}.json"), text=str(self._number))

    def remove_beside(self) -> None:
        if path := self._any(self._files([".xmp", ".json", ".nef"])):
            path.unlink()

    def copy(self) -> None:
        if (path := self._any(self._files())) and path not in self.bad:
            shutil.copy2(path, self._target(path.suffix))

    def rename(self) -> None:
        """Rename a file, perhaps with those beside it."""
        if (path := self._any(self._files())) and path not in self.bad:
            target = self._target(path.suffix)
            path.rename(target)
            if self._random.random() < 0.5:
                for suffix in BESIDE:
                    if (beside := path.with_suffix(suffix)).exists():
                        beside.rename(target.with_suffix(suffix))

    def move_kept(self) -> None:
        folders = sorted(self._folder.glob("kept*"))
        path = self._any([path for folder in folders for path in sorted(folder.iterdir())])
        if path:
            path.rename(self._random.choice(folders) / self._new(path.suffix))

    def rename_folder(self) -> None:
        kept = self._random.random() < 0.5
        folders = sorted(self._folder.glob("kept*")) if kept else self._folders()[1:]
        folder = self._any([each for each in folders if not any(bad.is_relative_to(each) for bad in self.bad)])
        if folder:
            parent = self._folder if kept else self._random.choice(self._folders())
            if not parent.is_relative_to(folder):
                folder.rename(parent / f"{'kept' if kept else 'folder'}-{self._new('')}")

    def overwrite(self) -> None:
        if path := self._any(self._alone()):
            path.write_bytes(self._content())
            self.bad.discard(path)

    def replace(self) -> None:
        if path := self._any(self._alone()):
            fresh = path.with_name(f".{path.name}.AbCdEf")
            fresh.write_bytes(self._content())
            fresh.replace(path)
            self.bad.discard(path)

    def truncate(self) -> None:
        if path := self._any(self._alone()):
            os.truncate(path, 0)
            self.bad.add(path)

    def cut(self) -> None:
        if path := self._any(self._alone()):
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
            shutil.move(path, self._target(path.suffix))

    def swap(self) -> None:
        first, second = self._any(self._files()), self._any(self._files())
        if first and second and first.suffix == second.suffix and first != second and not {first, second} & self.bad:
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


def state(collection: SearchDB, without: Sequence[str] = ()) -> set[tuple[Any, ...]]:
    """What is stored of files, and of those beside them; not what a moved image keeps, such as its time."""
    columns = [images.c[name] for name in ("image", "sha256", "video_time", "description", "rating", "folder")]
    raw = images.c.metadata["raw"].astext
    with collection.database.connect() as connection:
        rows = connection.execute(sa.select(*columns, raw, images.c.tags)).all()
    return {(*row[:-1], *sorted(row.tags)) for row in rows if row.image not in without}


def kept_ids(collection: SearchDB) -> dict[Any, int]:
    """The ids of the kept images by their content, and of frames also by their time."""
    columns = (images.c.id, images.c.sha256, images.c.video_time)
    with collection.database.connect() as connection:
        rows = connection.execute(sa.select(*columns).where(images.c.image.contains("/kept-"))).all()
    return {(row.sha256, row.video_time): row.id for row in rows}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Short videos of two scenes."""
    folder = tmp_path_factory.mktemp("clips")
    colours = [(250, 20, 20), (20, 20, 250), (20, 250, 20)]
    scenes = [[(colours[n], 1.0), (colours[n - 1], 1.0)] for n in range(3)]
    return [draw_video(folder / f"{n}.mp4", each, size=(64, 48)).read_bytes() for n, each in enumerate(scenes)]


@pytest.mark.parametrize("poll", [False, True], ids=["events", "polling"])
def test_what_is_on_disk_is_stored(
    collection: SearchDB, photos: Path, tmp_path: Path, clips: list[bytes], new_settings: NewSettings, poll: bool
) -> None:
    """Compared with what an ingest of the same folder into an empty collection stores."""
    outside = tmp_path / "outside"
    outside.mkdir()
    draw(photos / "kept-a", KEPT // 2)
    draw(photos / "kept-b", KEPT - KEPT // 2 - 3, first=KEPT // 2)
    (photos / "kept-a" / "clip.mp4").write_bytes(clips[0])
    (photos / "kept-b" / "photo.heic").write_bytes(heic(Image.new("RGB", (64, 64), "teal")))
    draw(photos / "folder", 10, first=100)
    changes = Changes(photos, outside, SEED, clips)
    with Watching(collection, photos, prune="always", poll=poll):
        until(lambda: len(state(collection)) == KEPT + 10, "the first scan")
        before = kept_ids(collection)
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            changes.make()
            time.sleep(0.01)

        # An image whose file turned bad stays stored, as it was.
        bad = set(map(str, changes.bad))
        with new_settings(tmp_path / "other") as settings, SearchDB(settings) as other:
            other.embedder = collection.embedder
            other.ingest_files(photos)
            assert failures(other).keys() == bad
            expected = state(other)

        def is_equal() -> bool:
            return state(collection, without=list(bad)) == expected and failures(collection).keys() == bad

        until(is_equal, f"the collection to be equal to the disk after {changes.made} changes with seed {SEED}")
    assert set(failures(collection).values()) <= {"EmptyFileError", "DamagedImageError"}
    assert kept_ids(collection) == before
    assert len(before) == KEPT
    assert collection.store.counts()["pending"] == 0
