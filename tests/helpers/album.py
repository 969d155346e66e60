"""Copies the demo album from one database to another."""

from __future__ import annotations

import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import images
from searchdb.search.image_sample import refresh_sample


def copy_album(source: SearchDB, target: Database, *, without: str | None = None, only: str | None = None) -> None:
    """Make the target's collection the album, without the images with one tag, or with only these."""
    with source.database.connect() as connection:
        rows = [dict(row) for row in connection.execute(sa.select(images)).mappings()]
    kept = [row for row in rows if without not in row["tags"] and (only is None or only in row["tags"])]
    with target.begin() as connection:
        connection.execute(sa.delete(images))
        model_id = claim_model(connection, source.embedder.identity)
        for row in kept:
            del row["id"]
            row["embedding_model_id"] = model_id
        connection.execute(sa.insert(images), kept)
        refresh_sample(connection)
