"""What comparisons are made of: twins of the demo's model, a damaged one, and queries whose right images are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.compare import speed
from searchdb.compare.records import ModelComparison, ModelQuery
from searchdb.db.tables import images
from tests.helpers.tiny_models import demo_twin

TWIN_NUMBERS = 768
WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def _few_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rates on a few images and texts: most of a small comparison's time would go into it."""
    monkeypatch.setattr(speed, "MEASURED_IMAGES", 4)
    monkeypatch.setattr(speed, "MEASURED_TEXTS", 4)


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ranks as the demo's does, with vectors of another length."""
    return demo_twin(tmp_path_factory.mktemp("models") / "twin", TWIN_NUMBERS)


@pytest.fixture(scope="session")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A twin that has forgotten most of what words mean."""
    from safetensors.numpy import load_file, save_file

    folder = demo_twin(tmp_path_factory.mktemp("models") / "damaged", TWIN_NUMBERS, seed=1)
    tensors = load_file(folder / WEIGHTS)
    projection = tensors["text_projection.weight"]
    noise = np.random.default_rng(0).normal(scale=8 * projection.std(), size=projection.shape)
    tensors["text_projection.weight"] = projection + noise.astype(np.float32)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def judged(demo_collection: SearchDB) -> list[ModelQuery]:
    """A query for each thing of a colour in the album, such as "a red boat", and the images that are tagged with it."""
    tagged: dict[str, list[int | str]] = {}
    with demo_collection.database.begin() as connection:
        for row in connection.execute(sa.select(images.c.id, images.c.tags).order_by(images.c.id)):
            for tag in row.tags:
                tagged.setdefault(tag, []).append(row.id)
    coloured = sorted(tag for tag in tagged if " " in tag)[:40]
    return [ModelQuery(text=f"a {tag}", relevant=tagged[tag]) for tag in coloured]


@pytest.fixture(scope="session")
def with_twin(demo_collection: SearchDB, twin: Path, judged: list[ModelQuery]) -> ModelComparison:
    """The demo's model compared with its twin."""
    return demo_collection.compare_models(str(twin), queries=judged)


@pytest.fixture(scope="session")
def with_damaged(demo_collection: SearchDB, damaged: Path, judged: list[ModelQuery]) -> ModelComparison:
    """The demo's model compared with a damaged one."""
    return demo_collection.compare_models(str(damaged), queries=judged)
