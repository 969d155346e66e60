"""The model as the web sees it: made at once, loaded in the background, waited for by searches for a while."""

from __future__ import annotations

import logging
import threading

from werkzeug.exceptions import ServiceUnavailable

from searchdb.errors import ModelError
from searchdb.search import QueryEmbedder

PATIENCE = 15.0
"""Seconds that a search waits for the model: loading from disk takes less, a first download much more."""
RETRY_AFTER = 10
"""Seconds after which a client may ask again, where that was not enough."""

log = logging.getLogger(__name__)


class BackgroundModel:
    """A model that is loaded once, in a thread of its own.

    Args:
        name: what it was chosen by.
        embedder: the model.
        loaded: whether it is in memory already.
    """

    def __init__(self, name: str, embedder: QueryEmbedder, *, loaded: bool = False) -> None:
        self.name = name
        self.embedder = embedder
        self._lock = threading.Lock()
        self._started = loaded
        self._done = threading.Event()
        if loaded:
            self._done.set()

    @property
    def loaded(self) -> bool:
        """Whether a search need not wait; also true when loading has failed, which a search then reports."""
        return self._done.is_set()

    def start(self) -> None:
        """Begin to load it, unless that has been done."""
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._load, name="load-model", daemon=True).start()

    def wait(self) -> None:
        """Return once it is loaded, or has failed to.

        Raises:
            ServiceUnavailable: it still loads after PATIENCE.
        """
        self.start()
        if not self._done.wait(PATIENCE):
            raise ServiceUnavailable(
                "The model is still loading. The first time it is downloaded, which can take minutes.",
                retry_after=RETRY_AFTER,
            )

    def _load(self) -> None:
        try:
            self.embedder.embed_texts(["a picture"])  # not only loads it: a model's first run is its slowest
        except ModelError as exc:
            log.warning("%s", exc)
        finally:
            self._done.set()
