"""Re-exports the functions that compose, describe and draw the demo's scenes and the album."""

from searchdb.demo.album import ALBUM_SIZE, MANIFEST, AlbumRow, draw_album
from searchdb.demo.composition import (
    ALBUM_SEEDS,
    COLOURS,
    EVALUATION_SEEDS,
    KINDS,
    SETTINGS,
    TIMES,
    TRAINING_SEEDS,
    Group,
    Kind,
    Scene,
    caption,
    compose,
    contents,
    tags,
)
from searchdb.demo.postcards import Placed, draw, layout

__all__ = [
    "ALBUM_SEEDS",
    "ALBUM_SIZE",
    "COLOURS",
    "EVALUATION_SEEDS",
    "KINDS",
    "MANIFEST",
    "SETTINGS",
    "TIMES",
    "TRAINING_SEEDS",
    "AlbumRow",
    "Group",
    "Kind",
    "Placed",
    "Scene",
    "caption",
    "compose",
    "contents",
    "draw",
    "draw_album",
    "layout",
    "tags",
]
