"""What the tests of watches share."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.media.embed import CLIPEmbedder


@pytest.fixture
def collection(collection: SearchDB, embedder: CLIPEmbedder) -> SearchDB:
    """A fresh collection with a model that is loaded already."""
    collection.embedder = embedder
    return collection


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder
