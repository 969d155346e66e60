"""Embeds stored images again, with the model that the collection is being switched to: the work of one job."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TypeVar
from uuid import uuid4

import numpy as np
import sqlalchemy as sa
from PIL import Image

from searchdb.batches import batched
from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.retry import retry_until_available
from searchdb.db.vectors import VectorColumn, column_of
from searchdb.embedder import Embedder
from searchdb.errors import (
    ContentChangedError,
    DatabaseError,
    DecodeInterruptedError,
    ImageError,
    ModelError,
    ModelOutputError,
    NoVectorError,
    WorkerLostError,
)
from searchdb.ingest.pipeline import FETCH_THREADS, MAX_ATTEMPTS
from searchdb.ingest.queue import Queue
from searchdb.records import SourceItem
from searchdb.switch.jobs import AgainQueue
from searchdb.switch.reading import (
    ChangedImage,
    ReadImage,
    Reading,
    ReadResult,
    StoredRow,
    Unreadable,
    previews_of,
    rows_to_read,
)
from searchdb.switch.vectors_beside import copy_from_same_bytes, record_failures, store_vectors

T = TypeVar("T")

BATCH = 32
"""Images embedded and stored at a time: a worker that is killed loses no more."""
WITHOUT_MODEL_S = 10
"""Seconds before a job is taken again that a worker without the model has put back."""
GONE = ("42703", "42P01")
"""SQLSTATEs of a column or table that does not exist: the switch was aborted meanwhile."""

logger = logging.getLogger(__name__)


def vectors_of(embedder: Embedder, images: Sequence[Image.Image]) -> list[np.ndarray | None]:
    """Return the vectors of images; None for those for which the model gives no numbers.

    Raises:
        ModelUnavailableError, ModelShapeError: it cannot be loaded.
    """
    try:
        return list(embedder.embed_images(images))
    except ModelOutputError:
        if len(images) == 1:
            return [None]
        return [vector for image in images for vector in vectors_of(embedder, [image])]


class Again:
    """Works on the jobs that embed images again; several threads may call `work` at the same time.

    Call `close` at the end.

    Args:
        database: the collection's.
        find_embedder: loads a model, given the switch to it.
        make_reading: makes what reads images for a model, which ends when the event is set.
    """

    def __init__(
        self,
        database: Database,
        *,
        find_embedder: Callable[[OpenSwitch], Embedder],
        make_reading: Callable[[Embedder, threading.Event], Reading],
    ) -> None:
        self._database = database
        self._jobs = AgainQueue(database.engine)
        self._queue = Queue(database.engine)
        self._find_embedder = find_embedder
        self._make_reading = make_reading
        self._making = threading.Lock()
        self._readings: dict[bytes, Reading] = {}
        self._embedding = threading.Lock()
        self._stopping = threading.Event()
        self._executor = ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="again")
        self._warned = False

    def stop(self) -> None:
        """Start no further image; what was not done is queued again by the command that runs the switch."""
        self._stopping.set()

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def work(self, job_id: int, attempts: int, *, isolated: bool, model_id: int, ids: Sequence[int]) -> None:
        """Embed those of the images that still lack the vector of a model; do nothing if the switch has ended.

        `attempts` is the number of workers that died or failed at the job before.

        Raises:
            DatabaseError: an outage lasted longer than MAX_OUTAGE_S, or the database refused a statement.
        """
        switch = self._retry(self._open_switch)
        if switch is None or switch.model_id != model_id or switch.changed_at is not None:
            return
        if attempts >= MAX_ATTEMPTS and not isolated:
            self._retry(lambda: self._jobs.isolate(job_id, model_id, ids))
            return
        if attempts >= MAX_ATTEMPTS and isolated:
            failures = [(image_id, WorkerLostError(attempts)) for image_id in ids]
            self._retry(lambda: record_failures(self._database.engine, switch.column, failures))
            return
        try:
            embedder, reading = self._for(switch)
        except ModelError as exc:
            if not self._warned:
                logger.warning("this worker leaves the images of the switch to %s to others: %s", switch.model, exc)
                self._warned = True
            self._retry(lambda: self._jobs.postpone(job_id, model_id, ids, wait_s=WITHOUT_MODEL_S))
            return
        try:
            self._work(switch, embedder, reading, ids)
        except DecodeInterruptedError:
            return
        except DatabaseError as exc:
            if exc.sqlstate not in GONE:
                raise

    def _work(self, switch: OpenSwitch, embedder: Embedder, reading: Reading, ids: Sequence[int]) -> None:
        column, engine = switch.column, self._database.engine
        if self._retry(lambda: self._column_exists(column)):
            self._retry(lambda: copy_from_same_bytes(engine, column, ids))
            rows = self._retry(lambda: self._missing(column, ids))
            for results in self._read(reading, rows):
                self._store(switch, embedder, results)

    def _read(self, reading: Reading, rows: Sequence[StoredRow]) -> Iterator[Sequence[ReadResult]]:
        """Yield what is read, a few at a time: images by many threads, one after the other the frames of a video."""
        pictures = [row for row in rows if not row.is_frame]
        for batch in batched(pictures, BATCH):
            if self._stopping.is_set():
                return
            yield list(self._executor.map(reading.read_image, batch))
        frames = [row for row in rows if row.is_frame]
        for _, group in groupby(frames, key=lambda row: row.file):
            if self._stopping.is_set():
                return
            video = list(group)
            previews = self._retry(lambda video=video: self._previews(video))
            yield from reading.read_frames(video, previews)

    def _store(self, switch: OpenSwitch, embedder: Embedder, results: Sequence[ReadResult]) -> None:
        changed = [each.row for each in results if isinstance(each, ChangedImage)]
        # A URL that sends other bytes each time would be ingested repeatedly.
        once = [row for row in changed if row.ingested_at < switch.started_at]
        failures: list[tuple[int, ImageError]] = [
            (each.row.id, each.error) for each in results if isinstance(each, Unreadable)
        ]
        failures += [(row.id, ContentChangedError()) for row in changed if row not in once]
        failures += self._ingest_again(once)
        read = [each for each in results if isinstance(each, ReadImage)]
        engine, column = self._database.engine, switch.column
        if read:
            with self._embedding:
                vectors = vectors_of(embedder, [each.pixels for each in read])
            made = list(zip(read, vectors, strict=True))
            found = [(each.row.id, each.sha256, vector) for each, vector in made if vector is not None]
            failures += [(each.row.id, NoVectorError()) for each, vector in made if vector is None]
            self._retry(lambda: store_vectors(engine, column, found))
        if failures:
            self._retry(lambda: record_failures(engine, column, failures))

    def _ingest_again(self, rows: Iterable[StoredRow]) -> list[tuple[int, ImageError]]:
        """Queue files with other bytes for the ingest, which stores the vectors of both models; return failures."""
        items: dict[str, SourceItem] = {}
        failures: list[tuple[int, ImageError]] = []
        for row in rows:
            try:
                items.setdefault(row.file, row.to_ingest())
            except ImageError as exc:
                failures.append((row.id, exc))
        if items:
            self._retry(lambda: self._queue.put(list(items.values()), uuid4(), urgent=True))
        return failures

    def _for(self, switch: OpenSwitch) -> tuple[Embedder, Reading]:
        with self._making:
            embedder = self._find_embedder(switch)
            key = switch.model.weights_sha256
            if key not in self._readings:
                self._readings[key] = self._make_reading(embedder, self._stopping)
            return embedder, self._readings[key]

    def _open_switch(self) -> OpenSwitch | None:
        with self._database.connect() as connection:
            return open_switch(connection)

    def _column_exists(self, column: VectorColumn) -> bool:
        with self._database.connect() as connection:
            return column.model_id is not None and column_of(connection, column.model_id) is not None

    def _missing(self, column: VectorColumn, ids: Sequence[int]) -> list[StoredRow]:
        with self._database.connect() as connection:
            return rows_to_read(connection, ids, sa.literal_column(f"images.{column.name}").is_(None))

    def _previews(self, rows: Sequence[StoredRow]) -> dict[int, bytes]:
        with self._database.connect() as connection:
            return previews_of(connection, [row.id for row in rows])

    def _retry(self, call: Callable[[], T]) -> T:
        return retry_until_available(call, outage_log=self._database.outage_log, cancel=self._stopping)
