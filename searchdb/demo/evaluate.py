"""Measures the demo's CLIP on scenes it never saw: `python -m searchdb.demo.evaluate --model searchdb/demo/model`."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from searchdb.demo.album import ALBUM_IMAGE_SIZE, JPEG_QUALITY
from searchdb.demo.captions import FACTS, facts_of
from searchdb.demo.composition import EVALUATION_SEEDS, KINDS, SETTING_PHRASES, SETTINGS, TIME_PHRASES, TIMES, compose
from searchdb.demo.postcards import draw

# Queries with fewer than five matching scenes are skipped: their precision@5 could not reach 1.
TOP = 5
# Two sizes, because queries with fewer matching scenes are harder.
EVALUATION_SCENES = (2_000, 4_000)
BATCH = 64

ABSENT = (
    "a submarine",
    "tax invoice",
    "xyzzy",
    "a helicopter",
    "a giraffe",
    "an electric guitar",
    "quarterly sales spreadsheet",
    "strawberry ice cream",
    "the eiffel tower",
    "qwertyuiop",
)
"""Things and nonsense words that no postcard shows and no training caption names."""

_NUMBERS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """A text, its sort of query, and the facts that must all be true of a matching scene."""

    sort: str
    text: str
    facts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured on `scenes` images."""

    scenes: int
    precision: dict[str, float]
    """precision@5 by sort of query, averaged over its queries"""
    queries: dict[str, int]
    present: dict[str, float]
    """highest similarity that each query found, by sort the lowest over its queries"""
    absent: dict[str, float]
    """highest similarity that each absent thing found"""


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def queries() -> Iterator[Query]:
    """Yield the queries of every sort."""
    where = {place: (SETTING_PHRASES[place], FACTS["setting", place]) for place in SETTINGS}
    when = {time: (TIME_PHRASES[time], FACTS["time", time]) for time in TIMES}
    for place in SETTINGS:
        yield Query(sort="setting", text=place, facts=(where[place][1],))
    for time in TIMES:
        yield Query(sort="time", text=time, facts=(when[time][1],))
    for kind in KINDS.values():
        thing, here = _article(kind.name), FACTS["kind", kind.name]
        yield Query(sort="object", text=thing, facts=(here,))
        for words, fact in where.values():
            yield Query(sort="object + setting", text=f"{thing} {words}", facts=(here, fact))
        for words, fact in when.values():
            yield Query(sort="object + time", text=f"{thing} {words}", facts=(here, fact))
        for colour in kind.colours:
            coloured, fact = _article(f"{colour} {kind.name}"), FACTS["coloured", kind.name, colour]
            yield Query(sort="colour + object", text=coloured, facts=(fact,))
            for words, hour in when.values():
                yield Query(sort="colour + object + time", text=f"{coloured} {words}", facts=(fact, hour))
            for words, place in where.values():
                yield Query(sort="colour + object + setting", text=f"{coloured} {words}", facts=(fact, place))
        for count in range(2, kind.most + 1):
            fact = FACTS["count", kind.name, str(count)]
            yield Query(sort="exact count", text=f"{_NUMBERS[count]} {kind.plural}", facts=(fact,))
    for one, other in combinations(KINDS, 2):
        both = (FACTS["kind", one], FACTS["kind", other])
        yield Query(sort="two objects", text=f"{_article(one)} and {_article(other)}", facts=both)


@torch.inference_mode()
def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> np.ndarray:
    """Return unit vectors, float32 of shape (len(texts), 512)."""
    text_features = cast("Any", model.get_text_features)  # pyright: ignore[reportUnknownMemberType] - untyped
    rows: list[Tensor] = []
    for start in range(0, len(texts), BATCH):
        tokens = tokenizer(texts[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        rows.append(_unit(text_features(**tokens)))
    return torch.cat(rows).float().numpy()


@torch.inference_mode()
def embed_scenes(model: CLIPModel, processor: CLIPImageProcessorPil, seeds: range) -> np.ndarray:
    """Return unit vectors of scenes drawn like the album and stored as JPEG, float32 of shape (len(seeds), 512)."""
    image_features = cast("Any", model.get_image_features)  # pyright: ignore[reportUnknownMemberType] - untyped
    rows: list[Tensor] = []
    for start in range(0, len(seeds), BATCH):
        images = [_through_jpeg(draw(compose(seed), ALBUM_IMAGE_SIZE)) for seed in seeds[start : start + BATCH]]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        rows.append(_unit(image_features(pixel_values=pixels)))
    return torch.cat(rows).float().numpy()


def _unit(features: Any) -> Tensor:
    return F.normalize(features.pooler_output, dim=1)


def _through_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY)
    return Image.open(file).convert("RGB")


def measure(folder: Path, seeds: range) -> Report:
    """Measure the model in `folder` on the scenes of `seeds`."""
    load_model = cast("Any", CLIPModel.from_pretrained)  # pyright: ignore[reportUnknownMemberType] - untyped
    load_tokenizer = cast("Any", CLIPTokenizer.from_pretrained)  # pyright: ignore[reportUnknownMemberType] - untyped
    load_processor = cast("Any", CLIPImageProcessorPil.from_pretrained)  # pyright: ignore[reportUnknownMemberType] - untyped
    model = load_model(folder, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(folder)
    images = embed_scenes(model, load_processor(folder), seeds)
    facts = np.zeros((len(seeds), len(FACTS)), bool)
    for row, seed in enumerate(seeds):
        facts[row, facts_of(compose(seed))] = True

    asked = [query for query in queries() if facts[:, query.facts].all(1).sum() >= TOP]
    similarity = embed_texts(model, tokenizer, [query.text for query in asked]) @ images.T
    best = np.argsort(-similarity, axis=1)[:, :TOP]
    scores: dict[str, list[float]] = {}
    found: dict[str, list[float]] = {}
    for row, query in enumerate(asked):
        scores.setdefault(query.sort, []).append(float(facts[best[row]][:, query.facts].all(1).mean()))
        found.setdefault(query.sort, []).append(float(similarity[row].max()))
    nothing = embed_texts(model, tokenizer, list(ABSENT)) @ images.T
    return Report(
        scenes=len(seeds),
        precision={sort: float(np.mean(values)) for sort, values in scores.items()},
        queries={sort: len(values) for sort, values in scores.items()},
        present={sort: min(values) for sort, values in found.items()},
        absent=dict(zip(ABSENT, nothing.max(1).tolist(), strict=True)),
    )


def table(report: Report) -> str:
    """Return the report as Markdown."""
    lines = [
        f"On {report.scenes:,} scenes that training never saw:",
        "",
        "| query | queries | precision@5 | lowest top similarity |",
        "|---|---:|---:|---:|",
    ]
    for sort, value in sorted(report.precision.items(), key=lambda item: -item[1]):
        lines.append(f"| {sort} | {report.queries[sort]} | {value:.3f} | {report.present[sort]:.2f} |")
    lines += ["", "| what no scene shows | highest similarity |", "|---|---:|"]
    lines += [f"| {text} | {value:.2f} |" for text, value in report.absent.items()]
    return "\n".join(lines)


def main() -> None:
    """Print the measurements of a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--scenes", type=int, nargs="+", default=EVALUATION_SCENES)
    chosen = parser.parse_args()
    print("\n\n".join(table(measure(chosen.model, EVALUATION_SEEDS[:scenes])) for scenes in chosen.scenes))


if __name__ == "__main__":
    main()
