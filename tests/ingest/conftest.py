"""Images that tests copy to folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def originals(album: Path) -> list[Path]:
    """The images of the album, in the order of their names."""
    return sorted(album.glob("*.jpg"))
