"""Changing a collection's model while it is searched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from PIL import Image

from searchdb.db.stored_models import stored_models
from searchdb.errors import SwitchError
from searchdb.ingest.pipeline import DEFAULT_CONCURRENCY
from searchdb.ingest.run import no_progress, running_worker
from searchdb.ingesting import IngestingCollection
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.model_files import require_name
from searchdb.switch.abort import abort_switch
from searchdb.switch.plan import SwitchPlan, plan_switch
from searchdb.switch.report import SwitchReport
from searchdb.switch.run import run_switch
from searchdb.switch.state import SwitchStatus, switch_status
from searchdb.switch.unembedded import RetryReport, retry_unembedded


class SwitchingCollection(IngestingCollection):
    """A collection with the methods that change its model."""

    def switch_model(
        self,
        name: str,
        *,
        accept_missing: bool = False,
        retry_failed: bool = False,
        work: bool = True,
        progress: Callable[[SwitchStatus], None] = no_progress,
        stop: threading.Event | None = None,
    ) -> SwitchReport:
        """Switch the collection to another model: a hub name, a folder in Hugging Face layout, or `demo`.

        All images are embedded again, here and by all other workers, while searches go on with the old model; then the
        new one becomes the current one in a moment. An interrupted switch goes on where it was. Images that cannot be
        read any more move to `unembedded_images`. Vectors of the model before are kept: switching back takes seconds.

        Args:
            name: the model.
            accept_missing: switch although more than a tenth of the images could not be embedded.
            retry_failed: with `accept_missing`, also try again images that failed in an earlier attempt; otherwise they
                always are.
            work: also embed images in this process; without it, `searchdb worker` must run somewhere.
            progress: called about twice a second.
            stop: ends it when it is set; a later call goes on.

        Raises:
            SwitchError: the model is the current one, another switch is open, something is in the way, it was aborted,
                or too many images could not be embedded.
            ModelError: the model cannot be loaded.
            DatabaseError: PostgreSQL failed, or we do not own the tables.
        """
        embedder = self._other_model(name)
        self._try(embedder)
        self.other_models.add(embedder)

        def working() -> AbstractContextManager[object]:
            return running_worker(
                self.database, self._make_ingest, DEFAULT_CONCURRENCY, self._rebuild_index, self._make_again
            )

        return run_switch(
            self.database,
            self.settings,
            embedder,
            **({"working": working} if work else {}),
            accept_missing=accept_missing,
            retry_failed=retry_failed,
            progress=progress,
            stop=stop,
        )

    def plan_switch(self, name: str) -> SwitchPlan:
        """Return what a switch to a model would take, measured on a sample; nothing is changed.

        Raises:
            ModelError: the model cannot be loaded.
        """
        embedder = self._other_model(name)
        return plan_switch(self.database, self.settings, embedder, self._make_reading(embedder, threading.Event()))

    def switch_status(self) -> SwitchStatus | None:
        """Return how far the open switch is; None if none is open."""
        with self.database.connect() as connection:
            return switch_status(connection)

    def abort_switch(self) -> str:
        """End the open switch, drop what it has made, and return the name of its model.

        Raises:
            SwitchError: none is open, or the model has become the current one.
        """
        return abort_switch(self.database).model.name

    def retry_unembedded(self, *, source: str | None = None, error: str | None = None) -> RetryReport:
        """Try again to embed the images that the current model could not, optionally of one source or error class.

        Raises:
            ModelError: the model cannot be loaded, or is not the collection's.
        """
        self.store.check_model(self.embedder.identity)
        reading = self._make_reading(self.embedder, threading.Event())
        return retry_unembedded(self.database, self.embedder, reading, source=source, error=error)

    def _try(self, embedder: CLIPEmbedder) -> None:
        """Check that a model works; one whose vectors are kept is not loaded, which takes seconds."""
        with self.database.connect() as connection:
            kept = {model.identity.weights_sha256: model.identity for model in stored_models(connection) if model.kept}
        before = kept.get(embedder.identity.weights_sha256)
        if before is None:
            embedder.embed_images([Image.new("RGB", (64, 64), "grey")])
            embedder.embed_texts(["a photo"])
        elif before.dimension != embedder.dimension:
            raise SwitchError(
                f"{embedder.name} gave vectors of {before.dimension:,} numbers before, and its config.json says "
                f"{embedder.dimension:,} now: copy its files again"
            )
        else:
            embedder.check_files()

    def _other_model(self, name: str) -> CLIPEmbedder:
        require_name(name)
        return CLIPEmbedder(name, device=self.settings.device, dtype=self.settings.dtype)
