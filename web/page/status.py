"""The status page: what the collection holds, what failed and why, how its index is, and two small plots."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, Flask, current_app, render_template
from flask.typing import ResponseReturnValue

from searchdb import errors
from searchdb.ingest.rate_history import RateHistory, rate_history
from searchdb.search.similarity_histogram import SimilarityHistogram, similarity_histogram
from searchdb.status import CollectionStatus, collection_status

from ..backend import Backend
from ..timed_cache import TimedCache
from .index_facts import index_facts, index_line
from .tiles import format_datetime

blueprint = Blueprint("status", __name__)

_KEPT = "searchdb status"
KEPT_S = 5.0
"""Seconds for which a look at the collection serves all visitors: it counts every picture."""
CHARTS_KEPT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a plot: its place, and its height in percent of the highest."""

    x: int
    height: float


@dataclass(frozen=True, kw_only=True)
class Charts:
    """The plots' numbers; None where there is nothing to plot."""

    rate: RateHistory | None
    similarity: SimilarityHistogram | None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """An error that pictures failed with, how many, and what it means."""

    error: str
    count: int
    meaning: str


def register(app: Flask, collection: Backend) -> None:
    """Add the page to the application."""

    def look() -> CollectionStatus:
        return collection_status(collection.database())

    def draw() -> Charts:
        with collection.database().begin() as connection:
            return Charts(rate=rate_history(connection), similarity=similarity_histogram(connection))

    app.extensions[_KEPT] = TimedCache(look, KEPT_S), TimedCache(draw, CHARTS_KEPT_S)
    app.register_blueprint(blueprint)


@blueprint.get("/status")
def status() -> ResponseReturnValue:
    """Show it; nothing of it tells hosts, paths or references."""
    kept_status, kept_charts = current_app.extensions[_KEPT]
    found: CollectionStatus = kept_status.get()
    charts: Charts = kept_charts.get()
    return render_template(
        "status.html",
        count=found.images,
        status=found,
        causes=[Cause(error=error, count=count, meaning=_meaning(error)) for error, count in found.failures.items()],
        charts=charts,
        bars=bars,
        index_line=index_line(found.index),
        index_facts=index_facts(found.index),
        moment=format_datetime,
    )


def bars(values: Sequence[float]) -> list[Bar]:
    """Return the bars of a plot."""
    highest = max(values, default=0) or 1
    return [Bar(x=x, height=round(100 * value / highest, 2)) for x, value in enumerate(values) if value]


def _meaning(error: str) -> str:
    """Return what an error of ours says of itself."""
    found = getattr(errors, error, None)
    if not (isinstance(found, type) and issubclass(found, errors.ImageError)):
        return ""
    return (inspect.getdoc(found) or "").partition(".")[0]
