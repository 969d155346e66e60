"""Draws the demo album: a folder of images and a manifest that describes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from searchdb.demo.composition import ALBUM_SEEDS, Scene, caption, compose, contents, tags
from searchdb.demo.postcards import draw
from searchdb.private_folder import make_private_folder

MANIFEST = "album.jsonl"
ALBUM_SIZE = 1_000
# The shorter side, in pixels: sharp at twice the size of a result card, and 1,000 images are drawn in seconds.
ALBUM_IMAGE_SIZE = 384
JPEG_QUALITY = 90
# Part of every file name, so that an image of an older version is never mistaken for a current one.
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AlbumRow:
    """One image of the album; `image` is its file name within the album's folder."""

    image: str
    tags: list[str]
    description: str
    metadata: dict[str, object]

    @classmethod
    def of(cls, scene: Scene) -> AlbumRow:
        """Make the row of a scene's image."""
        return cls(
            image=f"postcard-v{VERSION}-{scene.seed:05d}.jpg",
            tags=tags(scene),
            description=caption(scene),
            metadata=contents(scene),
        )


def draw_album(
    folder: Path, count: int = ALBUM_SIZE, *, progress: Callable[[int, int], None] | None = None
) -> list[AlbumRow]:
    """Draw the missing images among the first `count` and write the manifest `album.jsonl`, one row a line.

    `progress` is called after each image with the number of finished images and the total. Files are written
    atomically, so that the next call continues an interrupted album.
    """
    if not 0 < count <= len(ALBUM_SEEDS):
        raise ValueError(f"count must be from 1 to {len(ALBUM_SEEDS)}, not {count}")
    make_private_folder(folder)
    present = {entry.name for entry in os.scandir(folder)}
    rows: list[AlbumRow] = []
    for done, seed in enumerate(ALBUM_SEEDS[:count], start=1):
        scene = compose(seed)
        row = AlbumRow.of(scene)
        if row.image not in present:
            unfinished = folder / f".{row.image}.{os.getpid()}.part"
            draw(scene, ALBUM_IMAGE_SIZE).save(unfinished, "JPEG", quality=JPEG_QUALITY)
            unfinished.replace(folder / row.image)
        rows.append(row)
        if progress:
            progress(done, count)
    _write_manifest(folder, rows)
    return rows


def read_manifest(folder: Path) -> list[AlbumRow]:
    """Return the rows that `draw_album` wrote to the folder's manifest."""
    with (folder / MANIFEST).open(encoding="utf-8") as lines:
        return [AlbumRow(**json.loads(line)) for line in lines]


def _write_manifest(folder: Path, rows: list[AlbumRow]) -> None:
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    manifest = folder / MANIFEST
    if manifest.exists() and manifest.read_text("utf-8") == text:
        return
    unfinished = folder / f".{MANIFEST}.{os.getpid()}.part"
    unfinished.write_text(text, "utf-8")
    unfinished.replace(manifest)
