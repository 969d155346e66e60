"""Queues the images that lack the new model's vector, a bounded number of jobs ahead of those that embed them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import ARRAY

from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch
from searchdb.ingest.queue import URL_QUEUE, files_queue
from searchdb.records import is_url
from searchdb.switch.jobs import AgainQueue

JOB_IMAGES = 128
"""Images in one job, as in a chunk of an ingest. The frames of one video are one job, so that it is read once."""
JOBS_AHEAD = 16
"""Jobs that wait or run at a time, for the URLs and for the files: enough for several workers until the next look."""

# Images that wait to be ingested get both vectors there.
_MISSING = """
    SELECT id, coalesce(video, image) AS file, video IS NOT NULL AS is_frame FROM images
    WHERE <column> IS NULL AND id > :after AND id <> ALL (:queued)
    AND NOT EXISTS (
        SELECT FROM switch_failures AS failure
        WHERE failure.image_id = images.id AND failure.embedding_model_id = :model AND failure.failed_at >= :since
    )
    AND NOT EXISTS (SELECT FROM ingest_pending AS pending WHERE pending.image = coalesce(images.video, images.image))
    ORDER BY id LIMIT :size
"""
_FRAMES = "SELECT id, video FROM images WHERE video = ANY (:videos) AND <column> IS NULL AND id <> ALL (:queued)"


class Feeder:
    """Queues what is missing for one switch; call `feed` repeatedly.

    Args:
        database: the collection's.
        switch: the open switch.
        since: failures from before this moment are tried again; None: none is.
    """

    def __init__(self, database: Database, switch: OpenSwitch, *, since: datetime | None) -> None:
        self._database = database
        self._switch = switch
        self._since = since
        self._jobs = AgainQueue(database.engine)

    def feed(self) -> bool:
        """Queue images until JOBS_AHEAD jobs wait or run; return whether anything is left to do.

        Images that wait to be ingested count as left to do, those that failed do not.
        """
        jobs, queued = self._jobs.queued(self._switch.model_id)
        room = JOBS_AHEAD - jobs
        with self._database.begin() as connection:
            found = self._missing(connection, sorted(queued), max(room, 1) * JOB_IMAGES)
            if room > 0 and found:
                for queue, ids in self._jobs_of(connection, found, sorted(queued))[:room]:
                    self._jobs.put(self._switch.model_id, ids, queue=queue, connection=connection)
            waits = not found and not jobs and self._waits_for_ingest(connection)
        return bool(found) or jobs > 0 or waits

    def _missing(
        self, connection: Connection, queued: Sequence[int], size: int
    ) -> Sequence[sa.Row[tuple[object, ...]]]:
        return connection.execute(
            self._statement(_MISSING).bindparams(sa.bindparam("queued", type_=ARRAY(sa.BigInteger))),
            {"after": 0, "queued": queued, "size": size, **self._selection},
        ).all()

    def _jobs_of(
        self, connection: Connection, found: Sequence[sa.Row[tuple[object, ...]]], queued: Sequence[int]
    ) -> list[tuple[str, list[int]]]:
        """Return jobs of these images: the queue of each, and its ids."""
        here = files_queue()
        jobs: list[tuple[str, list[int]]] = []
        for queue, wanted in ((URL_QUEUE, True), (here, False)):
            ids = [row.id for row in found if not row.is_frame and is_url(row.file) == wanted]
            jobs += [(queue, ids[start : start + JOB_IMAGES]) for start in range(0, len(ids), JOB_IMAGES)]
        videos = dict.fromkeys(row.file for row in found if row.is_frame)
        if videos:
            frames: dict[str, list[int]] = {}
            statement = self._statement(_FRAMES).bindparams(
                sa.bindparam("videos", type_=ARRAY(sa.Text)), sa.bindparam("queued", type_=ARRAY(sa.BigInteger))
            )
            for row in connection.execute(statement, {"videos": list(videos), "queued": queued}):
                frames.setdefault(row.video, []).append(row.id)
            jobs += [(URL_QUEUE if is_url(video) else here, ids) for video, ids in frames.items()]
        return jobs

    def _waits_for_ingest(self, connection: Connection) -> bool:
        statement = self._statement(
            "SELECT EXISTS (SELECT FROM images JOIN ingest_pending AS pending "
            "ON pending.image = coalesce(images.video, images.image) WHERE <column> IS NULL)"
        )
        return bool(connection.scalar(statement))

    @property
    def _selection(self) -> dict[str, object]:
        return {"model": self._switch.model_id, "since": "-infinity" if self._since is None else self._since}

    def _statement(self, sql: str) -> sa.TextClause:
        return text(sql.replace("<column>", self._switch.column.name))
