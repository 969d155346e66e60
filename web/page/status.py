"""Serves the status page: counts, failures by cause, the state of the index, and two small plots."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath

from flask import Blueprint, Flask, current_app, render_template
from flask.typing import ResponseReturnValue

from searchdb import errors
from searchdb.db.counts import RowCount
from searchdb.ingest.rate_history import RateHistory, rate_history
from searchdb.search.similarity_histogram import SimilarityHistogram, similarity_histogram
from searchdb.status import CollectionStatus, collection_status
from searchdb.watch.registry import WatchStatus

from ..backend import Backend
from ..timed_cache import TimedCache
from .index_facts import index_facts, index_line
from .tiles import format_datetime

blueprint = Blueprint("status", __name__)

_CACHES = "searchdb status"
"""Key of the cached status and charts in `app.extensions`."""
STATUS_MAX_AGE_S = 5.0
"""Seconds for which the status is cached for all visitors."""
CHARTS_MAX_AGE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a plot: its position, and its height in percent of the highest."""

    x: int
    height: float


@dataclass(frozen=True, kw_only=True)
class Charts:
    """The numbers of the plots; None if there is nothing to plot."""

    rate: RateHistory | None
    similarity: SimilarityHistogram | None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """An error, the number of images that failed with it, and its meaning."""

    error: str
    count: RowCount
    meaning: str


@dataclass(frozen=True, kw_only=True)
class WatchedFolder:
    """A folder that is followed, by its name only, with what its watch does."""

    name: str
    started_at: datetime
    changed_at: datetime | None
    waiting: int
    lost: bool
    has_problem: bool


def register(app: Flask, backend: Backend) -> None:
    """Add the page to the application."""

    def read_status() -> CollectionStatus:
        backend.model()  # so that the page's footer names the current one
        return collection_status(backend.database(), backend.settings, as_reader=True)

    def read_charts() -> Charts:
        with backend.database().reading() as connection:
            return Charts(rate=rate_history(connection), similarity=similarity_histogram(connection))

    app.extensions[_CACHES] = TimedCache(read_status, STATUS_MAX_AGE_S), TimedCache(read_charts, CHARTS_MAX_AGE_S)
    app.register_blueprint(blueprint)


@blueprint.get("/status")
def status() -> ResponseReturnValue:
    """Show the status page, which reveals no hosts, paths or references but the names of watched folders."""
    status_cache, charts_cache = current_app.extensions[_CACHES]
    state: CollectionStatus = status_cache.get()
    charts: Charts = charts_cache.get()
    exact = state.count("failed").exact
    return render_template(
        "status.html",
        count=state.count("images"),
        status=state,
        causes=[
            Cause(error=error, count=RowCount(rows=count, exact=exact), meaning=_meaning(error))
            for error, count in state.failures.items()
        ],
        folders=_watched_folders(state.watches),
        queued=RowCount(rows=state.queue.queued, exact=state.queue.exact),
        charts=charts,
        bars=bars,
        index_line=index_line(state.index),
        index_facts=index_facts(state.index),
        format_datetime=format_datetime,
    )


def bars(values: Sequence[float]) -> list[Bar]:
    """Return the bars of a plot."""
    highest = max(values, default=0) or 1
    return [Bar(x=x, height=round(100 * value / highest, 2)) for x, value in enumerate(values) if value]


def _watched_folders(watches: Sequence[WatchStatus]) -> list[WatchedFolder]:
    return [
        WatchedFolder(
            name=PurePath(path).name or "/",
            started_at=watch.started_at,
            changed_at=watch.changed_at,
            waiting=watch.waiting,
            lost=watch.lost,
            has_problem=watch.problem is not None,
        )
        for watch in watches
        for path in watch.paths
    ]


def _meaning(error: str) -> str:
    """Return the first sentence of an error class's docstring."""
    error_class = getattr(errors, error, None)
    if not (isinstance(error_class, type) and issubclass(error_class, errors.ImageError)):
        return ""
    return (inspect.getdoc(error_class) or "").partition(".")[0]
