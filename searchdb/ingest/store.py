"""Writes images and failures to the database in chunks; any number of processes may do so at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY, distinct_on, insert

from searchdb.db.current_model import check_model, claim_model
from searchdb.db.tables import images, ingest_chunks, ingest_failures, ingest_pending
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.moves import apply_moves
from searchdb.ingest.rows import UNSTORABLE, failure_row, image_row, storable
from searchdb.records import (
    ChunkOutcome,
    EmbeddedImage,
    FailedImage,
    Failure,
    ModelIdentity,
    RejectedItem,
    SourceItem,
)

SCAN_ROWS = 1000
"""Rows fetched at a time from a listing, which may be as long as the collection."""


def _has(table: sa.Table, beside: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a table has the reference of a row of another table.

    It looks each of them up: OFFSET 0 keeps the planner from joining the tables instead, for which it may read all of
    `images` although there are few failures.
    """
    return sa.select(sa.literal(1)).where(table.c.image == beside.c.image).correlate(beside).offset(0).exists()


NOT_STORED = ~_has(images, ingest_failures)
"""Selects failures whose reference is not stored. An image whose file turned bad later stays stored."""
COUNT_FAILED = sa.select(sa.func.count()).select_from(ingest_failures).where(NOT_STORED)
COUNT_PENDING = (
    sa.select(sa.func.count())
    .select_from(ingest_pending)
    .where(~_has(images, ingest_pending), ~_has(ingest_failures, ingest_pending))
)
"""Like COUNT_FAILED: the number of references in the queue that are neither stored nor failed."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """What a stored reference looked like last time: its file's size and time, None for a URL."""

    byte_size: int | None
    modified_at: datetime | None

    def matches(self, item: SourceItem | RejectedItem) -> bool:
        """Whether the reference is unchanged. A URL counts as unchanged, since only its server could tell."""
        if isinstance(item, RejectedItem):
            return False
        return item.modified_at is None or (self.byte_size, self.modified_at) == (item.byte_size, item.modified_at)


@dataclass(frozen=True, kw_only=True)
class FailedState(FileState):
    """What a failed reference looked like, unless its source `rejected` it, and why it failed."""

    rejected: bool
    error: str
    message: str

    def fails_again(self, item: SourceItem | RejectedItem, limits: Limits) -> bool:
        """Whether the reference is unchanged, and so are the reason and the settings: trying it again is no use."""
        if self.rejected or isinstance(item, RejectedItem):
            return self.rejected and isinstance(item, RejectedItem) and storable(str(item.error)) == self.message
        return self.matches(item) and not limits.lift(self.error, self.message)


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

    def stored(self, references: Sequence[str]) -> dict[str, FileState]:
        """Return the references that are stored, with their state at the time."""
        statement = sa.select(images.c.image, images.c.byte_size, images.c.modified_at)
        with self._engine.connect() as connection:
            return {
                row.image: FileState(byte_size=row.byte_size, modified_at=row.modified_at)
                for row in connection.execute(statement.where(images.c.image.in_(references)))
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
        statement = sa.select(ingest_failures.c.image, *columns).where(ingest_failures.c.image.in_(references))
        with self._engine.connect() as connection:
            return {
                row["image"]: FailedState(**{name: row[name] for name in _FAILED})
                for row in connection.execute(statement).mappings()
            }

    def embeddings_of(self, hashes: Sequence[bytes], model: ModelIdentity) -> dict[bytes, np.ndarray]:
        """Return the stored unit vectors, float32 of shape (512,), of files that are stored, by their SHA-256."""
        statement = (
            sa.select(images.c.sha256, images.c.embedding)
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
            runs = _delete_from_queue(connection, outcome)
            moves = apply_moves(connection, outcome.moved)
            moved = {move.item.image for move in moves}
            _delete_failures(connection, [*moved, *(move.image for move in moves)])
            upsert_images(connection, [e for e in outcome.embedded if e.decoded.item.image not in moved], model)
            _record_failures(connection, outcome.failed)
            if runs:
                connection.execute(sa.insert(ingest_chunks), _tallies(outcome, runs, worker))

    def images_under(self, path: str) -> Iterator[tuple[int, str]]:
        """Yield (id, path) of the images that came from the files below a folder, or from this file."""
        if UNSTORABLE.search(path):
            return
        statement = sa.select(images.c.id, images.c.image).where(
            images.c.source == "files",
            sa.func.starts_with(images.c.image, path.rstrip("/") + "/") | (images.c.image == path),
        )
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=SCAN_ROWS).execute(statement):
                yield row.id, row.image

    def delete_images(self, found: Sequence[tuple[int, str]]) -> int:
        """Delete images by id and path, unless the path has changed meanwhile; return how many were deleted."""
        # Two arrays: a parameter for each would hit the limit of 65,535 when a whole folder is gone.
        ids = sa.literal([image_id for image_id, _ in found], ARRAY(sa.BigInteger))
        paths = sa.literal([path for _, path in found], ARRAY(sa.Text))
        chosen = sa.func.unnest(ids, paths).table_valued("id", "image").render_derived()
        with self._engine.begin() as connection:
            return connection.execute(
                sa.delete(images).where(images.c.id == chosen.c.id, images.c.image == chosen.c.image)
            ).rowcount

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
            _record_failures(connection, failed)

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
            _delete_failures(connection, references)

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
    # All writers take row locks in this order (collation "C" in SQL), which rules out deadlocks.
    rows = sorted((image_row(image, model_id) for image in embedded), key=lambda row: row["image"])
    statement = insert(images).values(rows)
    replaced = {name: statement.excluded[name] for name in rows[0] if name != "image"}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["image"], set_={**replaced, "ingested_at": sa.func.now()})
    )
    _delete_failures(connection, [row["image"] for row in rows])


def _record_failures(connection: Connection, failed: Sequence[FailedImage]) -> None:
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


def _delete_from_queue(connection: Connection, outcome: ChunkOutcome) -> dict[str, Sequence[UUID]]:
    """Delete the outcome's references from the queue; return those that were still in it, with their runs."""
    pending = ingest_pending.c
    references = [
        *(embedded.decoded.item.image for embedded in outcome.embedded),
        *(failure.image for failure in outcome.failed),
        *outcome.unchanged,
    ]
    ordered = (
        sa.select(pending.image)
        .where(pending.image.in_(references), pending.job_id == outcome.job_id)
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


def _delete_failures(connection: Connection, references: Sequence[str]) -> None:
    ordered = (
        sa.select(ingest_failures.c.id)
        .where(ingest_failures.c.image.in_(references))
        .order_by(ingest_failures.c.image.collate("C"))
        .with_for_update()
    )
    connection.execute(sa.delete(ingest_failures).where(ingest_failures.c.id.in_(ordered)))


def _matching(source: str | None, error: str | None) -> list[sa.ColumnElement[bool]]:
    wanted = {ingest_failures.c.source: source, ingest_failures.c.error: error}
    return [column == value for column, value in wanted.items() if value is not None]
