"""Runs the ingest as a Procrastinate task, in its own thread, through database outages, until told to stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

import procrastinate
import sqlalchemy as sa
from procrastinate.worker import Worker as ProcrastinateWorker

from searchdb.db.database import Database
from searchdb.db.driver_errors import READ_ONLY
from searchdb.db.retry import retry_until_available
from searchdb.errors import DatabaseError, ModelError, ModelMismatchError
from searchdb.index.rebuild import Rebuild, rebuild_if_stale
from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY, Ingest
from searchdb.ingest.queue import AGAIN_TASK, ISOLATED, STALLED_AFTER_S, TASK, Queue, queues
from searchdb.ingest.queue_errors import queue_errors
from searchdb.ingest.replaceable import Replaceable, Stoppable
from searchdb.ingest.report import IngestReport
from searchdb.plurals import counted

HEARTBEAT_S = 5.0
"""Seconds between heartbeats, and between checks for workers without them."""
TIDY_S = 60.0
"""Seconds between checks of what changes slowly: the vector index, chunks without a job, old records."""
POLL_S = 2.0
"""Seconds between polls of the queue; notifications make most of them unnecessary."""
CONNECTION_S = 3.0
"""Longest wait for one of Procrastinate's connections: outages are waited out elsewhere, where a stop interrupts."""
MIN_SESSION_S = 10.0
"""A session with the queue that ends sooner, although the database answers, counts as failed."""
MAX_FAILED_SESSIONS = 5
"""Failed sessions in a row before the worker ends with the error."""

CHUNK_ERRORS = ("22", "23", "54")
"""SQLSTATE classes of values that PostgreSQL refuses: any other worker would fail at the same chunk."""
REFUSED = (READ_ONLY, "42")
"""SQLSTATEs, and a class of them, of statements that a new session with the queue would be refused as well."""
RETRY_S = 1
"""Seconds before a chunk that failed with an unexpected error is tried again."""

logger = logging.getLogger(__name__)


class AgainWork(Stoppable, Protocol):
    """Embeds stored images with the model that the collection is being switched to."""

    def work(self, job_id: int, attempts: int, *, isolated: bool, model_id: int, ids: Sequence[int]) -> None:
        """Do one job; see `searchdb.switch.again.Again`."""
        ...


class Worker:
    """Works off the queue from `start` until `stop`.

    Args:
        database: the collection's.
        make_ingest: called at the first chunk, so that an idle worker holds no model, and again after the collection
            was switched to another model.
        concurrency: chunks processed at a time.
        rebuild: rebuilds the vector index if the collection has outgrown it.
        make_again: called at the first job that embeds stored images again.
    """

    def __init__(
        self,
        *,
        database: Database,
        make_ingest: Callable[[], Ingest],
        concurrency: int = DEFAULT_CONCURRENCY,
        rebuild: Rebuild = rebuild_if_stale,
        make_again: Callable[[], AgainWork] | None = None,
    ) -> None:
        self._database = database
        self._queue = Queue(database.engine)
        self._make_ingest = make_ingest
        self._ingest = Replaceable(self._make_ingest_after)
        self._again = None if make_again is None else Replaceable[AgainWork](lambda _earlier: make_again())
        self._active_jobs: set[int] = set()
        self._concurrency = concurrency
        self._rebuild = rebuild
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._session: ProcrastinateWorker | None = None
        self._connection: dict[str, Any] = {}
        self._notified = True
        self._thread = threading.Thread(target=self._run, name="searchdb-worker", daemon=True)
        self._ended = threading.Event()
        self._tidying: threading.Thread | None = None
        self.index_rebuilt = False

    @property
    def report(self) -> IngestReport:
        """What this worker has done so far."""
        ingest = self._ingest.current
        return IngestReport() if ingest is None else ingest.report

    def start(self) -> None:
        """Start the worker in its own thread."""
        self._thread.start()

    def stop(self) -> None:
        """Start no further image; those already started are stored, the rest goes back to the queue."""
        self._stop.set()
        for each in (self._ingest, self._again):
            if each is not None:
                each.stop()
        session = self._session  # read once: the other thread may reset it
        if session is not None:
            session.stop()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the worker has ended, at most `timeout_s` seconds; return whether it has.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseError: an outage lasted longer than MAX_OUTAGE_S, or the database refused a statement.
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
            for each in (self._ingest, self._again):
                if each is not None:
                    each.close()
            self._ended.set()

    def _serve(self) -> None:
        """Hold a session with the queue, and a new one after each outage."""
        failed = 0
        while not self._stop.is_set():
            retry_until_available(self._reach, outage_log=self._database.outage_log, cancel=self._stop)
            began = time.monotonic()
            try:
                with queue_errors(self._database.url):
                    asyncio.run(self._hold_session())
            except DatabaseError as exc:
                if (exc.sqlstate or "").startswith(REFUSED):
                    raise
                logger.info("the session with the queue was lost: %s", exc)
                failed = failed + 1 if time.monotonic() - began < MIN_SESSION_S else 0
                if failed > MAX_FAILED_SESSIONS:
                    raise DatabaseError(f"the queue cannot be used: {exc}") from exc
                self._stop.wait(1.0)

    def _reach(self) -> None:
        """Check that the database answers, and find out how it is connected to."""
        with self._database.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        self._notified = not self._database.behind_pooler
        self._connection = self._database.driver_arguments() | {"fallback_application_name": "searchdb worker"}

    async def _hold_session(self) -> None:
        loop = asyncio.get_running_loop()
        # One thread a chunk, and two for what `_maintain` runs.
        loop.set_default_executor(ThreadPoolExecutor(self._concurrency + 2))
        # A job whose end could not be recorded is found by `_maintain`; the event loop only reports it.
        loop.set_exception_handler(lambda _, context: logger.info("%s", context["message"]))
        connector = procrastinate.PsycopgConnector(
            min_size=1,
            max_size=4,
            timeout=CONNECTION_S,
            kwargs=self._connection,
        )
        app = procrastinate.App(connector=connector)
        app.task(name=TASK, pass_context=True, retry=procrastinate.RetryStrategy(wait=RETRY_S))(self._work)
        app.task(name=AGAIN_TASK, pass_context=True, retry=procrastinate.RetryStrategy(wait=RETRY_S))(self._work_again)
        async with app.open_async():
            session = ProcrastinateWorker(
                app,
                queues=queues(),
                concurrency=self._concurrency,
                fetch_job_polling_interval=POLL_S,
                listen_notify=self._notified,
                delete_jobs="always",
                install_signal_handlers=False,
                # `_maintain` looks for dead workers itself; Procrastinate would do so too early after an outage.
                stalled_worker_timeout=24 * 3600,
            )
            self._session = session
            if self._stop.is_set():
                return
            maintenance = asyncio.create_task(self._maintain(session))
            try:
                await session.run()
            finally:
                maintenance.cancel()
                self._session = None

    async def _maintain(self, session: ProcrastinateWorker) -> None:
        """Send heartbeats, also while the last chunks end, when Procrastinate sends none, and repair the queue."""
        began = time.monotonic()
        tidied = -TIDY_S
        unknown_before: frozenset[int] = frozenset()
        worker_id: int | None = None
        while True:
            await asyncio.sleep(HEARTBEAT_S if worker_id else 0.1)
            if self._stop.is_set():
                session.stop()  # again: a session ignores a stop that comes before it has started
            if session.worker_id is None:
                continue
            try:
                if worker_id is None:
                    worker_id = session.worker_id
                    await asyncio.to_thread(self._queue.register_worker, worker_id)
                await asyncio.to_thread(self._queue.record_heartbeat, worker_id)
                # Only if unknown twice in a row: the database lists a job a moment before and after we do.
                unknown = await asyncio.to_thread(self._queue.jobs_of_worker, worker_id) - self._active_jobs
                if lost := unknown & unknown_before:
                    await asyncio.to_thread(self._queue.reset_jobs, lost)
                unknown_before = unknown - lost
                # After an outage every worker's last heartbeat is old, so wait until the living have sent one.
                if time.monotonic() - began > STALLED_AFTER_S:
                    recovered = await asyncio.to_thread(self._queue.recover)
                    if recovered:
                        logger.warning("back in the queue: %s of dead workers", counted(recovered, "chunk"))
                if time.monotonic() - tidied > TIDY_S:
                    tidied = time.monotonic()
                    self._start_tidying()
            except DatabaseError as exc:
                logger.info("maintenance of the queue failed: %s", exc)

    def _start_tidying(self) -> None:
        """Tidy in a daemon thread: heartbeats go on while an index is built, and an exit does not wait for it."""
        if self._tidying is None or not self._tidying.is_alive():
            self._tidying = threading.Thread(target=self._tidy, name="searchdb-tidy", daemon=True)
            self._tidying.start()

    def _tidy(self) -> None:
        try:
            self._queue.tidy()
            self.rebuild_index()
        except DatabaseError as exc:
            logger.info("maintenance of the queue failed: %s", exc)

    def rebuild_index(self) -> None:
        """Rebuild the vector index if the collection has outgrown it; log why if that fails: the images are stored."""
        if self.report.stored:
            try:
                self.index_rebuilt |= self._rebuild(self._database.engine)
            except DatabaseError as exc:
                logger.warning("the vector index was not rebuilt: %s", exc)

    def _work(self, context: procrastinate.JobContext) -> None:
        """Ingest one chunk, in one of the executor's threads."""
        job_id = cast("int", context.job.id)  # None only before a job is queued
        with self._job(job_id):
            isolated = context.job.lock == ISOLATED
            with self._ingest.used() as ingest:
                try:
                    ingest.work(job_id, context.job.attempts, isolated=isolated)
                    return
                except ModelMismatchError as exc:
                    if not exc.switched:
                        raise
            with self._ingest.used(after=ingest) as ingest:
                ingest.work(job_id, context.job.attempts, isolated=isolated)

    def _work_again(self, context: procrastinate.JobContext, *, model_id: int, ids: Sequence[int]) -> None:
        """Embed stored images with the model that the collection is being switched to, in such a thread."""
        job_id = cast("int", context.job.id)
        with self._job(job_id):
            if self._again is not None:
                with self._again.used() as again:
                    isolated = context.job.lock == ISOLATED
                    again.work(job_id, context.job.attempts, isolated=isolated, model_id=model_id, ids=ids)

    @contextmanager
    def _job(self, job_id: int) -> Generator[None]:
        """Note that a job is being done; a fatal error ends this worker."""
        self._active_jobs.add(job_id)
        try:
            yield
        except Exception as exc:
            if not _is_fatal(exc):
                logger.warning("a chunk failed and will be tried again: %s: %s", type(exc).__name__, exc)
                raise
            # This worker ends; the chunk goes back to the queue for others.
            self._error = exc
            self.stop()
            with suppress(DatabaseError):  # otherwise another worker recovers it
                self._queue.requeue_chunk(job_id)
        finally:
            self._active_jobs.discard(job_id)

    def _make_ingest_after(self, earlier: Ingest | None) -> Ingest:
        """Return an ingest with the collection's model, which was switched from that of an earlier one."""
        made = self._make_ingest()
        if earlier is not None:
            made.report = earlier.report
            if self._again is not None:
                self._again.replace()  # it would keep the model of the switch in memory
        return made


def _is_fatal(error: Exception) -> bool:
    """Whether the error is the worker's rather than the chunk's, so that it would fail at every other chunk too."""
    if isinstance(error, DatabaseError):
        return not (error.sqlstate or "").startswith(CHUNK_ERRORS)
    return isinstance(error, ModelError)
