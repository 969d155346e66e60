"""The tiny model of each family, made once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from searchdb.media.embed import CLIPEmbedder
from tests.helpers.tiny_models import TINY_FAMILIES, TinyFamily, save_tiny_model


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each tiny model by name."""
    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny_model(name, folder / name) for name in TINY_FAMILIES}


@pytest.fixture(scope="session")
def tiny_embedders(tiny_folders: dict[str, Path]) -> dict[str, CLIPEmbedder]:
    """The embedder of each tiny model by name, in float32."""
    return {name: CLIPEmbedder(str(folder), dtype="float32") for name, folder in tiny_folders.items()}


@pytest.fixture(params=list(TINY_FAMILIES.values()), ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    """Each family in turn."""
    return request.param


@pytest.fixture
def folder(family: TinyFamily, tiny_folders: dict[str, Path]) -> Path:
    """The folder of the family's tiny model; tests only read it."""
    return tiny_folders[family.name]


@pytest.fixture
def tiny(family: TinyFamily, tiny_embedders: dict[str, CLIPEmbedder]) -> CLIPEmbedder:
    """The embedder of the family's tiny model, in float32."""
    return tiny_embedders[family.name]
