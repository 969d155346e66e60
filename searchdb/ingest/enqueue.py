"""Puts the references of a source into the queue, but for those that are stored unchanged or would fail again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar
from uuid import UUID

from searchdb.batches import batched
from searchdb.db.retry import OutageLog, retry_until_available
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.queue import Queue
from searchdb.ingest.report import IngestReport
from searchdb.ingest.reread import find_changed, mark_changed
from searchdb.ingest.states import FailedState, StoredState
from searchdb.ingest.store import Store
from searchdb.records import FailedImage, RejectedItem, SourceItem

T = TypeVar("T")

DEFAULT_CHUNK_SIZE = 128
"""Images in one chunk: enough for round trips not to matter, few enough that a killed worker loses only seconds."""


def enqueue(
    items: Iterable[SourceItem | RejectedItem],
    run_id: UUID,
    *,
    store: Store,
    queue: Queue,
    limits: Limits,
    outage_log: OutageLog,
    chunk_size: int = DEFAULT_CHUNK_SIZE,
    retry_failed: bool = False,
    reread: bool = False,
    urgent: bool = False,
    cancel: threading.Event | None = None,
) -> Iterator[IngestReport]:
    """Queue the items that are neither stored unchanged nor known failures; yield the report after every chunk.

    Files and URLs may be mixed. Items that the source rejected are recorded as failures at once. A failure that the
    limits no longer cause is tried again. With `reread`, files that look unchanged are compared with their stored
    SHA-256. Setting `cancel` ends the wait for a database that is away.
    """

    def retry(call: Callable[[], T]) -> T:
        return retry_until_available(call, outage_log=outage_log, cancel=cancel)

    report = IngestReport()
    for batch in batched(items, chunk_size):
        chunk = {item.image: item for item in reversed(batch)}  # the first of duplicates counts
        stored = retry(lambda known=list(chunk): store.stored(known))
        failed = {} if retry_failed else retry(lambda known=list(chunk): store.failed(known))
        wanted: list[SourceItem] = []
        rejected: list[FailedImage] = []
        if reread:
            alike = [item for item in chunk.values() if item.image in stored and stored[item.image].has_same_file(item)]
            changed, unreadable = retry(lambda alike=alike: find_changed(store.engine, alike))
            retry(lambda changed=changed: mark_changed(store.engine, changed))
            wanted += changed
            rejected += unreadable
            for item in (*changed, *unreadable):
                del chunk[item.image]
        for item in chunk.values():
            if item.image in stored and stored[item.image].matches(item) and not _again(item, stored, failed, limits):
                report.unchanged += 1
            elif item.image in failed and failed[item.image].fails_again(item, limits):
                report.known_failures += 1
            elif isinstance(item, RejectedItem):
                rejected.append(FailedImage(image=item.image, source=item.source, error=item.error))
            else:
                wanted.append(item)
        items = [item for item in chunk.values() if isinstance(item, SourceItem)]
        retry(lambda items=items, stored=stored: store.update_without_reading(items, stored))
        retry(lambda failures=rejected: store.record_failures(failures))
        report.failed.update(type(failure.error).__name__ for failure in rejected)
        report.queued += retry(lambda queued=wanted: queue.put(queued, run_id, urgent=urgent))
        yield report


def _again(
    item: SourceItem | RejectedItem,
    stored: Mapping[str, StoredState],
    failed: Mapping[str, FailedState],
    limits: Limits,
) -> bool:
    """Whether to read a stored video again of which only a part could be read; `failed` is empty to retry failures."""
    partial = stored[item.image].partial
    return partial and (item.image not in failed or not failed[item.image].fails_again(item, limits))
