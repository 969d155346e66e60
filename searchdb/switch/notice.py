"""Gives running pages time to load the next model before the collection changes to it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress

import sqlalchemy as sa
from sqlalchemy import Engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.db.connections import PAGE_APPLICATION
from searchdb.errors import SearchDBError

NOTICE_S = 5.0
"""Least seconds between the phase in which pages load the next model and the change: a page that is searched looks
every two seconds."""
LOADING_S = 60.0
"""Longest wait for pages that are loading it. One that downloads it takes longer, and its visitors wait then."""
POLL_S = 0.1
LOADING_LOCK_KEY = 0x6E_6578_74
"""Key of the advisory lock that pages share while they load the next model."""

_PAGES = text(
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = :page)"
)

logger = logging.getLogger(__name__)


@contextmanager
def loading(engine: Engine) -> Generator[None]:
    """Have the change to the next model wait while that is loaded in the `with`, unless the database fails."""
    with ExitStack() as held:
        held.enter_context(suppress(SearchDBError))  # of the end of the transaction
        with suppress(SearchDBError, PoolTimeoutError):
            connection = held.enter_context(engine.connect())
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(LOADING_LOCK_KEY)))
        yield


def give_notice(engine: Engine, since: float, stop: threading.Event) -> None:
    """Return when the pages that have open connections had the time to load the next model; at once without any.

    Args:
        engine: the database.
        since: when the notice began, in seconds of time.monotonic: pages have found the next model's name since then.
        stop: ends the wait when it is set.

    Raises:
        DatabaseError: PostgreSQL failed.
    """
    with engine.connect() as connection:
        if not connection.scalar(_PAGES, {"page": PAGE_APPLICATION}):
            return
    stop.wait(since + NOTICE_S - time.monotonic())
    deadline = time.monotonic() + LOADING_S
    while not stop.is_set() and _is_loaded_by_some(engine):
        if time.monotonic() > deadline:
            logger.warning("a page is still loading the model after %.0f s: its visitors wait for it", LOADING_S)
            return
        stop.wait(POLL_S)


def _is_loaded_by_some(engine: Engine) -> bool:
    with engine.begin() as connection:
        return not connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(LOADING_LOCK_KEY)))
