"""Runs an ingest: queues items, processes the queue with a worker, and reports progress."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from searchdb.db.database import Database
from searchdb.db.retry import retry_until_available
from searchdb.errors import DatabaseError
from searchdb.index.rebuild import Rebuild, rebuild_if_stale
from searchdb.ingest.enqueue import DEFAULT_CHUNK_SIZE, enqueue
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY, Ingest
from searchdb.ingest.queue import Queue
from searchdb.ingest.report import IngestReport
from searchdb.ingest.store import Store
from searchdb.records import RejectedItem, SourceItem

if TYPE_CHECKING:
    from searchdb.ingest.worker import AgainWork, Worker

PROGRESS_S = 0.25
"""Seconds between two progress reports."""

ProgressCallback = Callable[[IngestReport], None]
MakeAgain = Callable[[], "AgainWork"]
"""Makes what embeds stored images with the model that the collection is being switched to."""

logger = logging.getLogger(__name__)


def no_progress(_report: object) -> None:
    """Ignore a progress report."""


def run_ingest(
    items: Iterable[SourceItem | RejectedItem],
    *,
    database: Database,
    limits: Limits,
    make_ingest: Callable[[], Ingest],
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    retry_failed: bool = False,
    reread: bool = False,
    enqueue_only: bool = False,
    progress: ProgressCallback = no_progress,
    stop: threading.Event | None = None,
    rebuild: Rebuild = rebuild_if_stale,
    make_again: MakeAgain | None = None,
) -> IngestReport:
    """Queue items and, unless `enqueue_only`, process the queue until they are done, together with other workers.

    An index that the collection has outgrown is rebuilt at the end, by `rebuild`. Its worker also does the jobs of a
    switch to another model, with what `make_again` makes. A run that is interrupted, or ended
    by `stop`, stores the images already started and leaves the rest queued, behind the chunks that other runs wait for.

    Raises:
        ModelError: the model cannot be loaded or is not the collection's.
        DatabaseUnavailableError: an outage lasted longer than MAX_OUTAGE_S.
    """
    queue = Queue(database.engine)
    stop = stop or threading.Event()
    run_id = uuid4()
    queued = IngestReport()
    queueing = enqueue(
        items,
        run_id,
        store=Store(database.engine),
        queue=queue,
        limits=limits,
        outage_log=database.outage_log,
        chunk_size=chunk_size,
        retry_failed=retry_failed,
        reread=reread,
        urgent=not enqueue_only,
        cancel=stop,
    )

    def report_progress() -> IngestReport:
        done = retry_until_available(lambda: queue.progress(run_id), outage_log=database.outage_log, cancel=stop)
        report = queued.with_progress(done)
        progress(report)
        return report

    worker: Worker | None = None
    try:
        with ExitStack() as stack:
            for queued in queueing:
                if queued.queued and worker is None and not enqueue_only:
                    worker = stack.enter_context(
                        running_worker(database, make_ingest, DEFAULT_CONCURRENCY, rebuild, make_again)
                    )
                report_progress()
                if stop.is_set():
                    break
            total = queued.done + queued.queued
            queued.total = None if stop.is_set() else total
            if worker is not None:
                while not stop.is_set() and report_progress().done < total and not _is_empty(queue, database, stop):
                    if worker.join(PROGRESS_S):
                        break
    except BaseException:
        _abandon(run_id, queue, queued, progress)
        raise
    report = report_progress()
    if stop.is_set():  # the next run or worker rebuilds the index
        _abandon(run_id, queue, queued, progress)
    elif worker is not None:
        worker.rebuild_index()
        report.index_rebuilt = worker.index_rebuilt
    return report


def run_worker(
    *,
    database: Database,
    make_ingest: Callable[[], Ingest],
    drain: bool = False,
    stop: threading.Event | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: ProgressCallback = no_progress,
    rebuild: Rebuild = rebuild_if_stale,
    make_again: MakeAgain | None = None,
) -> IngestReport:
    """Process the queue until `stop` is set or, with `drain`, it is empty; return what this worker did.

    `concurrency` is the number of chunks processed at a time. Images already started are stored before it returns.

    Raises:
        ModelError: the model cannot be loaded or is not the collection's.
        DatabaseUnavailableError: an outage lasted longer than MAX_OUTAGE_S.
    """
    stop = stop or threading.Event()
    queue = Queue(database.engine)
    with running_worker(database, make_ingest, concurrency, rebuild, make_again) as worker:
        while not (stop.is_set() or worker.join(PROGRESS_S) or (drain and _is_empty(queue, database, cancel=stop))):
            progress(worker.report)
    progress(worker.report)
    if not stop.is_set():  # a process that is stopping must end soon; the next worker rebuilds the index
        worker.rebuild_index()
    return replace(worker.report, index_rebuilt=worker.index_rebuilt)


def _is_empty(queue: Queue, database: Database, cancel: threading.Event | None = None) -> bool:
    return retry_until_available(queue.is_empty, outage_log=database.outage_log, cancel=cancel)


def _abandon(run_id: UUID, queue: Queue, queued: IngestReport, progress: ProgressCallback) -> None:
    """Give up the priority of an interrupted run's chunks, and report its progress a last time."""
    with suppress(DatabaseError):  # the caller raises the error that ended the run
        queue.deprioritize(run_id)
        progress(queued.with_progress(queue.progress(run_id)))


@contextmanager
def running_worker(
    database: Database,
    make_ingest: Callable[[], Ingest],
    concurrency: int,
    rebuild: Rebuild,
    make_again: MakeAgain | None,
) -> Generator[Worker]:
    """Run a worker; at the end, also when interrupted, wait until the images it has started are stored."""
    from searchdb.ingest.worker import Worker  # imports Procrastinate, which a search does not need

    worker = Worker(
        database=database, make_ingest=make_ingest, concurrency=concurrency, rebuild=rebuild, make_again=make_again
    )
    worker.start()
    try:
        yield worker
    except (KeyboardInterrupt, SystemExit):
        logger.warning("stopping once the images already started are stored")
        raise
    finally:
        worker.stop()
        worker.join()
