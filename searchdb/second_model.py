"""The model that a collection is being switched to: loads it for the ingest, and for embedding stored images again."""

from __future__ import annotations

import logging
import threading
from functools import cached_property

from searchdb.config import DOWNLOADS
from searchdb.db.current_model import current_model
from searchdb.db.open_switch import OpenSwitch, open_switch
from searchdb.embedder import Embedder
from searchdb.errors import ModelError, ModelUnavailableError
from searchdb.ingest.preparation import Preparation
from searchdb.ingest.second_model import SecondModel
from searchdb.ingest.videos import VideoLimits
from searchdb.media.embed import CLIPEmbedder
from searchdb.parts import CollectionParts
from searchdb.records import ModelIdentity
from searchdb.switch.again import Again
from searchdb.switch.reading import Reading

logger = logging.getLogger(__name__)


class OtherModels:
    """Models beside the current one, each loaded once; thread-safe.

    Args:
        device, dtype: as of CLIPEmbedder.
    """

    def __init__(self, *, device: str, dtype: str) -> None:
        self._device = device
        self._dtype = dtype
        self._lock = threading.Lock()
        self._loaded: dict[bytes, CLIPEmbedder] = {}
        self._failed: set[bytes] = set()

    def add(self, embedder: CLIPEmbedder) -> None:
        """Use a model that is loaded already."""
        with self._lock:
            self._loaded[embedder.identity.weights_sha256] = embedder

    def take(self, model: ModelIdentity) -> CLIPEmbedder | None:
        """Return a model if it is loaded, and keep it no longer: the caller does."""
        with self._lock:
            return self._loaded.pop(model.weights_sha256, None)

    def forget_all_but(self, model: ModelIdentity | None) -> None:
        """Free the memory of the models, but for one."""
        with self._lock:
            kept = None if model is None else model.weights_sha256
            self._loaded = {weights: each for weights, each in self._loaded.items() if weights == kept}

    def find(self, switch: OpenSwitch) -> Embedder:
        """Return the model that a collection is being switched to.

        Raises:
            ModelError: it cannot be loaded here, or has other weights than where the switch was begun.
        """
        with self._lock:
            found = self._loaded.get(switch.model.weights_sha256)
            if found is None:
                found = CLIPEmbedder(switch.model.name, device=self._device, dtype=self._dtype)
                if found.identity.weights_sha256 != switch.model.weights_sha256:
                    raise ModelUnavailableError(
                        switch.model.name, "it has other weights here than where the switch to it was begun"
                    )
                self._loaded[switch.model.weights_sha256] = found
            return found

    def find_or_warn(self, switch: OpenSwitch) -> Embedder | None:
        """Return it, or None if it cannot be loaded here, which is logged once."""
        try:
            return self.find(switch)
        except ModelError as exc:
            if switch.model.weights_sha256 not in self._failed:
                self._failed.add(switch.model.weights_sha256)
                logger.warning("new images get the vector of %s later: %s", switch.model, exc)
            return None


class WithSecondModel(CollectionParts):
    """A collection that knows the model that it is being switched to."""

    @cached_property
    def other_models(self) -> OtherModels:
        """The models beside the current one."""
        return OtherModels(device=self.settings.device, dtype=self.settings.dtype)

    def _load(self, name: str, stored: ModelIdentity | None) -> CLIPEmbedder:
        taken = None if stored is None or stored.name != name else self.other_models.take(stored)
        return taken or super()._load(name, stored)

    @property
    def _video_limits(self) -> VideoLimits:
        return VideoLimits(
            frames=self.settings.max_video_frames,
            bytes=self.settings.max_video_bytes,
            pixels=self.settings.max_image_pixels,
            memory=self.settings.decode_memory,
        )

    def _second_model(self) -> SecondModel | None:
        with self.database.connect() as connection:
            switch = open_switch(connection)
            if switch is None:
                self.other_models.forget_all_but(current_model(connection))
        if switch is None or switch.changed_at is not None:
            return None
        embedder = self.other_models.find_or_warn(switch)
        return None if embedder is None else SecondModel(embedder=embedder, column=switch.column)

    def _make_again(self) -> Again:
        return Again(self.database, find_embedder=self.other_models.find, make_reading=self._make_reading)

    def _make_reading(self, embedder: Embedder, stopping: threading.Event) -> Reading:
        return Reading(
            embedder=embedder,
            preparation=Preparation(
                fetcher=self.fetcher,
                max_pixels=self.settings.max_image_pixels,
                memory=self.memory,
                stopping=stopping,
            ),
            fetcher=self.fetcher,
            downloads=self.settings.home / DOWNLOADS,
            limits=self._video_limits,
            stopping=stopping,
        )
