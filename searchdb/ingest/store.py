"""Writes images and failures to the database in chunks; any number of processes may do so at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on, insert

from searchdb.db.current_model import check_model, claim_model
from searchdb.db.tables import as_vector, images, ingest_chunks, ingest_failures, ingest_pending
from searchdb.ingest.counts import COUNT_FAILED, COUNT_PENDING
from searchdb.ingest.folders import keeps_folder, set_folders
from searchdb.ingest.frames import FILE, FIRST_OF_FILE, StoredFile, from_files
from searchdb.ingest.moves import apply_moves, with_other_companions
from searchdb.ingest.refresh import merge_parts, refresh_images
from searchdb.ingest.rows import UNSTORABLE, failure_row, image_row
from searchdb.ingest.states import FailedState, StoredState
from searchdb.ingest.upsert import columns_to_write, other_vectors, upsert_rows
from searchdb.records import (
    ChunkOutcome,
    EmbeddedImage,
    FailedImage,
    Failure,
    ModelIdentity,
    RefreshedImage,
    SourceItem,
)

SCAN_ROWS = 1000
"""Rows fetched at a time from a listing, which may be as long as the collection."""
_STORED = [each.name for each in fields(StoredState)]
_FAILED = [each.name for each in fields(FailedState)]


class Store:
    """Writes to one collection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def engine(self) -> Engine:
        """The collection's database."""
        return self._engine

    def check_model(self, model: ModelIdentity) -> None:
        """Refuse a model other than that of the stored images.

        Raises:
            ModelMismatchError: the stored vectors come from other weights.
        """
        with self._engine.connect() as connection:
            check_model(connection, model)

    # --- images ---------------------------------------------------------------------------------

    def stored(self, references: Sequence[str]) -> dict[str, StoredState]:
        """Return the references that are stored, with their state at the time."""
        told = images.c.metadata
        every_s = sa.case((images.c.video.is_not(None), sa.cast(told["every"].astext, sa.Double))).label("every_s")
        partial = sa.and_(images.c.video.is_not(None), told.has_key("partial")).label("partial")
        columns = [images.c[name] for name in _STORED if name in images.c]
        statement = sa.select(FILE.label("file"), *columns, every_s, partial)
        with self._engine.connect() as connection:
            return {
                row["file"]: StoredState(**{name: row[name] for name in _STORED})
                for row in connection.execute(statement.where(from_files(references), FIRST_OF_FILE)).mappings()
            }

    def failed(self, references: Sequence[str]) -> dict[str, FailedState]:
        """Return the references that have failed, with their state at the time."""
        item = ingest_failures.c.item
        columns = (
            sa.cast(item["byte_size"].astext, sa.BigInteger).label("byte_size"),
            sa.cast(item["modified_at"].astext, sa.DateTime(timezone=True)).label("modified_at"),
            item.is_(None).label("rejected"),
            ingest_failures.c.error,
            ingest_failures.c.message,
        )
        given = sa.any_(sa.literal(list(references), ARRAY(sa.Text)))
        statement = sa.select(ingest_failures.c.image, *columns).where(ingest_failures.c.image == given)
        with self._engine.connect() as connection:
            return {
                row["image"]: FailedState(**{name: row[name] for name in _FAILED})
                for row in connection.execute(statement).mappings()
            }

    def embeddings_of(self, hashes: Sequence[bytes], model: ModelIdentity) -> dict[bytes, np.ndarray]:
        """Return the stored unit vectors, float32 of shape (dimension,), of files that are stored, by their SHA-256."""
        statement = (
            sa.select(images.c.sha256, as_vector(images.c.embedding).label("embedding"))
            .ext(distinct_on(images.c.sha256))
            .where(images.c.sha256.in_(hashes))
            .order_by(images.c.sha256)
        )
        with self._engine.begin() as connection:
            claim_model(connection, model)
            return {row.sha256: row.embedding for row in connection.execute(statement)}

    def record_outcome(self, outcome: ChunkOutcome, model: ModelIdentity, *, worker: str) -> None:
        """Store a chunk's images and failures, and delete its references from the queue, in one transaction.

        References that another worker has recorded meanwhile are stored again, unchanged, but not counted again.

        Raises:
            ModelMismatchError: another model has claimed the collection meanwhile.
        """
        with self._engine.begin() as connection:
            references = [
                *(embedded.decoded.item.image for embedded in outcome.embedded),
                *(failure.image for failure in outcome.failed),
                *(refreshed.item.image for refreshed in outcome.refreshed),
                *outcome.unchanged,
            ]
            runs = delete_from_queue(connection, outcome.job_id, references)
            moves = apply_moves(connection, outcome.moved)
            moved = {move.item.image for move in moves}
            delete_failures(connection, [*moved, *(move.image for move in moves)])
            items = [*(each.decoded.item for each in outcome.embedded), *(each.item for each in outcome.refreshed)]
            merge_parts(connection, items)
            upsert_images(connection, [e for e in outcome.embedded if e.decoded.item.image not in moved], model)
            beside = with_other_companions(connection, [move.item for move in moves])
            moved_without = [each.decoded for each in outcome.embedded if each.decoded.item.image in beside]
            refreshed = [RefreshedImage(item=each.item, written=each.written) for each in moved_without]
            refresh_images(connection, [*outcome.refreshed, *refreshed])
            delete_failures(connection, _references(items))
            record_failures(connection, outcome.failed)
            if runs:
                connection.execute(sa.insert(ingest_chunks), _tallies(outcome, runs, worker))

    def update_without_reading(self, items: Sequence[SourceItem], stored: Mapping[str, StoredState]) -> None:
        """Bring what needs no reading up to date in the rows of these items that are `stored`.

        They get their folder. The files that belong to them are no images and no failures any longer.
        """
        folders = {
            item.image: item.folder
            for item in items
            if item.folder is not None
            and item.image in stored
            and not keeps_folder(stored[item.image].folder, item.folder)
        }
        owners = [item for item in items if item.companions and item.image in stored]
        if folders or owners:
            with self._engine.begin() as connection:
                if folders:
                    set_folders(connection, folders)
                merge_parts(connection, owners)
                delete_failures(connection, [each.path for item in owners for each in item.companions])

    def images_under(self, path: str) -> Iterator[StoredFile]:
        """Yield the images that came from the files below a folder, or from this file, and the frames of videos."""
        if UNSTORABLE.search(path):
            return
        inside = path.rstrip("/") + "/"
        statement = sa.select(images.c.id, images.c.image, FILE.label("file")).where(
            images.c.source == "files",
            sa.func.starts_with(images.c.image, inside) | (images.c.image == path) | (images.c.video == path),
        )
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=SCAN_ROWS).execute(statement):
                yield StoredFile(id=row.id, image=row.image, file=row.file)

    def delete_images(self, found: Sequence[StoredFile]) -> int:
        """Delete images and frames, unless their path has changed meanwhile; return of how many files.

        A video whose file is gone has no failure any more either.
        """
        # Two arrays: a parameter for each would hit the limit of 65,535 when a whole folder is gone.
        ids = sa.literal([each.id for each in found], ARRAY(sa.BigInteger))
        paths = sa.literal([each.image for each in found], ARRAY(sa.Text))
        chosen = sa.func.unnest(ids, paths).table_valued("id", "image").render_derived()
        # All writers lock rows in this order, which rules out deadlocks.
        ordered = (
            sa.select(images.c.id)
            .join(chosen, (images.c.id == chosen.c.id) & (images.c.image == chosen.c.image))
            .order_by(images.c.image.collate("C"))
            .with_for_update(of=images)
        )
        with self._engine.begin() as connection:
            files = set(connection.scalars(sa.delete(images).where(images.c.id.in_(ordered)).returning(FILE)))
            delete_failures(connection, sorted({each.file for each in found if each.is_frame and each.file in files}))
            return len(files)

    def delete_source(self, source: str) -> int:
        """Delete a source's images, failures and queued references; return the number of images."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(ingest_pending).where(ingest_pending.c.source == source))
            connection.execute(sa.delete(ingest_failures).where(ingest_failures.c.source == source))
            return connection.execute(sa.delete(images).where(images.c.source == source)).rowcount

    # --- failures -------------------------------------------------------------------------------

    def record_failures(self, failed: Sequence[FailedImage]) -> None:
        """Record failures; a known one counts another attempt."""
        with self._engine.begin() as connection:
            record_failures(connection, failed)

    def failures(self, *, source: str | None = None, error: str | None = None) -> Iterator[Failure]:
        """Yield recorded failures, oldest first, optionally of one source and one error class."""
        statement = sa.select(ingest_failures).where(*_matching(source, error)).order_by(ingest_failures.c.id)
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=SCAN_ROWS).execute(statement).mappings():
                yield Failure.from_row(row)

    def clear_failures(self, *, source: str | None = None, error: str | None = None) -> int:
        """Delete recorded failures, so that the next ingest tries them again; return their number."""
        with self._engine.begin() as connection:
            return connection.execute(sa.delete(ingest_failures).where(*_matching(source, error))).rowcount

    def delete_failures(self, references: Sequence[str]) -> None:
        """Delete the failures of these references."""
        with self._engine.begin() as connection:
            delete_failures(connection, references)

    def counts(self) -> dict[str, int]:
        """Return the exact number of distinct references that are stored (`images`), `failed` and `pending`.

        A reference counts once: a stored image whose file turned bad, or is queued again, counts as stored. Reads all
        references; `searchdb.status` estimates the numbers of large collections.
        """
        statement = sa.select(
            sa.select(sa.func.count()).select_from(images).scalar_subquery().label("images"),
            COUNT_FAILED.scalar_subquery().label("failed"),
            COUNT_PENDING.scalar_subquery().label("pending"),
        )
        with self._engine.connect() as connection:  # one statement, so that all counts are of the same moment
            return dict(connection.execute(statement).mappings().one())


def upsert_images(connection: Connection, embedded: Sequence[EmbeddedImage], model: ModelIdentity) -> None:
    """Store images in the caller's transaction, replacing rows with the same reference, and delete their failures.

    Raises:
        ModelMismatchError: another model has claimed the collection meanwhile.
    """
    if not embedded:
        return
    model_id = claim_model(connection, model)
    columns = columns_to_write(connection)
    # All writers take row locks in this order (collation "C" in SQL), which rules out deadlocks.
    rows: list[dict[str, Any]] = [
        image_row(image, model_id) | other_vectors(image.others, columns) for image in embedded
    ]
    rows.sort(key=lambda row: row["image"])
    # A file that was a video when it was stored.
    connection.execute(sa.delete(images).where(images.c.video.in_([row["image"] for row in rows])))
    connection.execute(upsert_rows(rows, columns))
    delete_failures(connection, [row["image"] for row in rows])


def _references(items: Sequence[SourceItem]) -> list[str]:
    """Return the references of items, and those that the files beside them had when they were items."""
    return [path for item in items for path in (item.image, *(each.path for each in item.companions))]


def record_failures(connection: Connection, failed: Sequence[FailedImage]) -> None:
    """Record failures in the caller's transaction; a known one counts another attempt."""
    if not failed:
        return
    statement = insert(ingest_failures).values(sorted(map(failure_row, failed), key=lambda row: row["image"]))
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["image"],
            set_={
                **{name: statement.excluded[name] for name in ("error", "message", "retryable", "item")},
                "attempts": ingest_failures.c.attempts + 1,
                "last_failed_at": sa.func.now(),
            },
        )
    )


def delete_from_queue(connection: Connection, job_id: int, references: Sequence[str]) -> dict[str, Sequence[UUID]]:
    """Delete references of a job from the queue; return those that were still in it, with their runs."""
    pending = ingest_pending.c
    ordered = (
        sa.select(pending.image)
        .where(pending.image.in_(references), pending.job_id == job_id)
        .order_by(pending.image.collate("C"))
        .with_for_update()
    )
    taken = sa.delete(ingest_pending).where(pending.image.in_(ordered)).returning(pending.image, pending.run_ids)
    return {row.image: row.run_ids for row in connection.execute(taken)}


def _tallies(outcome: ChunkOutcome, runs: Mapping[str, Sequence[UUID]], worker: str) -> list[dict[str, Any]]:
    """Return a row of `ingest_chunks` for each run that queued part of the chunk."""
    errors = {failure.image: type(failure.error).__name__ for failure in outcome.failed}
    rows: dict[UUID, dict[str, Any]] = {}
    for image, run_ids in runs.items():
        for run_id in run_ids:
            fresh: dict[str, Any] = {
                "run_id": run_id,
                "worker": worker,
                "stored": 0,
                "copied": 0,
                "unchanged": 0,
                "failed": Counter[str](),
            }
            row = rows.setdefault(run_id, fresh)
            if image in errors:
                row["failed"][errors[image]] += 1
            elif image in outcome.unchanged:
                row["unchanged"] += 1
            else:
                row["stored"] += 1
                row["copied"] += image in outcome.copied
    return list(rows.values())


def any_of(texts: Sequence[str]) -> sa.CollectionAggregate[Any]:
    """Return what a column is compared with to be one of the texts: one parameter, where IN takes one for each."""
    return sa.any_(sa.literal(list(texts), ARRAY(sa.Text)))


def delete_failures(connection: Connection, references: Sequence[str]) -> None:
    """Delete the failures of references in the caller's transaction."""
    ordered = (
        sa.select(ingest_failures.c.id)
        .where(ingest_failures.c.image == any_of(references))
        .order_by(ingest_failures.c.image.collate("C"))
        .with_for_update()
    )
    connection.execute(sa.delete(ingest_failures).where(ingest_failures.c.id.in_(ordered)))


def _matching(source: str | None, error: str | None) -> list[sa.ColumnElement[bool]]:
    wanted = {ingest_failures.c.source: source, ingest_failures.c.error: error}
    return [column == value for column, value in wanted.items() if value is not None]
