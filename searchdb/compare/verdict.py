"""Says in sentences what a comparison of two models found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from searchdb.compare.quality import FEWEST_DIFFERENT
from searchdb.compare.records import Difference, ModelComparison, ModelSummary
from searchdb.plurals import counted

HEADLINE = "nDCG@10"
"""The measure of quality that the sentences quote: it counts all right images among the first ten, and their order."""
SIGNIFICANT, EQUAL, TOO_FEW = "significant", "equal", "too few queries"
_SHIFTED = 0.02
"""Difference of similarities above which the report says that thresholds must be chosen again."""


def verdict(comparison: ModelComparison) -> Iterator[str]:
    """Yield sentences, the most important first; A is the first model and B the second."""
    first, second = comparison.first, comparison.second
    listed = min(comparison.count, comparison.compared)
    first_images = "image" if listed == 1 else f"{listed:,} images"
    have = "has" if listed == 1 else "have"
    queries = counted(len(comparison.queries), "query", "queries")
    yield (
        f"The first {first_images} of both models {have} {100 * comparison.overlap:.0f}% in common, the mean of "
        f"{queries} on {comparison.compared:,} of {counted(comparison.images, 'image')} "
        f"(rank-biased overlap {comparison.rank_biased_overlap:.2f})."
    )
    yield _quality(comparison)
    yield (
        f"B embeds {rate(second.images_per_s)} images a second on this machine, A {rate(first.images_per_s)}: all "
        f"{counted(comparison.images, 'image')} {'take' if comparison.images != 1 else 'takes'} "
        f"{duration(second.embedding_s)} with B, without reading them. Their vectors take "
        f"{size(second.vector_bytes)}; with A {size(first.vector_bytes)}."
    )
    if abs(first.median_best_similarity - second.median_best_similarity) >= _SHIFTED:
        yield (
            f"The best image of a query has a similarity of about {second.median_best_similarity:.2f} with B and "
            f"{first.median_best_similarity:.2f} with A: choose thresholds anew."
        )
    if comparison.left_out:
        reasons = Counter(each.error for each in comparison.left_out)
        shown = ", ".join(f"{number:,} {error}" for error, number in reasons.most_common())
        yield f"{counted(len(comparison.left_out), 'image')} of the sample could not be read: {shown}."
    if comparison.frames:
        one = "image of the sample is a frame of a video, embedded from its preview"
        several = "images of the sample are frames of videos, embedded from their previews"
        yield f"{counted(comparison.frames, one, several)}."


def _quality(comparison: ModelComparison) -> str:
    found = next((each for each in comparison.differences if each.figure == HEADLINE), None)
    if found is None:
        return (
            "Which lists are better, only the images show: no query names images that are right. With a column "
            "`relevant`, the quality is measured."
        )
    judged = counted(comparison.judged, "query names", "queries name")
    better = "B" if found.difference > 0 else "A"
    meaning = {
        SIGNIFICANT: f"{better} is significantly better",
        EQUAL: "no difference",
        TOO_FEW: "too few queries to tell the models apart",
    }.get(significance(found, comparison.judged), "the difference is not significant, it may be chance")
    return (
        f"{judged} images that are right. {HEADLINE} is {found.first:.3f} with A and {found.second:.3f} with B: "
        f"{meaning} (difference {signed(found.difference)}, 95% interval {signed(found.low)} to {signed(found.high)})."
    )


def significance(found: Difference, judged: int) -> str:
    """Return in a word or three whether a difference between the models tells them apart."""
    if found.significant:
        return SIGNIFICANT
    if found.low == found.high == 0:
        return EQUAL
    return TOO_FEW if judged < FEWEST_DIFFERENT else "not significant"


def signed(value: float) -> str:
    """Return a difference with its sign."""
    return f"{value:+.3f}".replace("-", "−") if abs(value) >= 0.0005 else "0.000"


def rate(per_second: float) -> str:
    """Return a rate with about two significant digits."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def duration(seconds: float) -> str:
    """Return a time for people, such as `3 minutes`."""
    for limit, length, unit in ((120, 1, "second"), (7200, 60, "minute"), (172_800, 3600, "hour")):
        if seconds < limit:
            return counted(max(1, round(seconds / length)), unit)
    return counted(round(seconds / 86_400), "day")


def size(number: int) -> str:
    """Return bytes for people, such as `1.6 MB`."""
    amount, unit = float(number), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:,.0f} {unit}" if amount >= 10 or unit == "bytes" else f"{amount:.1f} {unit}"


def short_name(model: ModelSummary) -> str:
    """Return the last part of a model's name, which may be a path."""
    return model.name.rstrip("/").rpartition("/")[2] or model.name
