"""Loads the model in a background thread; searches wait for it for a limited time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from PIL import Image
from werkzeug.exceptions import ServiceUnavailable

from searchdb.embedder import Embedder
from searchdb.errors import DatabaseError, ModelError, ModelUnavailableError
from searchdb.records import ModelIdentity
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from searchdb.search.query_cache import REMEMBERED_S, QueryCache

from . import work_limit
from .ops.metrics import Metrics
from .slots import Slots, WorkSlots

LOAD_WAIT_S = 15.0
"""Seconds that a search waits for the model: loading from disk takes less, the first download much more."""
MODEL_RETRY_AFTER_S = 10
"""Seconds until a client may try again when the model is still loading."""
WARM_UP_TEXT = "a photo"
"""The text that is embedded and searched for at the start, so that the first visitor's search is fast."""

log = logging.getLogger(__name__)


_OUR_TEXTS = frozenset(EVERYDAY_TEXTS)
"""Texts that relevance is measured by: whose request embeds them first has not asked for them."""


def _nothing() -> None:
    pass


class TimedEmbedder:
    """Wraps a model: limits its runs at once, and counts them in the metrics and for the client's limit.

    Its methods that embed raise TooManyRequests where the client of the current request would exceed the limit, and
    ServiceUnavailable where too many requests wait for the model.
    """

    def __init__(self, embedder: Embedder, slots: Slots, metrics: Metrics) -> None:
        self._embedder = embedder
        self._slots = slots
        self._metrics = metrics

    @property
    def identity(self) -> ModelIdentity:
        """The model's name and the SHA-256 of its weights."""
        return self._embedder.identity

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self._embedder.dimension

    @property
    def shortest_edge(self) -> int:
        """Pixels that an image's shorter side is scaled to."""
        return self._embedder.shortest_edge

    def resize(self, image: Image.Image) -> Image.Image:
        """Scale and crop an RGB image to the size that the model takes."""
        return self._embedder.resize(image)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(texts), dimension)."""
        work_limit.spend(sum(each not in _OUR_TEXTS for each in texts))
        began = time.perf_counter()
        with self._slots:
            vectors = self._embedder.embed_texts(texts)
        self._metrics.embedded("text", len(texts), time.perf_counter() - began)
        return vectors

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return unit vectors, float32 of shape (len(images), dimension)."""
        work_limit.spend(len(images))
        began = time.perf_counter()
        with self._slots:
            vectors = self._embedder.embed_images(images)
        self._metrics.embedded("picture", len(images), time.perf_counter() - began)
        return vectors


class BackgroundModel:
    """A model that a background thread loads, with the cache of its text vectors.

    Args:
        name: the model's name, as it was chosen.
        embedder: the model.
        slots: limit the model's runs, and the searches that wait until it is loaded.
        metrics: time and count the model's runs, and count hits of the cache.
        max_cache_bytes: bytes of the cached texts in the database.
        loaded: whether the model is in memory already.
        on_loaded: called once the model is loaded; a ModelError that it raises counts as a failure to load.

    Attributes:
        embedder: the model; its runs are timed.
        query_cache: the vectors of texts, shared by all requests of this process.
        failure: why loading failed; None if it has not failed.
    """

    def __init__(
        self,
        name: str,
        embedder: Embedder,
        slots: WorkSlots,
        metrics: Metrics,
        *,
        max_cache_bytes: int,
        loaded: bool = False,
        on_loaded: Callable[[], None] = _nothing,
    ) -> None:
        self.name = name
        self._on_loaded = on_loaded
        self.embedder = TimedEmbedder(embedder, slots.model, metrics)
        self.query_cache = QueryCache(
            self.embedder, max_bytes=max_cache_bytes, trust_memory_s=REMEMBERED_S, on_hit=metrics.cached
        )
        self.failure: ModelError | None = None
        self._waiting = slots.loading
        self._lock = threading.Lock()
        self._started = loaded
        self._loading = False
        self._ended_at = 0.0
        self._done = threading.Event()
        if loaded:
            self._done.set()

    @property
    def loaded(self) -> bool:
        """Whether loading has ended; also true after a failure."""
        return self._done.is_set()

    @property
    def usable(self) -> bool:
        """Whether loading has succeeded."""
        return self.loaded and self.failure is None

    def start(self, holding: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Start loading, unless it was started already; what `holding` returns is held until loading has ended."""
        with self._lock:
            if not self._started:
                self._begin(holding)

    def start_again(self) -> None:
        """Start loading again if it failed; searches do not wait for it."""
        with self._lock:
            if self.failure is not None and not self._loading:
                self._begin(nullcontext)

    def load(self) -> None:
        """Load the model and wait, without a time limit, until that has succeeded or failed."""
        self.start()
        self._done.wait()

    def wait(self) -> None:
        """Load the model and wait until that has succeeded or failed.

        Raises:
            ServiceUnavailable: the model is still loading after LOAD_WAIT_S, or too many searches wait for it.
            ModelError: loading failed. It is tried again in the background, if the last attempt was MODEL_RETRY_AFTER_S
                ago: a download that fails takes a while, and would occupy the thread of each search.
        """
        self.start()
        if not self._done.is_set():
            with self._waiting:
                loaded = self._done.wait(LOAD_WAIT_S)
            if not loaded:
                raise ServiceUnavailable(
                    "The model is still loading. The first time it is downloaded, which can take minutes.",
                    retry_after=MODEL_RETRY_AFTER_S,
                )
        if (failure := self.failure) is not None:
            if time.monotonic() - self._ended_at >= MODEL_RETRY_AFTER_S:
                self.start_again()
            raise failure.with_traceback(None)

    def _begin(self, holding: Callable[[], AbstractContextManager[None]]) -> None:
        def load() -> None:
            with holding():
                self._load()

        self._started = self._loading = True
        threading.Thread(target=load, name="load-model", daemon=True).start()

    def _load(self) -> None:
        try:
            self.query_cache.compute([WARM_UP_TEXT])  # also runs the model: the first run is the slowest
            _ = self.embedder.identity  # may have to read and hash the weights
            self._on_loaded()
        except (ModelError, DatabaseError) as exc:
            log.warning("%s", exc)
            self.failure = exc if isinstance(exc, ModelError) else ModelUnavailableError(self.name, str(exc))
        else:
            self.failure = None
        finally:
            self._loading, self._ended_at = False, time.monotonic()
            self._done.set()
