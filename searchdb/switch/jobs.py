"""Queues images to be embedded again: jobs of the ingest's queues, with the ids of the images.

A job only names images; whether one still lacks its vector says its row. A job that is lost is made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from searchdb.db.tables import procrastinate_jobs
from searchdb.ingest.queue import ACTIVE, AGAIN_TASK, ISOLATED

if TYPE_CHECKING:
    import procrastinate

PRIORITY = -1
"""Behind all that is to be ingested."""

_args = procrastinate_jobs.c.args
_OF_TASK = sa.and_(procrastinate_jobs.c.task_name == AGAIN_TASK, ACTIVE)


class AgainQueue:
    """The jobs that embed images again, in one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(
        self,
        model_id: int,
        ids: Sequence[int],
        *,
        queue: str,
        isolated: bool = False,
        wait_s: int = 0,
        connection: Connection | None = None,
    ) -> None:
        """Queue images for a model; of the `isolated` jobs one runs at a time. It waits at least `wait_s` seconds."""
        from searchdb.ingest.queue_errors import queue_errors  # imports Procrastinate, as below

        if connection is None:
            with self._engine.begin() as own:
                self.put(model_id, ids, queue=queue, isolated=isolated, wait_s=wait_s, connection=own)
            return
        task = self._procrastinate.configure_task(
            AGAIN_TASK,
            queue=queue,
            priority=PRIORITY,
            lock=ISOLATED if isolated else None,
            schedule_in={"seconds": wait_s} if wait_s else None,
            connection=connection.connection.driver_connection,
        )
        with queue_errors(self._engine.url):
            task.defer(model_id=model_id, ids=list(ids))

    def queued(self, model_id: int) -> tuple[int, set[int]]:
        """Return the number of jobs that wait or run, and the ids of their images."""
        of_model = _args["model_id"].as_integer() == model_id
        with self._engine.connect() as connection:
            jobs = connection.scalars(sa.select(_args["ids"]).where(_OF_TASK, of_model)).all()
        return len(jobs), {image_id for ids in jobs for image_id in ids}

    def isolate(self, job_id: int, model_id: int, ids: Sequence[int]) -> None:
        """Replace a job at which workers died by one for each image."""
        with self._engine.begin() as connection:
            queue = connection.scalar(
                sa.select(procrastinate_jobs.c.queue_name).where(procrastinate_jobs.c.id == job_id)
            )
            for image_id in ids:
                self.put(model_id, [image_id], queue=queue or "", isolated=True, connection=connection)

    def postpone(self, job_id: int, model_id: int, ids: Sequence[int], *, wait_s: int) -> None:
        """Queue the images of a running job once more, for later or for another worker."""
        with self._engine.begin() as connection:
            queue = connection.scalar(
                sa.select(procrastinate_jobs.c.queue_name).where(procrastinate_jobs.c.id == job_id)
            )
            self.put(model_id, ids, queue=queue or "", wait_s=wait_s, connection=connection)

    @cached_property
    def _procrastinate(self) -> procrastinate.App:
        """Procrastinate's app. It is never opened, because it uses the connections it is given."""
        import procrastinate  # slow to import

        return procrastinate.App(connector=procrastinate.PsycopgConnector())


def cancel_jobs(connection: Connection) -> None:
    """Delete the jobs that wait; those that run find that their column is gone, and end."""
    waiting = procrastinate_jobs.c.status == "todo"
    connection.execute(sa.delete(procrastinate_jobs).where(procrastinate_jobs.c.task_name == AGAIN_TASK, waiting))
