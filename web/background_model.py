"""The model as the web sees it: made at once, loaded in the background, waited for by searches for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image
from werkzeug.exceptions import ServiceUnavailable

from searchdb.errors import ModelError
from searchdb.ingest.adder import PictureEmbedder
from searchdb.records import ModelIdentity
from searchdb.search.query_cache import REMEMBERED_S, REMEMBERED_TEXTS, TextMemory
from searchdb.search.searcher import QueryEmbedder

from .ops.metrics import Metrics

LOAD_WAIT_S = 15.0
"""Seconds that a search waits for the model: loading from disk takes less, a first download much more."""
MODEL_RETRY_AFTER_S = 10
"""Seconds after which a client may ask again, where that was not enough."""

log = logging.getLogger(__name__)


class ServedModel(QueryEmbedder, PictureEmbedder, Protocol):
    """What the web needs of the model: what searching needs of it, and adding pictures."""


class RememberingEmbedder:
    """A model that is timed, and whose vectors of texts are kept in memory.

    The database keeps them, too, and is asked first; what it may not keep, or has lost, need not be computed again.
    """

    def __init__(self, model: ServedModel, metrics: Metrics, *, capacity: int = REMEMBERED_TEXTS) -> None:
        self._model = model
        self._metrics = metrics
        self._memory = TextMemory(capacity)

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        return self._model.identity

    @property
    def shortest_edge(self) -> int:
        """Pixels that a picture's shorter side is scaled to."""
        return self._model.shortest_edge

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(texts), 512)."""
        if not texts:
            return self._model.embed_texts(texts)
        known = self._memory.get(texts)
        self._metrics.cached("memory", len(known))
        missing = [each for each in dict.fromkeys(texts) if each not in known]
        if missing:
            began = time.perf_counter()
            vectors = self._model.embed_texts(missing)
            self._metrics.embedded("text", len(missing), time.perf_counter() - began)
            new = dict(zip(missing, vectors, strict=True))
            self._memory.put(new)
            known |= new
        return np.stack([known[each] for each in texts])

    def embed_images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(pictures), 512)."""
        began = time.perf_counter()
        vectors = self._model.embed_images(pictures)
        self._metrics.embedded("picture", len(pictures), time.perf_counter() - began)
        return vectors


class BackgroundModel:
    """A model that is loaded once, in a thread of its own.

    Args:
        name: what it was chosen by.
        embedder: the model.
        loaded: whether it is in memory already.

    Attributes:
        searched: the texts that were searched for, all of which the database has been asked for.
    """

    def __init__(self, name: str, embedder: ServedModel, *, loaded: bool = False) -> None:
        self.name = name
        self.embedder = embedder
        self.searched = TextMemory(seconds=REMEMBERED_S)
        self.failure: ModelError | None = None
        self._lock = threading.Lock()
        self._started = loaded
        self._loading = False
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
            if not self._started:
                self._begin()

    def start_again(self) -> None:
        """Begin to load it once more where that has failed; searches are not kept waiting for it."""
        with self._lock:
            if self.failure is not None and not self._loading:
                self._begin()

    def load(self) -> None:
        """Return once it is loaded, or has failed to, however long that takes."""
        self.start()
        self._done.wait()

    def wait(self) -> None:
        """Return once it is loaded, or has failed to.

        Raises:
            ServiceUnavailable: it still loads after LOAD_WAIT_S.
        """
        self.start()
        if not self._done.wait(LOAD_WAIT_S):
            raise ServiceUnavailable(
                "The model is still loading. The first time it is downloaded, which can take minutes.",
                retry_after=MODEL_RETRY_AFTER_S,
            )

    def _begin(self) -> None:
        self._started = self._loading = True
        threading.Thread(target=self._load, name="load-model", daemon=True).start()

    def _load(self) -> None:
        try:
            self.embedder.embed_texts(["a picture"])  # not only loads it: a model's first run is its slowest
            _ = self.embedder.identity  # its weights may have to be read for that
        except ModelError as exc:
            log.warning("%s", exc)
            self.failure = exc
        else:
            self.failure = None
        finally:
            self._loading = False
            self._done.set()
