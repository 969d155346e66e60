"""Stores images without going through the queue, for tests of what is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import Engine

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.ingest.store import upsert_images
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import EmbeddedImage, ModelIdentity


class StoredImages:
    """Draws images into a folder and stores them with the vectors of their descriptions, so that searches find them."""

    def __init__(self, folder: Path, database: Database, embedder: CLIPEmbedder) -> None:
        self.folder = folder
        self._database = database
        self._embedder = embedder
        self._vectors: dict[str, np.ndarray] = {}

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
        text = vector_of or description or "a picture"
        if text not in self._vectors:
            [self._vectors[text]] = self._embedder.embed_texts([text])
        row = {
            "image": str(image),
            "source": "files",
            "description": description,
            "embedding": self._vectors[text],
            "sha256": hashlib.sha256(content or str(image).encode()).digest(),
            "byte_size": len(content),
            "width": width,
            "height": height,
        }
        with self._database.begin() as connection:
            model = claim_model(connection, self._embedder.identity)
            values = row | {"embedding_model_id": model} | columns
            return connection.execute(sa.insert(images).values(values).returning(images.c.id)).scalar_one()


def store_images(engine: Engine, embedded: Sequence[EmbeddedImage], model: ModelIdentity) -> None:
    """Store images in one transaction."""
    with engine.begin() as connection:
        upsert_images(connection, embedded, model)
