"""Ingesting vectors that other programs made into a collection."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from searchdb.db.current_model import current_model, has_images, unverified_digest
from searchdb.db.retry import retry_until_available
from searchdb.errors import ConfigError, ModelMismatchError, ModelShapeError
from searchdb.index.rebuild import rebuild_if_stale
from searchdb.ingest.file_facts import with_file_facts
from searchdb.ingest.report import IngestReport
from searchdb.ingest.run import ProgressCallback, no_progress
from searchdb.ingest.vector_store import StoredVectors, store_vectors
from searchdb.media.local_model import local_model
from searchdb.records import DEMO_MODEL, MAX_DIMENSION, MIN_DIMENSION, ModelIdentity
from searchdb.second_model import WithSecondModel
from searchdb.vector_files.opening import vector_files
from searchdb.vector_files.reading import ReadRows, VectorReading
from searchdb.vector_files.records import Layout


@dataclass(kw_only=True)
class VectorReport(IngestReport):
    """What an ingest of vectors has done so far.

    Attributes:
        model: the model's name.
        dimension: numbers of a vector; None if no vector was read.
        verified: whether the model's weights are on this machine, or were seen before.
        rescaled: vectors that had another length than 1, and were scaled to it.
    """

    model: str = ""
    dimension: int | None = None
    verified: bool = True
    rescaled: int = 0


class VectorIngestingCollection(WithSecondModel):
    """A collection with the method that takes vectors from elsewhere."""

    def ingest_vectors(
        self,
        *files: str | Path,
        model: str | None = None,
        form: str | None = None,
        reference: str | None = None,
        vector: str | None = None,
        base: str | Path | None = None,
        reference_template: str | None = None,
        metadata: str | Path | None = None,
        limit: int | None = None,
        dry_run: bool = False,
        progress: ProgressCallback = no_progress,
    ) -> VectorReport:
        """Ingest vectors of images that another program made with `model`: npz, npy, Parquet, JSONL, CSV, COPY text.

        Nothing is embedded or fetched. Columns are found by their usual names. Files that are on this machine tell
        their size, content and metadata. Bad rows are recorded as failures; the others are stored as unit vectors, in
        batches, and rows that are stored already with the same vector and metadata are left alone.

        If the model is on this machine, its weights are taken for those that the vectors come from; otherwise only its
        name is stored, and its weights are adopted when it is first used.

        Args:
            files: the files, or folders with them, such as the output of clip-retrieval.
            model: the name of the model that made the vectors; by default the collection's.
            form: the format, one of `searchdb.vector_files.opening.FORMATS`; by default what the extension says.
            reference: the column, or key, of the images' paths or URLs.
            vector: the column, or key, of the vectors.
            base: the folder that relative paths begin in.
            reference_template: makes a reference of each row, such as `https://example.org/{}.jpg`.
            metadata: the file with the other columns of an npy.
            limit: read only the first rows.
            dry_run: read, and store nothing.
            progress: called with the report after each batch.

        Raises:
            SourceError: a file cannot be read, or its columns cannot be told.
            ConfigError: no model is named, and the collection has none.
            VectorWidthError: the vectors have another width than the collection's.
            ModelMismatchError: the collection's vectors are of another model.
            ModelError: the model that is named by a path is not there.
        """
        paths = vector_files([str(each) for each in files])
        layout = Layout(
            form=form,
            reference=reference,
            vector=vector,
            base=None if base is None else str(Path(base).expanduser().absolute()),
            template=reference_template,
            metadata=None if metadata is None else str(metadata),
        )
        report = VectorReport()
        given = _GivenModel(self, model)
        report.model = given.name
        reading = VectorReading(layout, given.dimension)
        with closing(reading.read(paths, limit=limit)) as batches:
            for rows in batches:
                self._count(report, rows, given, reading.width, dry_run=dry_run)
                progress(report)
        report.total = report.done
        report.dimension = reading.width
        report.verified = given.verified
        if report.stored and not dry_run:
            report.index_rebuilt = rebuild_if_stale(
                self.database.engine, cache=self._query_cache if given.here else None, target=self.settings.recall
            )
        progress(report)
        return report

    def _count(
        self, report: VectorReport, rows: ReadRows, given: _GivenModel, width: int | None, *, dry_run: bool
    ) -> None:
        """Store a batch, and add what became of it to the report."""
        report.failed.update(type(each.error).__name__ for each in rows.rejected)
        report.rescaled += rows.rescaled
        if dry_run:
            report.stored += len(rows.given)
            return
        settings = self.settings
        images = with_file_facts(rows.given, max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)

        def store() -> StoredVectors:
            with self.database.engine.begin() as connection:
                return store_vectors(connection, images, rows.rejected, given.identity(width))

        done = retry_until_available(store, outage_log=self.database.outage_log)
        report.stored += done.stored
        report.unchanged += done.unchanged


class _GivenModel:
    """The model that given vectors come from: the collection's, one on this machine, or only a name."""

    def __init__(self, collection: VectorIngestingCollection, name: str | None) -> None:
        with collection.database.connect() as connection:
            current = current_model(connection)
            self._has_images = has_images(connection)
        if name is None:
            if current is None or not self._has_images:
                raise ConfigError(
                    "the model that made the vectors is not named, and the collection has none yet: give --model NAME"
                )
            name = current.name
        found = local_model(name)
        self.name = name if found is None else found.name
        self.here = found is not None
        self._identity = found
        if self._has_images and current is not None:
            if found is None and current.name == name:
                self._identity = current
            elif found is not None and current.name == found.name and current.weights_sha256 == unverified_digest(name):
                # More vectors from elsewhere are no reason to adopt the weights: no image was compared.
                self._identity = current
            elif found is None or current.weights_sha256 != found.weights_sha256:
                raise ModelMismatchError(
                    stored=current.name,
                    stored_weights=current.short_weights,
                    stored_dimension=current.dimension,
                    given=self.name,
                    given_weights="unknown" if found is None else found.short_weights,
                    given_dimension=None if found is None else found.dimension,
                    stored_is_demo=current.name == DEMO_MODEL,
                )

    @property
    def dimension(self) -> int | None:
        """Numbers of a vector, as far as the model or the collection tells."""
        return None if self._identity is None else self._identity.dimension

    @property
    def verified(self) -> bool:
        """Whether the weights are known."""
        return self._identity is not None and self._identity.weights_sha256 != unverified_digest(self.name)

    def identity(self, width: int | None) -> ModelIdentity:
        """Return the identity under which vectors of this width are stored.

        Raises:
            ModelShapeError: no index takes vectors of this width.
        """
        if self._identity is not None:
            return self._identity
        dimension = width or MIN_DIMENSION
        if not MIN_DIMENSION <= dimension <= MAX_DIMENSION:
            raise ModelShapeError(self.name, dimension, least=MIN_DIMENSION, most=MAX_DIMENSION)
        return ModelIdentity(name=self.name, weights_sha256=unverified_digest(self.name), dimension=dimension)
