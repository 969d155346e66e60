"""Writes the vectors of the model that a collection is being switched to, and the images that could not be embedded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.tables import Embedding
from searchdb.db.vectors import VectorColumn
from searchdb.errors import ImageError
from searchdb.ingest.rows import storable

_LOCK = text('SELECT id FROM images WHERE id = ANY (:ids) ORDER BY image COLLATE "C" FOR UPDATE').bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.BigInteger))
)
_COPY = """
    WITH wanted AS (
        SELECT image.id, known.vector FROM images AS image CROSS JOIN LATERAL (
            SELECT other.<column> AS vector FROM images AS other
            WHERE other.sha256 = image.sha256 AND other.video_time IS NOT DISTINCT FROM image.video_time
            AND other.<column> IS NOT NULL LIMIT 1
        ) AS known
        WHERE image.id = ANY (:ids) AND image.<column> IS NULL
    )
    UPDATE images SET <column> = wanted.vector FROM wanted WHERE images.id = wanted.id
"""
_STORE = """
    UPDATE images SET <column> = :vector
    WHERE id = :id AND sha256 IS NOT DISTINCT FROM CAST(:sha256 AS bytea) AND <column> IS NULL
"""
_CLEAR = text("DELETE FROM switch_failures WHERE embedding_model_id = :model AND image_id = ANY (:ids)").bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.BigInteger))
)
_FAIL = text(
    """
    INSERT INTO switch_failures (image_id, embedding_model_id, error, message)
    SELECT id, :model, :error, :message FROM images WHERE id = :id FOR KEY SHARE
    ON CONFLICT (image_id, embedding_model_id) DO UPDATE
    SET error = excluded.error, message = excluded.message, attempts = switch_failures.attempts + 1, failed_at = now()
    """
)


def copy_from_same_bytes(engine: Engine, column: VectorColumn, ids: Sequence[int]) -> None:
    """Give images the vectors of others with the same bytes, and frames those at the same time of a same video."""
    with engine.begin() as connection:
        lock_images(connection, ids)
        copied = connection.execute(_statement(_COPY, column), {"ids": list(ids)}).rowcount
        if copied:
            _clear(connection, column)


def store_vectors(engine: Engine, column: VectorColumn, found: Sequence[tuple[int, bytes | None, np.ndarray]]) -> None:
    """Store the vectors of images, given by id, the SHA-256 of what was embedded, and unit vector.

    An image whose stored bytes are others by now gets none, and one that has a vector keeps it.
    """
    statement = _statement(_STORE, column).bindparams(sa.bindparam("vector", type_=Embedding()))
    ids = [image_id for image_id, _, _ in found]
    with engine.begin() as connection:
        lock_images(connection, ids)
        connection.execute(
            statement, [{"id": image_id, "sha256": sha256, "vector": vector} for image_id, sha256, vector in found]
        )
        connection.execute(_CLEAR, {"model": column.model_id, "ids": ids})


def record_failures(engine: Engine, column: VectorColumn, failures: Sequence[tuple[int, ImageError]]) -> None:
    """Record images that could not be embedded, by id; a known one counts another attempt."""
    with engine.begin() as connection:
        lock_images(connection, [image_id for image_id, _ in failures])
        values = [
            {
                "model": column.model_id,
                "id": image_id,
                "error": type(error).__name__,
                "message": storable(str(error)),
            }
            for image_id, error in failures
        ]
        connection.execute(_FAIL, values)


def lock_images(connection: Connection, ids: Sequence[int]) -> None:
    """Lock images in the order of all writers, which rules out deadlocks."""
    connection.execute(_LOCK, {"ids": list(ids)})


def _clear(connection: Connection, column: VectorColumn) -> None:
    """Delete the failures of images that have a vector by now."""
    connection.execute(
        _statement(
            "DELETE FROM switch_failures USING images WHERE images.id = image_id "
            "AND embedding_model_id = :model AND images.<column> IS NOT NULL",
            column,
        ),
        {"model": column.model_id},
    )


def _statement(sql: str, column: VectorColumn) -> sa.TextClause:
    return text(sql.replace("<column>", column.name))
