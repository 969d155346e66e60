"""Stores images without going through the queue, for tests of what is stored."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from searchdb.ingest.store import upsert_images
from searchdb.records import EmbeddedImage, ModelIdentity


def store_images(engine: Engine, embedded: Sequence[EmbeddedImage], model: ModelIdentity) -> None:
    """Store images in one transaction."""
    with engine.begin() as connection:
        upsert_images(connection, embedded, model)
