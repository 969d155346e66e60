"""Writes a video to the database: its frames with their previews, in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import insert

from searchdb.batches import batched
from searchdb.db.current_model import claim_model
from searchdb.db.tables import frame_previews, images, ingest_chunks, ingest_failures
from searchdb.db.vectors import VectorColumn
from searchdb.ingest.frames import frame_reference, from_files
from searchdb.ingest.moves import apply_moves, with_other_companions
from searchdb.ingest.rows import image_row
from searchdb.ingest.store import delete_failures, delete_from_queue, record_failures
from searchdb.ingest.upsert import columns_to_write, other_vectors, upsert_rows
from searchdb.records import (
    DecodedImage,
    EmbeddedImage,
    FailedImage,
    ModelIdentity,
    MovedImage,
    SourceItem,
    WrittenMetadata,
)

REFERENCE_LOCK = 0x5EA2C4DD
"""First half of the advisory lock's key that `Adder` takes for a reference, too; the second half comes from a hash."""
ROWS_AT_A_TIME = 500
"""Rows in one statement: a parameter for each value, of which PostgreSQL takes 65,535."""


@dataclass(frozen=True, kw_only=True)
class StoredFrame:
    """A frame as it is stored: its time in seconds, unit vector, small WebP, and mean colour.

    `others` are its vectors by models that are not the current one, by the model's id.
    """

    time: float
    embedding: np.ndarray
    preview: bytes
    colour: str | None
    others: Mapping[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What is stored with each frame of a video; width and height are those of the upright video in pixels."""

    sha256: bytes
    byte_size: int
    width: int
    height: int
    codec: str
    duration_s: float | None
    every_s: float
    written: WrittenMetadata


@dataclass(frozen=True, kw_only=True)
class KnownVideo:
    """What is stored of a video with the same bytes, without what its container says."""

    facts: VideoFacts
    frames: Sequence[StoredFrame]


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """What became of a video: its frames, the `move` of those that are stored already, and why it failed, if so.

    A video that failed may have frames: those that could be read. `copied`: the vectors are those of a stored video.
    """

    item: SourceItem
    facts: VideoFacts | None = None
    frames: Sequence[StoredFrame] = ()
    failure: FailedImage | None = None
    move: MovedImage | None = None
    copied: bool = False


def record_video(engine: Engine, outcome: VideoOutcome, model: ModelIdentity, *, job_id: int, worker: str) -> int:
    """Store a video's frames and failure, and delete it from the queue, in one transaction; return its frames' number.

    Frames that were stored of it before and are not among these are deleted, unless none could be read now.

    Raises:
        ModelMismatchError: another model has claimed the collection meanwhile.
    """
    reference = outcome.item.image
    with engine.begin() as connection:
        runs = delete_from_queue(connection, job_id, [reference])
        _lock(connection, reference)
        moved = outcome.move is not None and bool(apply_moves(connection, [outcome.move]))
        if outcome.move is not None and moved:
            delete_failures(connection, [outcome.move.image])
        if moved and outcome.copied and not with_other_companions(connection, [outcome.item]):
            frames = _count(connection, reference)  # they keep all that is stored with them
        else:
            frames = _write_frames(connection, outcome, model)
        if outcome.failure is None:
            delete_failures(connection, [reference])
        else:
            record_failures(connection, [outcome.failure])
        tally: dict[str, Any] = {
            "worker": worker,
            "stored": int(outcome.failure is None),
            "copied": int(outcome.copied),
            "unchanged": 0,
            "failed": {} if outcome.failure is None else {type(outcome.failure.error).__name__: 1},
            "frames": frames,
        }
        if run_ids := runs.get(reference):
            connection.execute(sa.insert(ingest_chunks), [{**tally, "run_id": run_id} for run_id in run_ids])
    return frames


def frames_with_content(engine: Engine, item: SourceItem, sha256: bytes, model: ModelIdentity) -> KnownVideo | None:
    """Return the frames of a stored video with these bytes; None if there is none with the frames that are wanted.

    A video that could be read only in part is none.
    """
    every = images.c.metadata["every"].astext
    wanted = sa.true() if item.every_s is None else sa.cast(every, sa.Double) == item.every_s
    failed = sa.select(sa.literal(1)).where(ingest_failures.c.image == images.c.video).exists()
    candidates = (
        sa.select(images.c.video)
        .where(images.c.sha256 == sha256, images.c.video.is_not(None), wanted, ~failed)
        .where(~images.c.metadata.has_key("partial"))
        # Its own first: a file that was only touched keeps its frames.
        .order_by(images.c.video != item.image, images.c.video)
        .limit(1)
    )
    columns: list[sa.ColumnElement[Any]] = [*(images.c[name] for name in _COPIED), frame_previews.c.webp]
    frames = sa.select(*columns).join_from(images, frame_previews, isouter=True).order_by(images.c.video_time)
    with engine.begin() as connection:
        claim_model(connection, model)
        video = connection.scalar(candidates)
        if video is None:
            return None
        rows = connection.execute(frames.where(images.c.video == video)).mappings().all()
    if not rows or any(row["webp"] is None for row in rows):  # deleted meanwhile, or a preview is
        return None
    first = rows[0]
    told: Mapping[str, Any] = first["metadata"]
    facts = VideoFacts(
        sha256=sha256,
        byte_size=first["byte_size"],
        width=first["width"],
        height=first["height"],
        codec=str(told.get("codec")),
        duration_s=told.get("duration"),
        every_s=float(told["every"]),
        written=WrittenMetadata(),
    )
    known = [
        StoredFrame(
            time=row["video_time"], embedding=row["embedding"], preview=bytes(row["webp"]), colour=row["colour"]
        )
        for row in rows
    ]
    return KnownVideo(facts=facts, frames=known)


_COPIED = ("video_time", "embedding", "colour", "byte_size", "width", "height", "metadata")


def _lock(connection: Connection, reference: str) -> None:
    """Let other writers of this video wait until the transaction ends: they may lock its rows in another order."""
    key = int.from_bytes(hashlib.sha256(reference.encode()).digest()[:4], "big", signed=True)
    lock = sa.func.pg_advisory_xact_lock(sa.cast(REFERENCE_LOCK, sa.Integer), sa.cast(key, sa.Integer))
    connection.execute(sa.select(lock))


def _count(connection: Connection, video: str) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(images).where(images.c.video == video)) or 0


def _write_frames(connection: Connection, outcome: VideoOutcome, model: ModelIdentity) -> int:
    """Store the frames that there are; return how many of the video are stored then."""
    if outcome.facts is None or not outcome.frames:
        return _count(connection, outcome.item.image)
    model_id, columns = claim_model(connection, model), columns_to_write(connection)
    rows = _rows(outcome, outcome.facts, model_id, columns)
    by_reference = {row["image"]: frame for row, frame in zip(rows, outcome.frames, strict=True)}
    rows.sort(key=lambda row: row["image"])  # the order in which all writers lock rows (collation "C" in SQL)
    kept: list[int] = []
    for batch in batched(rows, ROWS_AT_A_TIME):
        stored = connection.execute(upsert_rows(batch, columns).returning(images.c.id, images.c.image)).all()
        kept += [row.id for row in stored]
        previews = insert(frame_previews).values(
            [{"image_id": row.id, "webp": by_reference[row.image].preview} for row in stored]
        )
        connection.execute(
            previews.on_conflict_do_update(index_elements=["image_id"], set_={"webp": previews.excluded.webp})
        )
    # Frames that are no longer among them, and the image that the file was before.
    connection.execute(sa.delete(images).where(from_files([outcome.item.image]), images.c.id.not_in(kept)))
    return len(kept)


def _rows(
    outcome: VideoOutcome, facts: VideoFacts, model_id: int, columns: Sequence[VectorColumn]
) -> list[dict[str, Any]]:
    """Return the rows of `images` in the order of the frames: they differ in what each shows and when."""
    base = image_row(
        EmbeddedImage(decoded=_as_image(outcome.item, facts), embedding=outcome.frames[0].embedding), model_id
    )
    video = base["image"]
    told = {"video": video, "duration": facts.duration_s, "codec": facts.codec, "every": facts.every_s}
    if outcome.failure is not None:
        told["partial"] = True
    return [
        base
        | other_vectors(frame.others, columns)
        | {
            "image": frame_reference(video, frame.time),
            "embedding": frame.embedding,
            "colour": frame.colour,
            "video": video,
            "video_time": frame.time,
            "metadata": {**base["metadata"], **told, "time": frame.time},
        }
        for frame in outcome.frames
    ]


def _as_image(item: SourceItem, facts: VideoFacts) -> DecodedImage:
    """Return the video as an image, whose row has all that a frame's has from the file and its source."""
    return DecodedImage(
        item=item,
        pixels=Image.new("RGB", (1, 1)),
        sha256=facts.sha256,
        byte_size=facts.byte_size,
        width=facts.width,
        height=facts.height,
        written=facts.written,
    )
