"""Fills a collection with the vectors of two models, without any model."""

from __future__ import annotations

import numpy as np
import sqlalchemy as sa
from sqlalchemy import text

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.functions import FUNCTIONS, installation
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.switch_tables import model_switches
from searchdb.db.tables import embedding_models, norm_in_range, query_embeddings
from searchdb.db.vectors import VectorColumn, column_of
from searchdb.db.width import storage
from searchdb.records import ModelIdentity

OTHER = ModelIdentity(name="other", weights_sha256=b"o" * 32, dimension=768)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_units(rows: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Return random unit vectors of shape (rows, dimension)."""
    return unit(np.random.default_rng(seed).normal(size=(rows, dimension)))


def begin(database: Database, model: ModelIdentity) -> OpenSwitch:
    """Begin a switch, with an empty column where there is none."""
    with database.begin() as connection:
        found = connection.scalar(
            sa.select(embedding_models.c.id).where(embedding_models.c.weights_sha256 == model.weights_sha256)
        )
        if found is None:
            found = connection.scalar(
                sa.insert(embedding_models)
                .values(name=model.name, weights_sha256=model.weights_sha256, dimension=model.dimension)
                .returning(embedding_models.c.id)
            )
        assert found is not None
        current = connection.scalar(sa.select(embedding_models.c.id).where(embedding_models.c.current))
        connection.execute(
            sa.insert(model_switches).values(
                embedding_model_id=found, from_model_id=current, phase="fill", host="test", pid=1, row_count=0
            )
        )
        if column_of(connection, found) is None:
            add_column(connection, VectorColumn.beside(found, model.dimension))
    with database.connect() as connection:
        switch = open_switch(connection)
    assert switch is not None
    return switch


def add_column(connection: sa.Connection, column: VectorColumn) -> None:
    connection.execute(
        text(
            f"ALTER TABLE images ADD COLUMN {column.name} vector({column.dimension}), "
            f"ALTER COLUMN {column.name} SET STORAGE {storage(column.dimension)}, "
            f"ADD CONSTRAINT {column.norm_check} CHECK ({norm_in_range(column.name)})"
        )
    )
    connection.execute(text(f"CREATE INDEX {column.missing_index} ON images (id) WHERE {column.name} IS NULL"))
    connection.execute(text(installation(FUNCTIONS["match_images"], column)))


def fill_column(database: Database, column: VectorColumn, vectors: dict[int, np.ndarray]) -> None:
    """Store vectors by the ids of their images."""
    with database.begin() as connection:
        connection.execute(
            text(f"UPDATE images SET {column.name} = :vector WHERE id = :id"),
            [{"id": image_id, "vector": vector} for image_id, vector in vectors.items()],
        )


def store_texts(database: Database, model_id: int, vectors: dict[str, np.ndarray]) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.insert(query_embeddings),
            [{"embedding_model_id": model_id, "query": q, "embedding": v} for q, v in vectors.items()],
        )


def images_of(database: Database, model: ModelIdentity, vectors: np.ndarray) -> list[int]:
    """Store images `/0`, `/1`, ... with vectors by a model, and return their ids."""
    with database.begin() as connection:
        model_id = claim_model(connection, model)
        statement = text(
            "INSERT INTO images (image, source, sha256, width, height, byte_size, embedding_model_id, embedding) "
            "VALUES (:image, 'test', '', 1, 1, 1, :model, :vector)"
        )
        rows = [{"image": f"/{n}", "model": model_id, "vector": vector} for n, vector in enumerate(vectors)]
        connection.execute(statement, rows)
        return list(connection.scalars(text("SELECT id FROM images ORDER BY id")))
