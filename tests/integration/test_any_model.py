"""Models of each family, and of other dimensions than 512, from the first image to the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from PIL import Image

from searchdb.cli import cli
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.vectors import current_column
from searchdb.index.tune import tune_index
from tests.helpers.cli import output
from tests.helpers.databases import NewSettings
from tests.helpers.tiny_models import TINY_FAMILIES, demo_twin, save_tiny_model
from web import create_app
from web.backend import EXTENSION

IMAGES = 30
TEXTS = ("a dog", "a red car", "snow at night", "a boat")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small drawings."""
    folder, rng = tmp_path_factory.mktemp("drawings"), np.random.default_rng(0)
    for number in range(IMAGES):
        blocks = rng.integers(0, 255, (4, 6, 3), np.uint8)
        Image.fromarray(blocks).resize((60, 40), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module", params=sorted(TINY_FAMILIES))
def collection(
    request: pytest.FixtureRequest, new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory, drawings: Path
) -> Iterator[SearchDB]:
    folder = tmp_path_factory.mktemp(request.param)
    model = save_tiny_model(request.param, folder / "model")
    with (
        new_settings(folder) as settings,
        SearchDB(settings.model_copy(update={"model": str(model), "dtype": "float32"})) as collection,
    ):
        assert collection.ingest_files(drawings).stored == IMAGES
        yield collection


def test_each_family_is_searched_judged_and_tuned(collection: SearchDB, drawings: Path) -> None:
    dimension = collection.embedder.identity.dimension
    with collection.database.connect() as connection:
        assert current_column(connection).dimension == dimension
    by_text = collection.search("a red car", threshold=-1, count=IMAGES)
    assert len(by_text) == IMAGES
    assert all(hit.relevance is not None for hit in by_text)
    for path in (drawings / "0.png", drawings / "7.png"):
        (best, *_) = collection.search(image=path, threshold=-1)
        assert (best.image, round(best.similarity, 3)) == (str(path), 1)
    assert collection.embed(["a dog"]).shape == (1, dimension)
    built = collection.build_index()
    assert built is not None


def test_each_family_is_on_the_page(collection: SearchDB) -> None:
    app = create_app(collection.settings, embedder=collection.embedder)
    app.testing = True
    try:
        client = app.test_client()
        assert client.get("/?q=a+red+car&threshold=-1").status_code == 200
        assert f"[{collection.embedder.identity.dimension}]" in client.get("/?q=a+red+car&not=snow&threshold=-1").text
        assert client.get("/images/1").status_code == 200
        assert client.get("/status").status_code == 200
    finally:
        app.extensions[EXTENSION].close()


@pytest.mark.parametrize("dimension", [64, 2000])
def test_the_least_and_the_most_numbers(settings: Settings, tmp_path: Path, drawings: Path, dimension: int) -> None:
    model = save_tiny_model("clip", tmp_path / "model", dimension=dimension)
    with SearchDB(settings.model_copy(update={"model": str(model), "dtype": "float32"})) as collection:
        assert collection.ingest_files(drawings).stored == IMAGES
        with collection.database.begin() as connection:
            assert current_column(connection).dimension == dimension
            connection.execute(sa.text("UPDATE images SET country = 'Chile' WHERE id % 3 = 0"))
        exact = {hit.id: hit.similarity for hit in collection.search("a red car", threshold=-1, count=IMAGES)}
        for method in ("ivfflat", "hnsw"):
            built = collection.build_index(method=method)
            assert built is not None
            assert built.method == method
            tuned = tune_index(collection.database.engine, count=5, texts=collection.embed(TEXTS))
            assert tuned is not None
            assert tuned.reached
            assert {recall.kind for recall in tuned.chosen.recalls} == {"text", "pictures"}
            filtered = collection.search("a red car", threshold=-1, count=IMAGES, country="Chile")
            assert [hit.id for hit in filtered] == [id_ for id_ in exact if id_ % 3 == 0]
            assert [hit.similarity for hit in filtered] == pytest.approx([exact[hit.id] for hit in filtered], abs=1e-5)
        combined = collection.search("a red car", image=drawings / "0.png", exclude="snow", threshold=-1)
        assert len(combined) == 10


def test_a_model_of_1000_numbers_from_the_first_command(
    empty_settings: Settings, tmp_path: Path, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert empty_settings.database_url is not None
    model = demo_twin(tmp_path / "twin", 1000)
    monkeypatch.setenv("DATABASE_URL", empty_settings.database_url.get_secret_value())
    monkeypatch.setenv("SEARCHDB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEARCHDB_MODEL", str(model))

    def searchdb(*arguments: str) -> str:
        return output(CliRunner().invoke(cli, arguments, prog_name="searchdb"))

    searchdb("db", "migrate")
    searchdb("ingest", "files", str(drawings))
    hits = json.loads(searchdb("search", "a red car", "--threshold=-1", "--count=5", "--json"))["hits"]
    assert len(hits) == 5
    assert json.loads(searchdb("search", f"--image={drawings / '0.png'}", "--json"))["hits"]
    assert json.loads(searchdb("status", "--json"))["images"] == IMAGES
    searchdb("index", "build")
    searchdb("index", "tune")
    searchdb("embed", "a dog")
    assert "1000" in searchdb("sql", "SELECT vector_dims(text_embedding('a dog')) AS numbers")
    assert searchdb("sql", "SELECT count(*) FROM search_images('a boat', -1, 7)").strip().endswith("7")

    app = create_app(Settings(), warm_up=False)
    app.testing = True
    try:
        client = app.test_client()
        page = client.get("/?q=a+red+car&not=snow&threshold=-1")
        assert page.status_code == 200
        assert "vector(1000)" in page.text
        found = client.post("/api/search", data={"image": ((drawings / "3.png").open("rb"), "3.png")}).get_json()
        assert found["hits"][0]["similarity"] > 0.99
        assert client.get(f"/?vector={found['vector']}").status_code == 200
        assert client.get("/api/model").get_json()["dimension"] == 1000
    finally:
        app.extensions[EXTENSION].close()
