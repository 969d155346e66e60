"""What the tests of exports share."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchdb.client import SearchDB
from tests.helpers.stored_images import StoredImages


@pytest.fixture
def stored(collection: SearchDB, tmp_path: Path) -> StoredImages:
    """Stores images in a fresh collection, whose files are in a folder of their own."""
    folder = tmp_path / "images"
    folder.mkdir()
    return StoredImages(folder, collection.database, collection.embedder)
