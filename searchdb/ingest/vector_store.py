"""Stores images whose vectors other programs made: by COPY into a staging table, from which `images` is updated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.types.json import Jsonb
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from searchdb.db.current_model import claim_model
from searchdb.db.driver_errors import database_error
from searchdb.db.tables import images
from searchdb.db.vectors import images_with, other_columns
from searchdb.ingest.folders import kept_folder
from searchdb.ingest.rows import metadata_row, storable_row
from searchdb.ingest.store import any_of, delete_failures, record_failures
from searchdb.records import FailedImage, GivenVector, ModelIdentity, RejectedItem, nfc

_STAGING = "given_vectors"
_TYPES: Mapping[str, str] = {
    "image": "text", "rendition": "text", "source": "text", "source_id": "text", "embedding": "vector",
    "embedding_model_id": "int4", "sha256": "bytea", "width": "int4", "height": "int4", "byte_size": "int8",
    "modified_at": "timestamptz", "colour": "text", "video": "text", "video_time": "float8", "description": "text",
    "credit": "text", "credit_url": "text", "page_url": "text", "taken_at": "timestamptz", "camera": "text",
    "country": "text", "city": "text", "latitude": "float8", "longitude": "float8", "tags": "text[]", "rating": "int2",
    "folder": "text", "metadata": "jsonb", "companion_state": "text",
}  # fmt: skip
"""The columns that are copied, with their types."""
_KEPT_WHERE_UNKNOWN = ("rendition", "sha256", "width", "height", "byte_size", "modified_at", "colour")
"""Columns that an earlier ingest may know and a file of vectors need not."""


@dataclass(frozen=True, kw_only=True)
class StoredVectors:
    """How many images of a batch were `stored`, and how many were there with the same vector and metadata."""

    stored: int
    unchanged: int


def store_vectors(
    connection: Connection, given: Sequence[GivenVector], rejected: Sequence[RejectedItem], model: ModelIdentity
) -> StoredVectors:
    """Store images with their vectors in the caller's transaction, and record the failures.

    Rows with the same references are replaced, unless they are the same. Vectors of other models of images whose
    content has changed are removed. No reference may occur twice.

    Raises:
        ModelMismatchError: another model has claimed the collection.
    """
    failed = [FailedImage(image=each.image, source=each.source, error=each.error) for each in rejected]
    record_failures(connection, list({each.image: each for each in failed}.values()))
    if not given:
        return StoredVectors(stored=0, unchanged=0)
    model_id = claim_model(connection, model)
    references = [each.item.image for each in given]
    # A file that was a video when it was stored.
    whole = [each.item.image for each in given if not each.video]
    connection.execute(sa.delete(images).where(images.c.video == any_of(whole)))
    _copy(connection, [_row(each, model_id) for each in given])
    upsert = _upsert([column.name for column in other_columns(connection)])
    stored = connection.execute(upsert, execution_options={"preserve_rowcount": True}).rowcount
    connection.exec_driver_sql(f"DROP TABLE {_STAGING}").close()
    delete_failures(connection, references)
    return StoredVectors(stored=stored, unchanged=len(given) - stored)


def _row(given: GivenVector, model_id: int) -> dict[str, Any]:
    item = given.item
    row = {
        "image": item.image,
        "rendition": item.rendition,
        "source": nfc(item.source),
        "source_id": item.source_id,
        "embedding": given.embedding,
        "embedding_model_id": model_id,
        "sha256": given.sha256,
        "width": given.width,
        "height": given.height,
        "byte_size": given.byte_size,
        "modified_at": item.modified_at,
        "colour": given.colour,
        "video": given.video,
        "video_time": given.video_time,
    }
    return storable_row(row) | metadata_row(item, given.written)


def _copy(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = ", ".join(_TYPES)
    connection.exec_driver_sql(
        f"CREATE TEMPORARY TABLE {_STAGING} ON COMMIT DROP AS SELECT {columns} FROM images WITH NO DATA"  # noqa: S608
    ).close()
    driver: Any = connection.connection.driver_connection
    try:
        with (
            driver.cursor() as cursor,
            cursor.copy(f"COPY {_STAGING} ({columns}) FROM STDIN (FORMAT binary)") as copy,
        ):
            copy.set_types(list(_TYPES.values()))
            for row in rows:
                copy.write_row([Jsonb(row[name]) if kind == "jsonb" else row[name] for name, kind in _TYPES.items()])
    except psycopg.Error as exc:  # COPY bypasses SQLAlchemy, so the engine does not translate its errors
        raise database_error(exc, connection.engine.url, failed="the vectors cannot be stored") from exc


def _upsert(others: Sequence[str]) -> sa.Executable:
    """Return the statement that stores what is staged; `others` are the columns with vectors of other models."""
    table = images_with(*others)
    staging = sa.table(_STAGING, *(sa.column(name, images.c[name].type) for name in _TYPES))
    # All writers take row locks in this order, which rules out deadlocks.
    staged = sa.select(*staging.c).order_by(staging.c.image.collate("C"))
    statement = insert(table).from_select(list(_TYPES), staged)
    excluded = statement.excluded
    values: dict[str, Any] = {name: excluded[name] for name in _TYPES if name != "image"}
    values |= {name: sa.func.coalesce(excluded[name], table.c[name]) for name in _KEPT_WHERE_UNKNOWN}
    values["folder"] = kept_folder(excluded.folder)
    same_content = excluded.sha256.is_(None) | (excluded.sha256 == table.c.sha256)
    kept = {name: sa.case((same_content, table.c[name])) for name in others}
    # A file of vectors knows nothing of the files beside an image: they are no difference as long as what is stored of
    # them is the same.
    compared = {name: value for name, value in values.items() if name != "companion_state"}
    differs = sa.or_(*(table.c[name].is_distinct_from(value) for name, value in compared.items()))
    return statement.on_conflict_do_update(
        index_elements=["image"], set_={**values, **kept, "ingested_at": sa.func.now()}, where=differs
    )
