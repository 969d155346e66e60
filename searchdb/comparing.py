"""Comparing models on a collection, before it is switched to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from searchdb.compare.comparison import NO_IMAGES, CompareOptions, compare
from searchdb.compare.page import check_output, write_page
from searchdb.compare.query_file import checked_queries, read_queries
from searchdb.compare.reading import SampleReader
from searchdb.compare.records import CompareProgress, ModelComparison, ModelQuery
from searchdb.db.current_model import current_model
from searchdb.errors import CompareError
from searchdb.export.destination import file_sink
from searchdb.exporting import ExportingCollection
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.model_files import require_name
from searchdb.records import LARGEST_ID

DEFAULT_SAMPLE = 1000
"""Images that models are compared on: CLIP ViT-B/32 embeds them in a minute on two cores."""
DEFAULT_COUNT = 10
"""Length of the lists: what people look at first."""
MAX_COUNT = 100
"""Longest lists: two of them, with thumbnails, fill several screens."""


def no_progress(progress: CompareProgress) -> None:
    """Ignore the progress."""


class ComparingCollection(ExportingCollection):
    """A collection with the method that compares models on it."""

    def compare_models(
        self,
        first: str,
        second: str | None = None,
        *,
        queries: str | Path | Iterable[str | ModelQuery],
        sample: int = DEFAULT_SAMPLE,
        seed: int = 0,
        count: int = DEFAULT_COUNT,
        output: str | Path | None = None,
        progress: Callable[[CompareProgress], None] = no_progress,
    ) -> ModelComparison:
        """Compare two models on a random sample of the images, or one with the collection's model.

        The images are read again from their files and URLs, and frames of videos from their previews. Nothing is
        written to the database, and both models may give vectors of any length.

        Args:
            first, second: hub names, folders or `demo`. With one name, it is the second model, and the first one is the
                collection's.
            queries: a file as `searchdb.compare.query_file.read_queries` takes it, or texts, or ModelQuery records.
            sample: images in the sample; those that the queries name as right are added.
            seed: of the sample; with the same one, the same images are drawn.
            count: the length of the lists, the k of overlap@k.
            output: an HTML file with the lists side by side; it replaces only files that this method wrote.
            progress: called with each step.

        Raises:
            CompareError: an argument is out of range, both models are the same, the collection is empty, the sample
                takes too much memory, none of it can be read, or another file is in the place of `output`.
            QueriesError: the queries are wrong.
            ModelError: a model cannot be loaded.
            StorageError: `output` cannot be written.
        """
        if not 1 <= sample <= LARGEST_ID:
            raise CompareError(f"the sample is {sample:,} images: it has 1 to {LARGEST_ID:,}", field="sample")
        if not 1 <= count <= MAX_COUNT:
            raise CompareError(f"the count is {count:,}: lists have 1 to {MAX_COUNT} images", field="count")
        path = None if output is None else Path(output).expanduser()
        if path is not None:
            check_output(path)
        asked = self._model_queries(queries)
        names = [self._current(), first] if second is None else [first, second]
        embedders = [self._embedder_of(name) for name in names]
        one, other = (embedder.identity for embedder in embedders)
        if one.weights_sha256 == other.weights_sha256:
            raise CompareError(
                f"{one.name} and {other.name} are the same model (weights {one.short_weights}): name two that differ",
                field="second",
            )
        compared = compare(
            self.database.engine,
            embedders,
            asked,
            CompareOptions(
                size=sample, seed=seed, count=count, thumbnails=path is not None, memory=self.settings.decode_memory
            ),
            reader=SampleReader(
                embedders,
                fetcher=self.fetcher,
                max_pixels=self.settings.max_image_pixels,
                memory=self.memory,
                thumbnails=path is not None,
            ),
            progress=progress,
        )
        if path is None:
            return compared.comparison
        check_output(path)  # minutes have passed
        with file_sink(path) as sink:
            write_page(sink, compared.comparison, compared.shown, folder=path.parent)
        return replace(compared.comparison, output=str(path))

    def _model_queries(self, queries: str | Path | Iterable[str | ModelQuery]) -> list[ModelQuery]:
        if isinstance(queries, str | Path):
            return read_queries(queries)
        return checked_queries(
            (ModelQuery(text=query) if isinstance(query, str) else query for query in queries), "the list of queries"
        )

    def _current(self) -> str:
        with self.database.begin() as connection:
            model = current_model(connection)
        if model is None:
            raise CompareError(NO_IMAGES)
        return model.name

    def _embedder_of(self, name: str) -> CLIPEmbedder:
        require_name(name)
        if name == self.embedder.name:
            return self.embedder
        return CLIPEmbedder(name, device=self.settings.device, dtype=self.settings.dtype)
