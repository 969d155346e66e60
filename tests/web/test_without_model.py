"""A collection whose model is not available: all works that needs no embedding, and the rest says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from searchdb.client import SearchDB
from searchdb.config import Settings
from tests.ingest.test_vectors import NAME, save
from web import create_app
from web.backend import EXTENSION


@pytest.fixture
def client(settings: Settings, tmp_path: Path) -> Iterator[FlaskClient]:
    """The client of a page over vectors of a model that is not here."""
    settings = Settings(database_url=settings.database_url, home=settings.home)
    with SearchDB(settings) as collection:
        collection.ingest_vectors(save(tmp_path / "v.npz", 60), model=NAME)
    app = create_app(settings)
    yield app.test_client()
    app.extensions[EXTENSION].close()


def test_similar_images_are_found_without_the_model(client: FlaskClient) -> None:
    answer = client.get("/api/search?like=1&count=5&threshold=-1")
    assert answer.status_code == 200
    hits = answer.get_json()["hits"]
    assert len(hits) == 5
    assert [hits[0][name] for name in ("width", "height", "sha256", "byte_size")] == [None] * 4
    for path in ("/", "/?like=1&threshold=-1", "/?like=1&unlike=2&threshold=-1", "/?like=1&threshold=-1&page=2"):
        page = client.get(path)
        assert page.status_code == 200, page.text
        assert len(re.findall(r'class="cell r100"', page.text)) > 5
    page = client.get("/images/1?like=2&threshold=-1")
    assert page.status_code == 200
    assert page.text.count('class="cell r100"') == 12
    assert client.get("/images/1").text.count('class="cell r100"') == 12
    assert client.get("/api/images/1").get_json()["sha256"] is None
    assert client.get("/images/1/thumbnail").status_code == 302
    assert client.get("/status").status_code == 200


def test_texts_say_that_the_model_is_not_available(client: FlaskClient) -> None:
    for path in ("/?q=boat", "/?like=1&q=boat", "/api/search?q=boat", "/api/search?like=1&not=boat"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert NAME in answer.text
