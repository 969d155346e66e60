"""Runs a watch in a thread, and draws files for it to follow."""

from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.watch.records import WatchReport
from searchdb.watch.registry import read_watches
from tests.helpers.waiting import GIVE_UP_S, until

QUICK = {"settle_s": 0.3, "poll_interval_s": 0.2}
"""Times so short that tests do not wait long; none depends on them."""


class Watching:
    """A watch that runs for as long as the `with`, which ends with its error, if there is one."""

    def __init__(self, collection: SearchDB, *folders: Path, **options: Any) -> None:
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.steps: list[WatchReport] = []
        self.report: WatchReport | None = None
        self._thread = threading.Thread(target=self._run, args=(collection, folders, QUICK | options))

    def _run(self, collection: SearchDB, folders: tuple[Path, ...], options: dict[str, Any]) -> None:
        try:
            self.report = collection.watch(*folders, stop=self._stop, on_step=self.steps.append, **options)
        except BaseException as exc:  # noqa: BLE001 - raised below, in the test's thread
            self._error = exc

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(GIVE_UP_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error


def picture(number: int) -> bytes:
    """The bytes of a JPEG that differs from those of all other numbers."""
    colour = (number * 37 % 256, number * 101 % 256, number * 11 % 256)
    image = Image.new("RGB", (48, 40), colour)
    for bit in range(24):
        image.putpixel((bit, 0), (255, 255, 255) if number >> bit & 1 else (0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, comment=str(number))
    return buffer.getvalue()


def draw(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    """Write pictures with these numbers into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.jpg" for number in range(first, first + count)]
    for number, path in enumerate(paths, first):
        path.write_bytes(picture(number))
    return paths


def stored(collection: SearchDB) -> dict[str, bytes]:
    """The SHA-256 of each stored image by its path."""
    with collection.database.connect() as connection:
        return {row.image: row.sha256 for row in connection.execute(sa.text("SELECT image, sha256 FROM images"))}


def ids(collection: SearchDB) -> dict[str, int]:
    """The id of each stored image by its path."""
    with collection.database.connect() as connection:
        return {row.image: row.id for row in connection.execute(sa.text("SELECT image, id FROM images"))}


def failures(collection: SearchDB) -> dict[str, str]:
    """The error of each failed reference."""
    return {failure.image: failure.error for failure in collection.store.failures()}


def on_disk(folder: Path) -> dict[str, bytes]:
    """The SHA-256 of each file below a folder by its path."""
    return {str(path): hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def until_equal(collection: SearchDB, folder: Path) -> None:
    """Wait until exactly the files of a folder are stored."""
    expected = on_disk(folder)
    until(lambda: stored(collection) == expected, f"the collection to be equal to {folder}")


def problem(collection: SearchDB) -> str | None:
    """What the only running watch cannot do, or cannot yet; None also before the watch has begun."""
    with collection.database.connect() as connection:
        watches = read_watches(connection)
    assert len(watches) < 2
    return watches[0].problem if watches else None
