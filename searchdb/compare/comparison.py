"""Compares two models on a sample of a collection: draws it, reads and embeds it, ranks it and sums it up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Engine

from searchdb.compare.embedding import EmbeddedSample, RankableImage, embed_sample
from searchdb.compare.quality import differences
from searchdb.compare.ranking import Spread, rank
from searchdb.compare.reading import SampleReader
from searchdb.compare.records import CompareProgress, ModelComparison, ModelQuery, ModelSummary
from searchdb.compare.sample import draw, judged_queries, sampled_images
from searchdb.compare.speed import images_per_s, texts_per_s
from searchdb.db.tables import images as stored_images
from searchdb.embedder import Embedder
from searchdb.errors import CompareError

IMAGE_BYTES = 1024
"""Memory for what is known of an image beside its vectors and its thumbnail."""
THUMBNAIL_BYTES = 12 * 1024
"""Memory for a thumbnail: most take about a half of it."""
VECTOR_HEADER_BYTES = 8
"""What pgvector stores of a vector beside four bytes for each number."""

NO_IMAGES = "the collection has no images to compare models on: ingest some first"
LOADING, READING, MEASURING = "loading the models", "reading and embedding images", "measuring rates"
"""Steps of a comparison."""


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """How to compare.

    Attributes:
        size: images of the sample; those that are right for a query are added.
        seed: of the sample, and of the bootstrap.
        count: the length of the lists, the k of overlap@k.
        thumbnails: whether to make thumbnails of the images.
        memory: the bytes that the sample may take.
    """

    size: int
    seed: int
    count: int
    thumbnails: bool
    memory: int


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison, and the images in its lists by id."""

    comparison: ModelComparison
    shown: Mapping[int, RankableImage]


def compare(
    engine: Engine,
    embedders: Sequence[Embedder],
    queries: Sequence[ModelQuery],
    options: CompareOptions,
    *,
    reader: SampleReader,
    progress: Callable[[CompareProgress], None],
) -> Compared:
    """Compare two models; nothing is written to the database.

    Args:
        engine: the database.
        embedders: both models; what the collection has of their vectors is used.
        queries: at least one.
        options: how to compare.
        reader: reads the images for both models.
        progress: called when something has been done.

    Raises:
        CompareError: the collection is empty, the sample takes too much memory, or none of its images can be read.
        QueriesError: images that are right for a query are not stored.
        ModelError: a model cannot be loaded.
    """
    with engine.begin() as connection:
        images = connection.scalar(sa.select(sa.func.count()).select_from(stored_images)) or 0
        if not images:
            raise CompareError(NO_IMAGES)
        judged = judged_queries(connection, queries)
        right = {image for query in judged for image in query.relevant}
        ids = right.union(draw(connection, options.size, options.seed))
    plain = [query.text for query in judged]
    texts: list[np.ndarray] = []
    for place, embedder in enumerate(embedders):
        progress(CompareProgress(step=LOADING, done=place, total=len(embedders)))
        texts.append(embedder.embed_texts(plain))
    _check_memory(len(ids), len(right), sum(each.shape[1] for each in texts), options)

    def embedded(done: int) -> None:
        progress(CompareProgress(step=READING, done=done, total=len(ids)))

    embedded(0)
    models = {embedder.identity.weights_sha256 for embedder in embedders}
    with closing(reader.read(sampled_images(engine, sorted(ids), models))) as read:
        sample = embed_sample(read, embedders, embedded)
    if not sample.images:
        raise _unreadable(sample, len(ids))
    summaries: list[ModelSummary] = []
    rankings = rank(sample, texts, judged, options.count)
    for place, embedder in enumerate(embedders):
        progress(CompareProgress(step=MEASURING, done=place, total=len(embedders)))
        summaries.append(_summary(embedder, sample, place, plain, rankings.spreads[place], images))
    progress(CompareProgress(step=MEASURING, done=len(embedders), total=len(embedders)))
    results = rankings.results
    first = [each.first_figures for each in results if each.first_figures is not None]
    second = [each.second_figures for each in results if each.second_figures is not None]
    shown = {each.id for result in results for each in (*result.first, *result.second)}
    return Compared(
        comparison=ModelComparison(
            first=summaries[0],
            second=summaries[1],
            images=images,
            compared=len(sample.images),
            frames=sum(image.video is not None for image in sample.images),
            left_out=sample.left_out,
            seed=options.seed,
            count=options.count,
            queries=results,
            overlap=float(np.mean([each.overlap for each in results])),
            rank_biased_overlap=float(np.mean([each.rank_biased_overlap for each in results])),
            judged=len(first),
            differences=differences(first, second, seed=options.seed),
        ),
        shown={image.id: image for image in sample.images if image.id in shown},
    )


def _check_memory(size: int, right: int, numbers: int, options: CompareOptions) -> None:
    each = 4 * numbers + IMAGE_BYTES + (THUMBNAIL_BYTES if options.thumbnails else 0)
    if size * each > options.memory:
        named = f", {right:,} of them named by the queries" if right else ""
        raise CompareError(
            f"a sample of {size:,} images{named} takes {size * each:,} bytes of memory, the limit is "
            f"{options.memory:,} (SEARCHDB_DECODE_MEMORY): compare on at most {options.memory // each:,} images, or "
            "raise it",
            field="sample",
        )


def _unreadable(sample: EmbeddedSample, size: int) -> CompareError:
    if not sample.left_out:  # removed meanwhile
        return CompareError(NO_IMAGES)
    one = sample.left_out[0]
    return CompareError(
        f"none of the {size:,} images of the sample can be read, such as {one.image}: {one.message}. Mount their disk, "
        "or see `searchdb verify`",
        field="sample",
    )


def _summary(
    embedder: Embedder, sample: EmbeddedSample, place: int, texts: Sequence[str], spreads: Sequence[Spread], images: int
) -> ModelSummary:
    rate = images_per_s(embedder, sample.measured[place])
    dimension = sample.vectors[place].shape[1]
    return ModelSummary(
        name=embedder.identity.name,
        weights_sha256=embedder.identity.weights_sha256.hex(),
        dimension=dimension,
        stored=sample.stored[place],
        images_per_s=rate,
        texts_per_s=texts_per_s(embedder, texts),
        embedding_s=images / rate,
        vector_bytes=images * (4 * dimension + VECTOR_HEADER_BYTES),
        median_similarity=float(np.median([each.median for each in spreads])),
        median_best_similarity=float(np.median([each.best for each in spreads])),
    )
