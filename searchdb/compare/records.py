"""Frozen records of a comparison of two models: what it is asked, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Figures = Mapping[str, float]
"""Measures of quality by name, each 0 to 1: the names are those of `searchdb.compare.quality.FIGURES`."""


@dataclass(frozen=True, kw_only=True)
class ModelQuery:
    """A text to compare models by, and the stored images that are right for it, by id, path or URL; none: no truth.

    `lines` are the lines of a file that the references come from, one each, and `file` is its name, for messages.
    """

    text: str
    relevant: Sequence[int | str] = ()
    lines: Sequence[int] = ()
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An image of the sample that could not be read: its reference, the class of the error, and its message."""

    image: str
    error: str
    message: str


@dataclass(frozen=True, kw_only=True)
class RankedImage:
    """An image in a model's list: its rank from 1, cosine similarity, and its rank in the other model's list.

    `relevant` says whether it is right for the query; None where the query has no truth.
    """

    id: int
    image: str
    rank: int
    similarity: float
    other_rank: int
    relevant: bool | None


@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """What both models found for one query.

    `overlap` and `rank_biased_overlap` say how alike the rankings are, 0 to 1 (see `searchdb.compare.agreement`).
    `relevant` is the number of right images in the sample, `missing` of those that could not be read. The figures are
    None where there are no right images.
    """

    text: str
    first: Sequence[RankedImage]
    second: Sequence[RankedImage]
    overlap: float
    rank_biased_overlap: float
    relevant: int
    missing: int
    first_figures: Figures | None
    second_figures: Figures | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A measure of quality of both models, as means over the queries with truth.

    `low` and `high` bound the 95 % confidence interval of `difference`, second minus first. It is `significant` if the
    interval leaves out 0 and enough queries differ (see `searchdb.compare.quality.differences`).
    """

    figure: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    significant: bool


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """A model, what it costs, and what its similarities are like.

    Attributes:
        name, weights_sha256: the model; the SHA-256 in hexadecimal digits.
        dimension: the numbers of a vector.
        stored: whether the vectors of images were taken from the collection.
        images_per_s: images embedded in a second on this machine, without reading them.
        texts_per_s: texts embedded in a second, one at a time, as searches do.
        embedding_s: seconds that embedding all images of the collection takes at this rate.
        vector_bytes: what the vectors of all images of the collection take in PostgreSQL, without the index.
        median_similarity: of a query and an image; the median over the queries of each one's median.
        median_best_similarity: of a query and the image that is most similar to it.
    """

    name: str
    weights_sha256: str
    dimension: int
    stored: bool
    images_per_s: float
    texts_per_s: float
    embedding_s: float
    vector_bytes: int
    median_similarity: float
    median_best_similarity: float


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Two models compared on a sample of a collection.

    Attributes:
        first, second: the models; `second` is what the collection may be switched to.
        images: the number of images in the collection.
        compared: the number of images of the sample that were ranked; `frames` of them are frames of videos.
        left_out: the images of the sample that could not be read.
        seed: the seed of the sample.
        count: the images of a list, the k of overlap@k.
        queries: the result of each query.
        overlap, rank_biased_overlap: means over the queries.
        judged: the number of queries with truth.
        differences: the measures of quality, over the judged queries; empty if there are none.
        output: the file that the lists were written to; None if there is none.
    """

    first: ModelSummary
    second: ModelSummary
    images: int
    compared: int
    frames: int
    left_out: Sequence[LeftOut]
    seed: int
    count: int
    queries: Sequence[QueryResult]
    overlap: float
    rank_biased_overlap: float
    judged: int
    differences: Sequence[Difference] = field(default_factory=tuple[Difference, ...])
    output: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CompareProgress:
    """How far a comparison is: the current step, and the images that are done and to do in it."""

    step: str
    done: int
    total: int
