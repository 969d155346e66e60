"""Follows folders: lists those in which something changed, ingests what is new, and removes what is gone."""

# Strings and os.path, as in `searchdb.sources.files`, whose paths these are.
# ruff: noqa: PTH112, PTH114, PTH120

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Protocol

import sqlalchemy as sa

from searchdb.batches import batched
from searchdb.db.retry import is_transient
from searchdb.errors import DatabaseError, DiskFullError, WatchError
from searchdb.ingest.enqueue import DEFAULT_CHUNK_SIZE
from searchdb.ingest.known_failures import Limits
from searchdb.ingest.report import IngestReport
from searchdb.ingest.store import Store
from searchdb.records import RejectedItem, SourceItem
from searchdb.sources.exclusion import IGNORE_FILE, Exclusion
from searchdb.sources.files import files_in, folders_in
from searchdb.watch.changed_folders import ChangedFolder, ChangedFolders
from searchdb.watch.events import FolderEvents, PathChange
from searchdb.watch.mounts import read_mounts
from searchdb.watch.records import WatchOptions, WatchReport
from searchdb.watch.registry import Registration, WatchState
from searchdb.watch.removals import Removals
from searchdb.watch.roots import Root, root_of
from searchdb.watch.settling import Settling, is_temporary

CHECK_S = 2.0
"""Seconds between two looks whether the watched folders are there, and the same: no event says so."""
RESCAN_S = 3600.0
"""Seconds between complete scans. Events are lost only if thousands come at once, or a limit is hit: being wrong for an
hour is then bearable, and a scan takes a second for 10,000 files."""
SHARE_OF_SCANS = 0.05
"""Part of the time that complete scans may take, where they take long."""
SHARE_OF_POLLS = 0.25
"""Part of the time that polls may take."""
OUTAGE_PAUSE_S = 2.0
"""Seconds between two attempts to reach a database that is away. There is no limit."""
DISK_FULL_PAUSE_S = 60.0
"""The same while the database has no space: each attempt embeds images again."""

logger = logging.getLogger(__name__)


class IngestCall(Protocol):
    """`SearchDB.ingest`, as far as it is used here."""

    def __call__(self, items: Iterable[SourceItem | RejectedItem], *, stop: threading.Event) -> IngestReport:
        """Ingest items until they are done or `stop` is set."""
        ...


def no_callback(_step: WatchReport) -> None:
    """Ignore what a step has done."""


class Watch:
    """Follows folders until it is stopped.

    Args:
        folders: their real paths, none inside another one, as `searchdb.sources.files.folders` returns them.
        options: how to follow them.
        store: the collection.
        limits: decide which known failures are tried again.
        ingest: ingests items.
        stop: ends the watch when it is set.
        on_step: called after each step that changed the collection.
    """

    def __init__(
        self,
        folders: Sequence[str],
        options: WatchOptions,
        *,
        store: Store,
        limits: Limits,
        ingest: IngestCall,
        stop: threading.Event,
        on_step: Callable[[WatchReport], None] = no_callback,
    ) -> None:
        self._roots = [Root(path=path) for path in folders]
        self._options = options
        self._exclusion = Exclusion(patterns=options.exclude)
        self._store = store
        self._limits = limits
        self._ingest = ingest
        self._stop = stop
        self._on_step = on_step
        self._events = FolderEvents(stop)
        self._no_events = False
        self._changed = ChangedFolders(options.settle_s)
        self._settling = Settling(options.settle_s)
        self._removals = Removals(store, options.prune)
        self._next_check = 0.0
        self._next_scan = 0.0
        self._events_until = time.monotonic()
        """What happened before has been taken from the events."""
        self._problem: str | None = None
        self._report = WatchReport()

    def run(self) -> WatchReport:
        """Follow the folders until `stop` is set; return what was done.

        A database that is away is waited for.

        Raises:
            ModelError: the model cannot be loaded or is not the collection's.
            DatabaseError: the database refuses a statement.
        """
        with Registration(self._store.engine, [root.path for root in self._roots]) as registration:
            for other in registration.others():
                logger.warning("another watch follows the same folder: process %d. That does no harm", other.pid)
            try:
                while not self._stop.is_set():
                    try:
                        self._step()
                    except DatabaseError as exc:
                        self._wait_for_database(exc)
                    registration.update(self._state())
            finally:
                self._events.close()
        self._report.waiting = len(self._settling)
        return self._report

    # --- one step -------------------------------------------------------------------------------

    def _step(self) -> None:
        now = time.monotonic()
        is_scan = now >= self._next_scan
        if is_scan:
            self._no_events = False
        if is_scan or now >= self._next_check:
            self._check_roots()
            self._next_check = now + CHECK_S
        if is_scan:
            self._next_scan = now + RESCAN_S
            for root in self._roots:
                self._scan(root)
        self._take_events()
        for root in self._roots:
            self._poll(root)
        for path in self._settling.take_settled():
            self._changed.add(os.path.dirname(path), since=self._events_until, at_once=True)
        self._list(self._changed.take_due())
        if not self._stop.is_set():  # otherwise what was listed may not be ingested
            self._remove()

    def _check_roots(self) -> None:
        mounts = read_mounts()
        for root in self._roots:
            if root.check(mounts, poll=True if self._no_events else self._options.poll):
                self._scan(root)

    def _scan(self, root: Root) -> None:
        """Have a folder listed completely, and watched again."""
        self._events.forget(root.path)
        self._changed.add(root.path, since=self._events_until, deep=True, at_once=True)
        self._removals.start_over()

    def _take_events(self) -> None:
        began = time.monotonic()
        try:
            for change in self._events.take():
                self._note(change)
        except WatchError as exc:
            self._poll_instead(exc)
        self._events_until = began

    def _note(self, change: PathChange) -> None:
        """Find out which folder is to be listed because of a change."""
        path = change.path
        root = root_of(path, self._roots)
        if root is None or path == root.path:
            self._next_check = 0.0
            return
        folder, name = os.path.split(path)
        if name.startswith(".") and name != IGNORE_FILE:
            return
        if change.deleted:
            self._events.forget(path)
            self._removals.request()
        elif os.path.isdir(path) and not os.path.islink(path):
            if change.added:  # it may be another folder than the one that was followed under this name
                self._events.forget(path)
            self._changed.add(path, since=self._events_until, deep=True)
            return
        if not is_temporary(path) and not self._settling.touch(path):
            self._changed.add(folder, since=self._events_until, deep=name == IGNORE_FILE)

    def _poll(self, root: Root) -> None:
        """Look at all files of a folder that reports no changes; have it listed if something is different."""
        began = time.monotonic()
        if not root.polling or root.problem or began < root.next_poll:
            return
        signature = self._signature(root)
        if signature is None:
            return
        root.is_changing = signature != root.signature
        if root.is_changing:
            root.signature = signature
            self._changed.add(root.path, since=root.polled_at, deep=True, at_once=True)
            self._removals.request()
        root.polled_at = began
        took_s = time.monotonic() - began
        root.next_poll = time.monotonic() + max(self._options.poll_interval_s, took_s / SHARE_OF_POLLS)

    def _signature(self, root: Root) -> bytes | None:
        """Return a digest of what a walk of the folder yields; None if the watch is stopped meanwhile."""
        digest = hashlib.blake2b(digest_size=16)
        for item in files_in(root.path, root=root.path, exclusion=self._exclusion):
            if self._stop.is_set():
                return None
            digest.update(repr(item).encode(errors="surrogatepass"))
        return digest.digest()

    def _list(self, folders: Sequence[ChangedFolder]) -> None:
        """Ingest what is new or changed in these folders, and settled."""
        if not folders:
            return
        began = time.monotonic()
        self._follow([folder.path for folder in folders if folder.deep])
        wanted = self._wanted(folders)
        first = next(wanted, None)
        if first is not None:
            report = self._ingest(chain([first], wanted), stop=self._stop)
            if report.failed:  # a file may have vanished before it was read
                self._removals.request()
            self._add(WatchReport(stored=report.stored, copied=report.copied, failed=report.failed))
        now = time.monotonic()
        self._next_scan = max(self._next_scan, now + (now - began) / SHARE_OF_SCANS)

    def _follow(self, folders: Sequence[str]) -> None:
        """Have changes reported in folders and those in them, also in those that are made meanwhile."""
        roots = [(folder, root_of(folder, self._roots)) for folder in folders]
        notifying = [(folder, root.path) for folder, root in roots if root and not root.polling]

        def inside() -> Iterator[str]:
            for folder, root in notifying:
                yield from folders_in(folder, root=root, exclusion=self._exclusion)

        try:
            while self._events.follow(inside()):
                pass
        except WatchError as exc:
            self._poll_instead(exc)

    def _wanted(self, folders: Sequence[ChangedFolder]) -> Iterator[SourceItem | RejectedItem]:
        """Yield the items of folders that are not stored as they are, nor known to fail, nor still being written."""
        for folder in folders:
            root = root_of(folder.path, self._roots)
            if root is None or root.problem:
                continue
            items = files_in(folder.path, root=root.path, exclusion=self._exclusion, recursive=folder.deep)
            complete = (item for item in items if not is_temporary(item.image))
            for batch in batched(complete, DEFAULT_CHUNK_SIZE):
                if self._stop.is_set():
                    return
                references = [item.image for item in batch]
                stored, failed = self._store.stored(references), self._store.failed(references)
                self._store.update_without_reading([item for item in batch if isinstance(item, SourceItem)], stored)
                for item in batch:
                    if item.image in stored and stored[item.image].matches(item):
                        continue
                    if item.image in failed and failed[item.image].fails_again(item, self._limits):
                        continue
                    if isinstance(item, RejectedItem) or self._settling.is_settled(
                        item.image, since=folder.since, remote=root.polling
                    ):
                        yield item

    def _remove(self) -> None:
        looked = [root.polled_at for root in self._roots if root.polling and not root.problem]
        unhandled = [each for each in (self._changed.oldest, self._settling.oldest) if each is not None]
        handled_until = min([self._events_until, *looked, *unhandled])
        if self._removals.is_due(handled_until):
            self._take_events()
            polled = [root for root in self._roots if root.polling and not root.problem]
            quiet = not self._changed and not self._settling and not any(root.is_changing for root in polled)
            roots = [root.path for root in self._roots if not root.problem]
            removed = self._removals.remove(roots, handled_until, quiet=quiet)
            if removed:
                self._add(WatchReport(removed=removed))

    def _add(self, step: WatchReport) -> None:
        if step.stored or step.removed or step.failed:
            step.ended_at, step.waiting = datetime.now(UTC), len(self._settling)
            self._report.add(step)
            self._on_step(step)

    # --- what goes wrong ------------------------------------------------------------------------

    def _poll_instead(self, error: WatchError) -> None:
        """Poll all folders until the next complete scan, which tries to be notified again."""
        self._events.close()
        if not self._no_events:
            logger.warning("%s. Until then it looks for changes every %g s", error, self._options.poll_interval_s)
        self._no_events = True
        self._check_roots()

    def _wait_for_database(self, error: DatabaseError) -> None:
        """Wait for a database that is away or full, then list everything again: what was in progress is not known."""
        if self._stop.is_set():
            return
        if not is_transient(error) and not isinstance(error, DiskFullError):
            raise error
        logger.warning("%s. The watch goes on once it can", error)
        pause_s = DISK_FULL_PAUSE_S if isinstance(error, DiskFullError) else OUTAGE_PAUSE_S
        while not self._stop.wait(pause_s):
            try:
                with self._store.engine.connect() as connection:
                    connection.execute(sa.text("SELECT 1"))
            except DatabaseError as exc:
                if not is_transient(exc):
                    raise
            else:
                logger.warning("the database answers again: all folders are listed")
                break
        self._next_scan = 0.0

    def _state(self) -> WatchState:
        """Return what to record, and log problems that are new or over."""
        problems = [root.problem for root in self._roots if root.problem]
        problems += [
            f"{loss}. They are kept: mount their disk if it is not there, or remove them with "
            f"`searchdb ingest files {shlex.quote(loss.folder)} --prune --yes`"
            for loss in self._removals.losses
        ]
        problem = "; ".join(problems) or None
        if problem != self._problem:
            logger.warning("%s", problem or "all folders can be followed again")
            self._problem = problem
        return WatchState(
            polling=any(root.polling for root in self._roots),
            changed_at=self._report.ended_at,
            waiting=len(self._settling),
            problem=problem,
        )
