"""Images that the current model could not embed when it became the current one: lists them, and tries them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.batches import batched
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.switch_tables import unembedded_images
from searchdb.db.tables import Embedding, images
from searchdb.embedder import Embedder
from searchdb.errors import ImageError, NoVectorError
from searchdb.ingest.queue import Queue
from searchdb.ingest.rows import storable
from searchdb.records import Failure
from searchdb.switch.again import vectors_of
from searchdb.switch.reading import ReadImage, Reading, StoredRow, Unreadable, stored_rows

BATCH = 32
"""Images read, embedded and moved back at a time."""
THREADS = 16
"""Images read at a time."""

_NAMES = ", ".join(column.name for column in images.columns)
_VALUES = ", ".join(
    {"embedding": ":vector", "embedding_model_id": ":model"}.get(column.name, f"gone.{column.name}")
    for column in images.columns
)
# Ingested again meanwhile: the newer row stays, with the tags that only the older one has.
_MOVE_BACK = text(
    f"""
    INSERT INTO images ({_NAMES}) OVERRIDING SYSTEM VALUE SELECT {_VALUES} FROM unembedded_images AS gone WHERE id = :id
    ON CONFLICT (image) DO UPDATE SET tags = ARRAY(
        SELECT tag FROM unnest(images.tags || excluded.tags) WITH ORDINALITY AS each (tag, place)
        GROUP BY tag ORDER BY min(place)
    )
    """  # noqa: S608 - our own names
).bindparams(sa.bindparam("vector", type_=Embedding()))
_FAIL = text(
    """
    UPDATE unembedded_images
    SET error = :error, message = :message, attempts = attempts + 1, failed_at = now() WHERE id = :id
    """
)
_DELETE = text("DELETE FROM unembedded_images WHERE id = ANY (:ids)").bindparams(
    sa.bindparam("ids", type_=ARRAY(sa.BigInteger))
)


@dataclass(frozen=True, kw_only=True)
class RetryReport:
    """What became of images that were tried again: `moved_back` into the search, `queued` for the ingest, `failed`.

    Those that were queued have other bytes than before.
    """

    moved_back: int
    queued: int
    failed: int


def unembedded_failures(
    connection: Connection, *, source: str | None = None, error: str | None = None
) -> Iterator[Failure]:
    """Yield the images as failures, oldest first, optionally of one source and one error class."""
    statement = sa.select(unembedded_images).where(*_matching(source, error)).order_by(unembedded_images.c.id)
    for row in connection.execute(statement).mappings():
        yield Failure(
            image=row["image"],
            source=row["source"],
            error=row["error"],
            message=row["message"],
            attempts=row["attempts"],
            retryable=True,
            first_failed_at=row["moved_at"],
            last_failed_at=row["failed_at"],
        )


def retry_unembedded(
    database: Database,
    embedder: Embedder,
    reading: Reading,
    *,
    source: str | None = None,
    error: str | None = None,
) -> RetryReport:
    """Embed the images with the current model, and move those that succeed back with their id and all metadata.

    Raises:
        ModelError: the model cannot be loaded, or is not the current one.
        DatabaseError: PostgreSQL failed.
    """
    with database.connect() as connection:
        ids = connection.scalars(sa.select(unembedded_images.c.id).where(*_matching(source, error))).all()
    moved_back = queued = failed = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="retry") as pool:
        for batch in batched(ids, BATCH):
            with database.connect() as connection:
                rows = stored_rows(connection, unembedded_images, batch)
            results = list(pool.map(reading.read_image, [row for row in rows if not row.is_frame]))
            for frame in (row for row in rows if row.is_frame):
                for found in reading.read_frames([frame], {}):
                    results += found
            read = [each for each in results if isinstance(each, ReadImage)]
            errors = [(each.row.id, each.error) for each in results if isinstance(each, Unreadable)]
            changed = [each.row for each in results if not isinstance(each, ReadImage | Unreadable)]
            vectors = vectors_of(embedder, [each.pixels for each in read])
            made = list(zip(read, vectors, strict=True))
            errors += [(each.row.id, NoVectorError()) for each, vector in made if vector is None]
            found = [(each.row, vector) for each, vector in made if vector is not None]
            _move_back(database, embedder, found)
            requeued, unreadable = _ingest(database, changed)
            _record(database, [*errors, *unreadable])
            moved_back += len(found)
            queued += requeued
            failed += len(errors) + len(unreadable)
    return RetryReport(moved_back=moved_back, queued=queued, failed=failed)


def _move_back(database: Database, embedder: Embedder, found: Sequence[tuple[StoredRow, np.ndarray]]) -> None:
    if not found:
        return
    # All writers lock rows in the order of their references.
    ordered = sorted(found, key=lambda each: each[0].file)
    with database.begin() as connection:
        model_id = claim_model(connection, embedder.identity)
        for row, vector in ordered:
            connection.execute(_MOVE_BACK, {"id": row.id, "vector": vector, "model": model_id})
        connection.execute(_DELETE, {"ids": [row.id for row, _ in ordered]})


def _ingest(database: Database, rows: Sequence[StoredRow]) -> tuple[int, list[tuple[int, ImageError]]]:
    """Queue images whose bytes have changed for the ingest; return their number, and those that cannot be read."""
    failures: list[tuple[int, ImageError]] = []
    queue, done = Queue(database.engine), list[int]()
    for row in rows:
        try:
            queue.put([row.to_ingest()], uuid4(), urgent=False)
            done.append(row.id)
        except ImageError as exc:
            failures.append((row.id, exc))
    if done:
        with database.begin() as connection:
            connection.execute(_DELETE, {"ids": done})
    return len(done), failures


def _record(database: Database, failures: Sequence[tuple[int, ImageError]]) -> None:
    if failures:
        values = [
            {"id": image_id, "error": type(error).__name__, "message": storable(str(error))}
            for image_id, error in failures
        ]
        with database.begin() as connection:
            connection.execute(_FAIL, values)


def _matching(source: str | None, error: str | None) -> list[sa.ColumnElement[bool]]:
    wanted = {unembedded_images.c.source: source, unembedded_images.c.error: error}
    return [column == value for column, value in wanted.items() if value is not None]
