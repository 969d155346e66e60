"""What the web's tests share: the application over a fresh database, and pictures to put into it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from searchdb.config import Settings
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.media.embed import CLIPEmbedder
from web import create_app
from web.backend import EXTENSION


class Shelf:
    """Draws pictures into a folder and stores them, with their description's vector: a search for it finds them."""

    def __init__(self, folder: Path, database: Database, embedder: CLIPEmbedder) -> None:
        self.folder = folder
        self._database = database
        self._embedder = embedder

    def draw(self, name: str, *, size: tuple[int, int] = (60, 40), colour: str = "teal", **options: Any) -> Path:
        """Save a picture of one colour; the name's suffix says the format unless `format` does."""
        path = self.folder / name
        Image.new("RGB", size, colour).save(path, **options)
        return path

    def add(
        self, description: str | None, *, image: Path | str | None = None, vector_of: str | None = None, **columns: Any
    ) -> int:
        """Store one picture and return its id; without `image` one is drawn."""
        if image is None:
            image = self.draw(f"{(description or 'picture').replace(' ', '-')[:40]}.png")
        ours = Path(image).parent == self.folder and Path(image).is_file()
        content = Path(image).read_bytes() if ours else b""
        width, height = (60, 40)
        if content:
            with Image.open(image) as opened:
                width, height = opened.size
        row = {
            "image": str(image),
            "source": "files",
            "description": description,
            "embedding": self._embedder.embed_texts([vector_of or description or "a picture"])[0],
            "sha256": hashlib.sha256(content or str(image).encode()).digest(),
            "byte_size": len(content),
            "width": width,
            "height": height,
        }
        with self._database.begin() as connection:
            model = claim_model(connection, self._embedder.identity)
            values = row | {"embedding_model_id": model} | columns
            return connection.execute(sa.insert(images).values(values).returning(images.c.id)).scalar_one()


@pytest.fixture
def shelf(tmp_path: Path, database: Database, embedder: CLIPEmbedder) -> Shelf:
    folder = tmp_path / "the private folder"
    folder.mkdir()
    return Shelf(folder, database, embedder)


@pytest.fixture
def app(settings: Settings, embedder: CLIPEmbedder) -> Iterator[Flask]:
    app = create_app(settings, embedder=embedder)
    app.testing = True
    yield app
    app.extensions[EXTENSION].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def demo_client(demo_settings: Settings, embedder: CLIPEmbedder) -> Iterator[FlaskClient]:
    """A client over the demo album, for tests that only ask."""
    app = create_app(demo_settings, embedder=embedder)
    app.testing = True
    yield app.test_client()
    app.extensions[EXTENSION].close()
