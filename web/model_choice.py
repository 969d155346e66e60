"""Chooses the model that requests use: the settings' or the stored images', also after the collection was switched."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from sqlalchemy import Connection
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from searchdb.config import Settings
from searchdb.db.current_model import current_model, has_images, model_to_use, upcoming_model
from searchdb.db.vectors import current_column
from searchdb.errors import DatabaseError

from .background_model import BackgroundModel

LOOK_S = 2.0
"""Seconds for which is used what the database said about the collection's model. A search that has another model than
the collection meanwhile fails and is repeated at once."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the database says about the collection's model.

    Attributes:
        name: of the model to use.
        weights: the SHA-256 of the stored images' model, if it has that name.
        upcoming: the name of the model that the collection is being switched to, if that will end soon.
        dimension: the numbers of the stored vectors.
        empty: whether there are no images; then the next look may find another model.
        began: when the look began, in seconds of time.monotonic.
    """

    name: str
    weights: bytes | None
    upcoming: str | None
    dimension: int
    empty: bool
    began: float = field(default_factory=time.monotonic)


def look(connection: Connection, settings: Settings) -> Look:
    """Ask the database about the collection's model."""
    began, empty = time.monotonic(), not has_images(connection)
    stored, upcoming = current_model(connection), upcoming_model(connection)
    same = upcoming is None or (stored is not None and stored.weights_sha256 == upcoming.weights_sha256)
    name = model_to_use(connection, settings.explicit_model, settings.model)
    return Look(
        name=name,
        weights=stored.weights_sha256 if stored is not None and stored.name == name else None,
        upcoming=None if upcoming is None or same else upcoming.name,
        dimension=current_column(connection).dimension,
        empty=empty,
        began=began,
    )


class ModelChoice:
    """The model that requests use now, and beside it the one that the collection is about to be switched to.

    That one is loaded in the background, so that the first search after the change is fast. The earlier model is
    forgotten then: its memory is free once no request uses it.

    Thread-safe.

    Args:
        explicit: the model that the settings name, which is used while the database does not answer; None without one.
        ask: looks at the database.
        make: returns the model with a given name, not loaded yet.
        loading_next: what it returns is held while the next model is loaded: the collection changes to it afterwards.
    """

    def __init__(
        self,
        explicit: str | None,
        ask: Callable[[], Look],
        make: Callable[[str], BackgroundModel],
        loading_next: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._explicit = explicit
        self._ask = ask
        self._make = make
        self._loading_next = loading_next
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._known: Look | None = None
        self._tried_at = -math.inf
        self._model: BackgroundModel | None = None
        self._next: BackgroundModel | None = None

    @property
    def last(self) -> BackgroundModel | None:
        """The model that was used last, without a query; None before the first."""
        return self._model

    @property
    def upcoming(self) -> BackgroundModel | None:
        """The model that the collection is about to be switched to, which is being loaded or is; None without one."""
        return self._next

    def current(self) -> BackgroundModel:
        """Return the model to use, as the database said at most LOOK_S ago; does not wait until it is loaded.

        Raises:
            DatabaseError: the database cannot be asked, and neither the settings nor an earlier answer name a model.
        """
        try:
            return self._used(self._recent())
        except (DatabaseError, PoolTimeoutError):
            with self._lock:
                if self._model is None:
                    if self._explicit is None:
                        raise
                    self._model = self._make(self._explicit)
                return self._model

    def renewed(self) -> BackgroundModel:
        """Return the model to use, as the database says now.

        Raises:
            DatabaseError: the database cannot be asked.
        """
        return self._used(self._renew())

    def dimension(self) -> int:
        """Return the numbers of the stored vectors, as the database last said; of the model's where there are none.

        Raises:
            DatabaseError: the database cannot be asked, and has never answered.
        """
        try:
            found = self._recent()
        except (DatabaseError, PoolTimeoutError):
            if self._known is None:
                raise
            found = self._known
        model = self._model
        return model.embedder.dimension if found.empty and model is not None and model.usable else found.dimension

    def _used(self, found: Look) -> BackgroundModel:
        with self._lock:
            if self._model is None:  # an outage came first
                self._model = self._make(found.name)
            return self._model

    def _recent(self) -> Look:
        known = self._known
        if known is not None and not known.empty:
            if time.monotonic() - max(known.began, self._tried_at) < LOOK_S:
                return known
            if not self._looking.acquire(blocking=False):
                return known  # another thread looks
            try:
                return self._renew()
            finally:
                self._tried_at = time.monotonic()  # while the database hangs, few threads should wait for it twice
                self._looking.release()
        return self._renew()

    def _renew(self) -> Look:
        found = self._ask()
        with self._lock:
            if self._known is None or found.began >= self._known.began:  # threads may overtake each other
                self._apply(found, self._known)
                self._known = found
            return self._known

    def _apply(self, found: Look, before: Look | None) -> None:
        if self._model is None or self._model.name != found.name or _has_other_weights(self._model, found, before):
            ready = self._next if self._next is not None and self._next.name == found.name else None
            self._model = ready or self._make(found.name)
        if found.upcoming is None:
            self._next = None
        elif self._next is None or self._next.name != found.upcoming:
            self._next = self._make(found.upcoming)
            self._next.start(self._loading_next)


def _has_other_weights(model: BackgroundModel, found: Look, before: Look | None) -> bool:
    """Whether the collection was switched to other weights with the same name, as of a retrained folder."""
    if before is None or None in (found.weights, before.weights) or found.weights == before.weights:
        return False
    return not (model.usable and model.embedder.identity.weights_sha256 == found.weights)
