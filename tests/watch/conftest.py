"""What the tests of watches share."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.ingest import run
from searchdb.media.embed import CLIPEmbedder
from searchdb.watch import follow


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what no event tells, and for the end of an ingest, more often: tests wait for both."""
    monkeypatch.setattr(follow, "CHECK_S", 0.2)
    monkeypatch.setattr(run, "PROGRESS_S", 0.05)


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
