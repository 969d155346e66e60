"""Fills a database with images for tests of the web."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.media.embed import Embedder


class StoredImages:
    """Draws images into a folder and stores them with the vectors of their descriptions, so that searches find them."""

    def __init__(self, folder: Path, database: Database, embedder: Embedder) -> None:
        self.folder = folder
        self._database = database
        self._embedder = embedder

    def draw(self, name: str, *, size: tuple[int, int] = (60, 40), colour: str = "teal", **options: Any) -> Path:
        """Save an image of one colour; the suffix of the name sets the format unless `format` does."""
        path = self.folder / name
        Image.new("RGB", size, colour).save(path, **options)
        return path

    def add(
        self, description: str | None, *, image: Path | str | None = None, vector_of: str | None = None, **columns: Any
    ) -> int:
        """Store one image and return its id; without `image` one is drawn."""
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
