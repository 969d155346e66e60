"""What tests of a switch share: collections with some of the demo's images, and twins of its model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.ingest import worker as worker_module
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.tiny_models import demo_twin

FEW = 24
"""Images of a collection: enough for a switch of several jobs where they are small."""


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 768 numbers whose rankings equal the demo's."""
    return demo_twin(tmp_path_factory.mktemp("models") / "twin-768", 768)


@pytest.fixture(scope="session")
def other_twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, of 512 numbers."""
    return demo_twin(tmp_path_factory.mktemp("models") / "twin-512", 512, seed=1)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for jobs often, and repeat those that fail at once."""
    monkeypatch.setattr(worker_module, "POLL_S", 0.1)
    monkeypatch.setattr(worker_module, "RETRY_S", 0)


@pytest.fixture
def pictures(album: Path, tmp_path: Path) -> Path:
    """A folder with FEW images of the album, which a test may change."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted(path for path in album.rglob("*") if path.suffix in (".jpg", ".png", ".webp"))[:FEW]:
        shutil.copy(path, folder / path.name)
    return folder


@pytest.fixture
def filled(settings: Settings, pictures: Path, embedder: CLIPEmbedder) -> Iterator[SearchDB]:
    """A collection of these images, with a model that is loaded already."""
    with SearchDB(settings.model_copy(update={"dtype": "float32"})) as collection:
        collection.embedder = embedder
        assert collection.ingest_files(pictures).stored == FEW
        yield collection


Stop = Callable[[], None]
