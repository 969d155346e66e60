"""The worker: the ingest loop as Procrastinate's task, in a thread of its own, through outages and until it is told."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import cast

import procrastinate
import psycopg
import sqlalchemy as sa
from procrastinate.exceptions import ConnectorException
from procrastinate.worker import Worker as ProcrastinateWorker

from searchdb.db.database import Database
from searchdb.db.retry import retry_until_available
from searchdb.errors import DatabaseError, ModelError
from searchdb.index import rebuild as index
from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY, Ingest, IngestReport
from searchdb.ingest.queue import STALLED_AFTER_S, SUSPECTS, TASK, Queue, queues

HEARTBEAT_S = 5.0
"""Between two signs of life, and two looks for workers that give none."""
TIDY_S = 60.0
"""Between two looks at what grows slowly: the vector index, lost chunks, old records."""
POLL_S = 2.0
"""Between two looks at the queue; notifications make most of them needless."""
CONNECTION_S = 3.0
"""Longest wait for one of the queue's connections: an outage is waited for elsewhere, and can be interrupted there."""
SHORT_S = 10.0
"""A session with the queue that ended sooner, although the database answers, is a failed one."""
MAX_SHORT_SESSIONS = 5
"""Failed sessions in a row before the worker gives up and says why."""

CHUNKS_FAULT = ("22", "23", "54")
"""SQLSTATE classes of errors that another worker would meet with the same chunk: values that PostgreSQL refuses."""
RETRY_S = 1
"""Pause before a chunk that failed in a way nobody foresaw is tried again."""

_LOST = (ConnectorException, psycopg.OperationalError)
"""What ends a session with the queue when the database goes away."""

logger = logging.getLogger(__name__)


class Worker:
    """Works off the queue from `start` until `stop`.

    Args:
        database: the collection's.
        ingest: makes what works off a chunk; called at the first chunk, so that an idle worker holds no model.
        concurrency: chunks in hand at a time.
    """

    def __init__(
        self, *, database: Database, ingest: Callable[[], Ingest], concurrency: int = DEFAULT_CONCURRENCY
    ) -> None:
        self._database = database
        self._queue = Queue(database.engine)
        self._make_ingest = ingest
        self._ingest: Ingest | None = None
        self._making = threading.Lock()
        self._in_hand: set[int] = set()
        self._concurrency = concurrency
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._session: ProcrastinateWorker | None = None
        self._thread = threading.Thread(target=self._run, name="searchdb-worker", daemon=True)
        self._ended = threading.Event()
        self._tidying: threading.Thread | None = None
        self.index_rebuilt = False

    @property
    def report(self) -> IngestReport:
        """What this worker has done."""
        return IngestReport() if self._ingest is None else self._ingest.report

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Take up nothing more; what was begun is stored, the rest goes back to the queue."""
        self._stop.set()
        if self._ingest is not None:
            self._ingest.stop()
        session = self._session  # the other thread may take it away
        if session is not None:
            session.stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, at most so long; return whether it has.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseError: the database went away for long, or refuses us.
        """
        # Not Thread.join: in Python 3.11 a Ctrl-C during it makes the thread count as ended while it runs on.
        if not self._ended.wait(timeout_s):
            return False
        if self._error is not None:
            raise self._error
        return True

    # --- in the worker's thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as exc:  # noqa: BLE001 - `join` raises it in the thread that waits
            self._error = exc
        finally:
            if self._ingest is not None:
                self._ingest.close()
            self._ended.set()

    def _serve(self) -> None:
        """Hold one session with the queue after the other, for an outage of the database ends them."""
        short = 0
        while not self._stop.is_set():
            retry_until_available(self._ping, cancel=self._stop)
            began = time.monotonic()
            try:
                asyncio.run(self._hold_session())
            except _LOST as exc:
                logger.info("the session with the queue was lost: %s", exc)
                short = short + 1 if time.monotonic() - began < SHORT_S else 0
                if short > MAX_SHORT_SESSIONS:
                    raise DatabaseError(f"the queue cannot be used: {exc.__cause__ or exc}") from exc
                self._stop.wait(1.0)

    def _ping(self) -> None:
        with self._database.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    async def _hold_session(self) -> None:
        loop = asyncio.get_running_loop()
        # Chunks, and what this module runs beside them, each hold a thread.
        loop.set_default_executor(ThreadPoolExecutor(self._concurrency + 2))
        # Of a job whose end could not be noted nobody asks how it went: `_keep_house` finds it.
        loop.set_exception_handler(lambda _, context: logger.info("%s", context["message"]))
        connector = procrastinate.PsycopgConnector(
            conninfo=self._database.libpq_url,
            min_size=1,
            max_size=4,
            timeout=CONNECTION_S,
            kwargs={"application_name": "searchdb worker"},
        )
        app = procrastinate.App(connector=connector)
        app.task(name=TASK, pass_context=True, retry=procrastinate.RetryStrategy(wait=RETRY_S))(self._work)
        async with app.open_async():
            session = ProcrastinateWorker(
                app,
                queues=queues(),
                concurrency=self._concurrency,
                fetch_job_polling_interval=POLL_S,
                delete_jobs="always",
                install_signal_handlers=False,
                # Dead workers are ours to find, in `_keep_house`; here would be too early after an outage.
                stalled_worker_timeout=24 * 3600,
            )
            self._session = session
            if self._stop.is_set():
                return
            keeping = asyncio.create_task(self._keep_house(session))
            try:
                await session.run()
            finally:
                keeping.cancel()
                self._session = None

    async def _keep_house(self, session: ProcrastinateWorker) -> None:
        """Give signs of life, also while the last chunks end, when Procrastinate gives none; look after the queue."""
        began = time.monotonic()
        tidied = -TIDY_S
        strays: frozenset[int] = frozenset()
        worker_id: int | None = None
        while True:
            await asyncio.sleep(HEARTBEAT_S if worker_id else 0.1)
            if self._stop.is_set():
                session.stop()  # again: the session forgets one that comes before it has begun
            if session.worker_id is None:
                continue
            try:
                if worker_id is None:
                    worker_id = session.worker_id
                    await asyncio.to_thread(self._queue.register, worker_id)
                await asyncio.to_thread(self._queue.beat, worker_id)
                # Seen twice, for a job is in the database's hand a moment before and after it is in ours.
                unknown = await asyncio.to_thread(self._queue.in_hand, worker_id) - self._in_hand
                if lost := unknown & strays:
                    await asyncio.to_thread(self._queue.put_back, lost)
                strays = unknown - lost
                # After an outage everybody's last sign of life is old: only then is silence a sign of death.
                if time.monotonic() - began > STALLED_AFTER_S:
                    recovered = await asyncio.to_thread(self._queue.recover)
                    if recovered:
                        logger.warning("%d chunks of dead workers are back in the queue", recovered)
                if time.monotonic() - tidied > TIDY_S:
                    tidied = time.monotonic()
                    self._begin_to_tidy()
            except DatabaseError as exc:
                logger.info("keeping house: %s", exc)

    def _begin_to_tidy(self) -> None:
        """Tidy in a thread that nobody waits for: the heart beats on while an index is built, and an end ends that."""
        if self._tidying is None or not self._tidying.is_alive():
            self._tidying = threading.Thread(target=self._tidy, name="searchdb-tidy", daemon=True)
            self._tidying.start()

    def _tidy(self) -> None:
        try:
            self._queue.tidy()
            self.rebuild_index()
        except DatabaseError as exc:
            logger.info("keeping house: %s", exc)

    def rebuild_index(self) -> None:
        """Rebuild the vector index if what was stored has outgrown it."""
        if self.report.stored:
            self.index_rebuilt |= index.rebuild_if_stale(self._database.engine)

    def _work(self, context: procrastinate.JobContext) -> None:
        """Ingest one chunk, in one of the threads."""
        job_id = cast("int", context.job.id)  # None only before it is queued
        self._in_hand.add(job_id)
        try:
            with self._making:
                if self._ingest is None:
                    self._ingest = self._make_ingest()
                    if self._stop.is_set():
                        self._ingest.stop()
            self._ingest.work(job_id, context.job.attempts, suspect=context.job.lock == SUSPECTS)
        except Exception as exc:
            if not _is_no_fault_of_the_chunk(exc):
                logger.warning("a chunk failed and will be tried again: %s: %s", type(exc).__name__, exc)
                raise
            # The worker ends, and whoever can do it finds the chunk in the queue.
            self._error = exc
            self.stop()
            with suppress(DatabaseError):  # or whoever finds it orphaned puts it back
                self._queue.hand_back(job_id)
        finally:
            self._in_hand.discard(job_id)


def _is_no_fault_of_the_chunk(error: Exception) -> bool:
    if isinstance(error, DatabaseError):
        return not (error.sqlstate or "").startswith(CHUNKS_FAULT)
    return isinstance(error, ModelError)
