"""Fixtures of the tests that run whole processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.runs import Runs

PHOTOS = 100


@pytest.fixture
def runs(settings: Settings, tmp_path: Path) -> Iterator[Runs]:
    """Starts processes on the test's collection."""
    with Runs(settings, tmp_path) as runs:
        yield runs


@pytest.fixture
def collection(collection: SearchDB, embedder: CLIPEmbedder) -> SearchDB:
    """A fresh collection with a model that is loaded already."""
    collection.embedder = embedder
    return collection


@pytest.fixture
def photos(album: Path, tmp_path: Path) -> Path:
    """A folder with PHOTOS images of the album."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(album.glob("*.jpg"))[:PHOTOS]:
        (folder / path.name).symlink_to(path)
    return folder
