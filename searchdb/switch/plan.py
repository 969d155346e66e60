"""Tells beforehand what a change to another model takes: space, time, and what is in its way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from searchdb.config import Settings
from searchdb.db.current_model import current_model
from searchdb.db.database import Database
from searchdb.db.samples import random_keys
from searchdb.db.tables import embedding_models, images
from searchdb.db.vectors import column_of
from searchdb.embedder import Embedder
from searchdb.errors import SwitchError
from searchdb.ingest.frames import FILE
from searchdb.switch.obstacles import obstacles
from searchdb.switch.reading import ReadImage, Reading, rows_to_read
from searchdb.switch.space import SpaceNeeded, space_needed
from searchdb.switch.start import count_missing

SAMPLE = 64
"""Images that are read and embedded to measure the time that one takes."""
THREADS = 8
"""Images read at a time for that; a worker reads more, but of a whole collection."""
SCAN_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class SwitchPlan:
    """What a switch would take.

    Attributes:
        model, from_model: the names of the models; the second is None in a collection without one.
        dimension: numbers of a vector by the new model.
        images: images in the collection.
        to_embed: those without a vector by the new model.
        sampled, sample_failed: images that were read to measure the time, and those of them that could not be.
        seconds: until all are embedded, by one worker like this process; None if none could be measured.
        space: disk space in bytes.
        missing_files: images whose file does not exist now; URLs are not asked for.
        obstacles: views and others that must be dropped before.
    """

    model: str
    from_model: str | None
    dimension: int
    images: int
    to_embed: int
    sampled: int
    sample_failed: int
    seconds: float | None
    space: SpaceNeeded
    missing_files: int
    obstacles: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def plan_switch(database: Database, settings: Settings, embedder: Embedder, reading: Reading) -> SwitchPlan:
    """Measure what a switch to a model takes, without changing anything.

    Raises:
        ModelError: the model cannot be loaded.
        SwitchError: it is the current one.
    """
    model = embedder.identity
    with database.connect() as connection:
        current = current_model(connection)
        if current is not None and current.weights_sha256 == model.weights_sha256:
            raise SwitchError(f"the collection has the vectors of {model} already: there is nothing to switch")
        total = connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0
        same = embedding_models.c.weights_sha256 == model.weights_sha256
        known = connection.scalar(sa.select(embedding_models.c.id).where(same))
        column = None if known is None else column_of(connection, known)
        to_embed = total if column is None else count_missing(connection, column)
        in_the_way = obstacles(connection)
        missing_files = _missing_files(connection)
    sampled, failed, seconds = _measure(database, embedder, reading) if to_embed else (0, 0, None)
    return SwitchPlan(
        model=model.name,
        from_model=None if current is None else current.name,
        dimension=model.dimension,
        images=total,
        to_embed=to_embed,
        sampled=sampled,
        sample_failed=failed,
        seconds=None if seconds is None else seconds * to_embed,
        space=space_needed(database, settings, model.dimension, missing=to_embed),
        missing_files=missing_files,
        obstacles=in_the_way,
    )


def _measure(database: Database, embedder: Embedder, reading: Reading) -> tuple[int, int, float | None]:
    """Return the numbers of images that were read and that could not be, and the seconds that one takes.

    Frames are left out: a video takes as long as it has.
    """
    with database.connect() as connection:
        ids = random_keys(connection, images.c.id, SAMPLE)
        rows = rows_to_read(connection, ids, images.c.video.is_(None))
    if not rows:
        return 0, 0, None
    # Loads the model, which is no part of an image's time.
    embedder.embed_texts(["a photo"])
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="plan") as pool:
        results = list(pool.map(reading.read_image, rows))
    pictures = [each.pixels for each in results if isinstance(each, ReadImage)]
    if pictures:
        embedder.embed_images(pictures)
    seconds = (time.monotonic() - began) / len(rows)
    return len(rows), len(rows) - len(pictures), seconds if pictures else None


def _missing_files(connection: Connection) -> int:
    """Return the number of images whose file does not exist; frames of a video count each."""
    statement = sa.select(FILE.label("file"), sa.func.count().label("rows")).where(FILE.like("/%")).group_by(FILE)
    rows = connection.execution_options(yield_per=SCAN_ROWS).execute(statement)
    return sum(row.rows for row in rows if not Path(row.file).exists())
