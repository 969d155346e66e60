"""Runs the change to another model from its beginning, or from wherever it was interrupted, to its end."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.db.current_model import claim_model, current_model
from searchdb.db.database import Database
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.db.retry import retry_until_available
from searchdb.db.tables import images
from searchdb.embedder import Embedder
from searchdb.errors import DatabaseError, SwitchError, SwitchIncompleteError, TooManyMissingError
from searchdb.index.build import build_index
from searchdb.index.status import has_index, index_status
from searchdb.switch.change_over import change_over
from searchdb.switch.feed import Feeder
from searchdb.switch.finish import finish
from searchdb.switch.lease import Heartbeat, take_lease
from searchdb.switch.notice import give_notice
from searchdb.switch.report import SwitchReport, UnembeddedImage, unembedded
from searchdb.switch.start import start_switch
from searchdb.switch.state import SwitchStatus, set_phase, switch_status
from searchdb.switch.texts import embed_texts, measure_relevance

T = TypeVar("T")

POLL_S = 0.5
"""Seconds between two looks at what is left to do."""
MOST_MISSING = 0.1
"""Share of the images that may fail before the switch asks for `--accept-missing`: more looks like a disk that is not
mounted."""
BUILD_WAIT_S = 2.0
"""Seconds between two attempts to build the index, while another process builds or tunes one."""

ProgressCallback = Callable[[SwitchStatus], None]

logger = logging.getLogger(__name__)


def run_switch(
    database: Database,
    settings: Settings,
    embedder: Embedder,
    *,
    working: Callable[[], AbstractContextManager[object]] = nullcontext,
    accept_missing: bool = False,
    retry_failed: bool = False,
    progress: ProgressCallback = lambda _status: None,
    stop: threading.Event | None = None,
) -> SwitchReport:
    """Switch the collection to a model while it is searched; join a switch that is open already.

    An empty collection takes the model at once. If another command runs the switch, this one waits, and takes over
    should that die.

    Args:
        database: the collection's.
        settings: name the home, and the recall to tune to.
        embedder: the model.
        working: works off the queue while its `with` lasts; without it, `searchdb worker` must run somewhere.
        accept_missing: change over although more than MOST_MISSING of the images could not be embedded, and leave
            failures from before alone.
        retry_failed: try them again nevertheless.
        progress: called about twice a second.
        stop: ends it when it is set; the next command goes on.

    Raises:
        SwitchError: it cannot begin, was aborted, or too many images could not be embedded.
        ModelError: the model cannot be loaded.
        DatabaseError: an outage lasted longer than MAX_OUTAGE_S, we do not own the tables, or they were in use all the
            time.
    """
    return _Run(
        database,
        settings,
        embedder,
        working=working,
        accept_missing=accept_missing,
        retry_failed=retry_failed,
        progress=progress,
        stop=stop or threading.Event(),
    ).run()


class _Run:
    def __init__(
        self,
        database: Database,
        settings: Settings,
        embedder: Embedder,
        *,
        working: Callable[[], AbstractContextManager[object]],
        accept_missing: bool,
        retry_failed: bool,
        progress: ProgressCallback,
        stop: threading.Event,
    ) -> None:
        self._database = database
        self._settings = settings
        self._embedder = embedder
        self._working = working
        self._accept_missing = accept_missing
        self._retry_again = retry_failed or not accept_missing
        self._progress = progress
        self._stop = stop

    def run(self) -> SwitchReport:
        model = self._embedder.identity
        if self._is_empty():
            with self._database.begin() as connection:
                before = current_model(connection)
                claim_model(connection, model)
            return SwitchReport(model=model.name, from_model=None if before is None else before.name, images=0)
        switch = self._retry(lambda: start_switch(self._database, self._settings, model))
        while not self._retry(lambda: take_lease(self._database.engine, switch.id)):
            # Another command runs it.
            if self._stop.wait(POLL_S):
                return self._stopped(switch)
            if not self._report(switch):
                return self._ended_by_another(switch)
        try:
            with Heartbeat(self._database.engine, switch.id) as heartbeat:
                return self._drive(switch, heartbeat)
        except DatabaseError as exc:  # such as a column that an abort has dropped
            if exc.sqlstate is None or self._retry(lambda: self._is_open(switch)):
                raise
            raise _aborted(switch) from exc

    def _drive(self, switch: OpenSwitch, heartbeat: Heartbeat) -> SwitchReport:
        engine = self._database.engine
        since = self._retry(self._now) if self._retry_again else None
        locked_s, failed = 0.0, list[UnembeddedImage]()
        while switch.changed_at is None:
            self._fill(switch, since, heartbeat)
            if self._stop.is_set():
                return self._stopped(switch)
            # Before the index, which is tuned with them.
            self._phase(switch, "texts", heartbeat)
            noticed = time.monotonic()
            self._retry(lambda: self._embed_texts(switch))
            self._phase(switch, "index", heartbeat)
            self._build(switch, heartbeat)
            if self._stop.is_set():
                return self._stopped(switch)
            self._retry(lambda: measure_relevance(engine, switch, self._embedder))
            failed = self._retry(lambda: unembedded(self._database, switch))
            self._require_few(failed, switch, heartbeat)
            self._phase(switch, "change", heartbeat)
            self._retry(functools.partial(give_notice, engine, noticed, self._stop))
            if self._stop.is_set():
                return self._stopped(switch)
            try:
                report = self._retry(
                    lambda: change_over(
                        self._database,
                        switch,
                        embed_texts=lambda connection: embed_texts(connection, switch, self._embedder),
                        cancel=heartbeat.lost,
                    )
                )
            except SwitchIncompleteError as exc:
                logger.info("%s", exc)
                continue
            locked_s = report.locked_s
            break
        finish_images = self._retry(self._count_images)
        self._retry(lambda: finish(self._database))
        return SwitchReport(
            model=switch.model.name,
            from_model=self._name_of(switch.from_model_id),
            images=finish_images,
            unembedded=failed,
            locked_s=locked_s,
        )

    def _fill(self, switch: OpenSwitch, since: datetime | None, heartbeat: Heartbeat) -> None:
        """Return when every image has a vector or has failed."""
        self._phase(switch, "fill", heartbeat)
        feeder = Feeder(self._database, switch, since=since)
        if not self._retry(feeder.feed):
            return
        with self._working() as worker:
            while self._retry(feeder.feed):
                self._require_ours(switch, heartbeat)
                self._report(switch)
                join = getattr(worker, "join", None)
                if self._stop.wait(POLL_S):
                    return
                if join is not None:
                    join(0)  # raises what ended it
        self._report(switch)

    def _embed_texts(self, switch: OpenSwitch) -> None:
        with self._database.connect() as connection:
            embed_texts(connection, switch, self._embedder, commit=True)

    def _build(self, switch: OpenSwitch, heartbeat: Heartbeat) -> None:
        engine, target = self._database.engine, self._settings.recall
        if self._retry(lambda: self._has_index(switch)):
            return
        while not self._stop.is_set():
            built = self._retry(lambda: build_index(engine, target=target, column=switch.column))
            if built is not None:
                return
            self._require_ours(switch, heartbeat)
            self._stop.wait(BUILD_WAIT_S)

    def _has_index(self, switch: OpenSwitch) -> bool:
        """Whether the column has an index that it has not outgrown, as when the collection is switched back."""
        with self._database.connect() as connection:
            column = switch.column
            return has_index(connection, column) and not index_status(connection, column).stale

    def _phase(self, switch: OpenSwitch, phase: str, heartbeat: Heartbeat) -> None:
        self._require_ours(switch, heartbeat)
        self._retry(lambda: set_phase(self._database.engine, switch, phase))
        self._report(switch)

    def _require_ours(self, switch: OpenSwitch, heartbeat: Heartbeat) -> None:
        if heartbeat.lost.is_set() or not self._retry(lambda: self._is_open(switch)):
            raise _aborted(switch)

    def _require_few(self, failed: Sequence[UnembeddedImage], switch: OpenSwitch, heartbeat: Heartbeat) -> None:
        total = self._retry(self._count_images)
        if len(failed) > MOST_MISSING * total and not self._accept_missing:
            self._phase(switch, "fill", heartbeat)  # the model will not be the current one soon: pages need not hold it
            raise TooManyMissingError(list(failed), total)

    def _report(self, switch: OpenSwitch) -> bool:
        """Report the progress; return whether the switch is still open."""
        status = self._retry(self._status)
        if status is not None:
            self._progress(status)
        return self._retry(lambda: self._is_open(switch))

    def _stopped(self, switch: OpenSwitch) -> SwitchReport:
        before = self._name_of(switch.from_model_id)
        return SwitchReport(model=switch.model.name, from_model=before, images=self._count_images(), changed=False)

    def _ended_by_another(self, switch: OpenSwitch) -> SwitchReport:
        with self._database.connect() as connection:
            current = current_model(connection)
        if current is None or current.weights_sha256 != switch.model.weights_sha256:
            raise SwitchError(f"the switch to {switch.model} was aborted")
        return SwitchReport(
            model=switch.model.name, from_model=self._name_of(switch.from_model_id), images=self._count_images()
        )

    def _is_open(self, switch: OpenSwitch) -> bool:
        with self._database.connect() as connection:
            found = open_switch(connection)
        return found is not None and found.id == switch.id and found.phase != "abort"

    def _status(self) -> SwitchStatus | None:
        with self._database.connect() as connection:
            return switch_status(connection)

    def _is_empty(self) -> bool:
        with self._database.connect() as connection:
            found = connection.scalar(sa.select(sa.exists().select_from(images)))
            return not found and open_switch(connection) is None

    def _count_images(self) -> int:
        with self._database.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(images)) or 0

    def _name_of(self, model_id: int) -> str | None:
        with self._database.connect() as connection:
            return connection.scalar(sa.text("SELECT name FROM embedding_models WHERE id = :id"), {"id": model_id})

    def _now(self) -> datetime:
        with self._database.connect() as connection:
            return connection.execute(sa.select(sa.func.now())).scalar_one()

    def _retry(self, call: Callable[[], T]) -> T:
        return retry_until_available(call, outage_log=self._database.outage_log, cancel=self._stop)


def _aborted(switch: OpenSwitch) -> SwitchError:
    return SwitchError(
        f"the switch to {switch.model} was aborted, or another command runs it by now: see `searchdb model status`"
    )
