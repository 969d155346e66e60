"""Ranks a sample by both models for each query, and puts the lists side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchdb.compare.agreement import overlap, rank_biased_overlap
from searchdb.compare.embedding import EmbeddedSample
from searchdb.compare.quality import figures
from searchdb.compare.records import Figures, QueryResult, RankedImage
from searchdb.compare.sample import JudgedQuery

_BLOCK = 1_000_000
"""Similarities by a model that are in memory at a time, 4 MB."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Similarities of a query by one model: the median over the sample, and the highest."""

    median: float
    best: float


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """The result of each query, and the similarities of each model, in the order of the queries."""

    results: Sequence[QueryResult]
    spreads: Sequence[Sequence[Spread]]


def rank(sample: EmbeddedSample, texts: Sequence[np.ndarray], queries: Sequence[JudgedQuery], count: int) -> Rankings:
    """Compare each query with every image, by both models, exactly; equally similar images are in the order of ids.

    Args:
        sample: has vectors by two models.
        texts: the queries' unit vectors by each model, float32 of shape (len(queries), numbers of the model).
        queries: the texts, with the images that are right.
        count: the length of the lists.
    """
    places = {image.id: place for place, image in enumerate(sample.images)}
    spreads: list[list[Spread]] = [[], []]
    results: list[QueryResult] = []
    size = max(1, _BLOCK // len(sample.images))
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        by_model = zip(texts, sample.vectors, strict=True)
        similarities = [of_texts[block] @ of_images.T for of_texts, of_images in by_model]
        for row, query in enumerate(queries[block]):
            both = [values[row] for values in similarities]
            for of_model, values in zip(spreads, both, strict=True):
                of_model.append(Spread(median=float(np.median(values)), best=float(values.max())))
            results.append(_result(sample, query, both, places, count))
    return Rankings(results=results, spreads=spreads)


def _result(
    sample: EmbeddedSample,
    query: JudgedQuery,
    similarities: Sequence[np.ndarray],
    places: dict[int, int],
    count: int,
) -> QueryResult:
    orders = [np.argsort(-values, kind="stable") for values in similarities]
    ranks = [np.empty_like(order) for order in orders]
    for of_model, order in zip(ranks, orders, strict=True):
        of_model[order] = np.arange(1, len(order) + 1)
    relevant = {places[image] for image in query.relevant if image in places}

    def listed(model: int) -> list[RankedImage]:
        first: list[int] = orders[model][:count].tolist()
        return [
            RankedImage(
                id=sample.images[place].id,
                image=sample.images[place].image,
                rank=position,
                similarity=float(similarities[model][place]),
                other_rank=int(ranks[1 - model][place]),
                relevant=place in relevant if query.relevant else None,
            )
            for position, place in enumerate(first, 1)
        ]

    def measured(model: int) -> Figures | None:
        return figures([int(ranks[model][place]) for place in relevant]) if relevant else None

    return QueryResult(
        text=query.text,
        first=listed(0),
        second=listed(1),
        overlap=overlap(orders[0], orders[1], count),
        rank_biased_overlap=rank_biased_overlap(orders[0], orders[1]),
        relevant=len(relevant),
        missing=len(query.relevant) - len(relevant),
        first_figures=measured(0),
        second_figures=measured(1),
    )
