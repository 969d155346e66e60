"""Which other methods could make ingest faster, and would the vectors stay the same?

Compares ways to run the forward pass of a ViT-B/32, to batch texts, and to decode a JPEG with what ingest does, on the
same images, in turn. Accuracy is the lowest cosine to the vectors of a float32 pass over the whole image, with the
demo's trained model. Ingest uses methods that keep it at 0.999 or more.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel

from benchmarks.report import interleaved, table
from benchmarks.server import base_images
from benchmarks.stages import LARGE_EDGE, make_large_model
from searchdb.media.embed import DEMO_FOLDER, CLIPEmbedder
from searchdb.records import DEFAULT_DIMENSION

IMAGES, QUICK_IMAGES = 256, 64
ROUNDS, QUICK_ROUNDS = 3, 2
BATCHES = (8, 16, 32, 64)
PLAIN = ("float32", "bfloat16")
OURS = "bfloat16, a pass on each core, batches of 32"
OUR_TEXTS = "batches of 8 by length"
TEXTS = 64
WORDS = "a red boat on the quiet sea at sunset two old houses by a river with snow three dogs run in the green park"
PHOTO_SIZE = (6000, 4000)
"""Pixels of a JPEG straight from a camera, as in a folder of photos; a server's rendition is smaller."""
PHOTO_COPIES = 4
FACTORS = (1.0, 1.5, 2.0)
"""For libjpeg's reduced decoding: the minimum size, as a multiple of what the model needs."""

Forward = Callable[[torch.Tensor], torch.Tensor]


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of them."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    images = base_images()
    folder = make_large_model(home / "vit-b32")
    shown = [_forward(folder, images, QUICK_IMAGES if quick else IMAGES, rounds), _texts(folder, rounds)]
    shown += [
        _decoding(title, files, rounds)
        for title, files in {
            "JPEGs of 768 x 512": images,
            f"JPEGs of {PHOTO_SIZE[0]:,} x {PHOTO_SIZE[1]:,}": [_enlarged(each) for each in images[:PHOTO_COPIES]],
        }.items()
    ]
    return {}, "\n\n".join(shown)


def _forward(folder: Path, images: Sequence[bytes], count: int, rounds: int) -> str:
    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as cores:
        trained, large = _ways(DEMO_FOLDER, cores), _ways(folder, cores)
        seen = _values(DEMO_FOLDER, images)
        reference = next(iter(trained.values()))(seen)
        nearness = {name: _least_cosine(reference, run(seen)) for name, run in trained.items()}
        values = _values(folder, images)
        values = values.repeat(-(-count // len(values)), 1, 1, 1)[:count]
        seconds = interleaved({name: lambda run=run: run(values) for name, run in large.items()}, rounds)
    rows = {
        name: f"{count / taken:6.1f} images/s, {seconds[OURS] / taken:.2f} x ours, cosine {nearness[name]:.4f}"
        for name, taken in seconds.items()
    }
    return table(f"forward passes of a ViT-B/32, {count} images of {LARGE_EDGE} x {LARGE_EDGE}", rows)


def _texts(folder: Path, rounds: int) -> str:
    """Compare ways to pad texts of 2 to 40 words to one length."""
    trained, large = (CLIPModel.from_pretrained(each, dtype=torch.bfloat16).eval() for each in (DEMO_FOLDER, folder))
    tokenizer = AutoTokenizer.from_pretrained(DEMO_FOLDER)
    words = WORDS.split()
    texts = [" ".join(words[(7 * n + k) % len(words)] for k in range(2 + n * 38 // TEXTS)) for n in range(TEXTS)]
    texts = [texts[(29 * n) % TEXTS] for n in range(TEXTS)]  # long and short texts mixed, as they arrive

    def embedded(model: Any, batches: Sequence[Sequence[int]], padding: str) -> torch.Tensor:
        context = model.config.text_config.max_position_embeddings
        vectors = torch.empty(TEXTS, DEFAULT_DIMENSION)
        for batch in batches:
            given = [texts[n] for n in batch]
            inputs = tokenizer(given, padding=padding, truncation=True, max_length=context, return_tensors="pt")
            with torch.inference_mode():
                vectors[list(batch)] = model.get_text_features(**inputs).pooler_output.float()
        return torch.nn.functional.normalize(vectors, dim=-1)

    as_they_come = list(range(TEXTS))
    by_length = sorted(as_they_come, key=lambda n: len(texts[n]))
    ways = {
        OUR_TEXTS: (_batches(by_length, 8), "longest"),
        "batches of 32, padded to the longest": (_batches(as_they_come, 32), "longest"),
        "batches of 32, padded to the model's context": (_batches(as_they_come, 32), "max_length"),
        "batches of 32 by length": (_batches(by_length, 32), "longest"),
        "one at a time, no padding": (_batches(as_they_come, 1), "longest"),
    }
    reference = embedded(trained, *ways["one at a time, no padding"])
    nearness = {name: _least_cosine(reference, embedded(trained, *way)) for name, way in ways.items()}
    seconds = interleaved({name: lambda way=way: embedded(large, *way) for name, way in ways.items()}, rounds)
    rows = {
        name: f"{TEXTS / taken:6.1f} texts/s, {seconds[OUR_TEXTS] / taken:.2f} x ours, cosine {nearness[name]:.4f}"
        for name, taken in seconds.items()
    }
    return table(f"{TEXTS} texts, a ViT-B/32 in bfloat16, all cores", rows)


def _batches(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _ways(folder: Path, cores: Executor) -> dict[str, Forward]:
    """Return the ways to embed the pixels of several images with a folder's model; the first is the reference."""

    def on_all_cores(model: Any, batch: int) -> Forward:
        return lambda inputs: torch.cat([_pass(model, part) for part in inputs.split(batch)])

    def on_each_core(model: Any, batch: int) -> Forward:
        return lambda inputs: torch.cat(list(cores.map(lambda part: _pass(model, part), inputs.split(batch))))

    models = _models(folder)
    ways = {f"{name}, a pass on all cores, batches of 32": on_all_cores(models[name], 32) for name in PLAIN}
    for batch in BATCHES:
        ways[f"bfloat16, a pass on each core, batches of {batch}"] = on_each_core(models["bfloat16"], batch)
    for name in [name for name in models if name not in PLAIN]:
        ways[f"{name}, a pass on each core, batches of 32"] = on_each_core(models[name], 32)
    return ways


def _values(folder: Path, images: Sequence[bytes]) -> torch.Tensor:
    """Return images as input of a folder's model, with approximately its normalisation."""
    embedder = CLIPEmbedder(str(folder))
    pixels = np.stack([np.asarray(embedder.resize(_whole(each))) for each in images])
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.27


def _models(folder: Path) -> dict[str, Any]:
    def load(dtype: torch.dtype, **options: Any) -> Any:
        return CLIPModel.from_pretrained(folder, dtype=dtype, **options).eval()

    models: dict[str, Any] = {"float32": load(torch.float32), "bfloat16": load(torch.bfloat16)}
    models["channels last"] = load(torch.bfloat16).to(memory_format=torch.channels_last)
    models["attention not fused"] = load(torch.bfloat16, attn_implementation="eager")
    compiled = load(torch.bfloat16)
    compiled.vision_model = torch.compile(compiled.vision_model, dynamic=False)
    with suppress(Exception):  # without a compiler this row is left out
        edge = compiled.config.vision_config.image_size
        _pass(compiled, torch.zeros(32, 3, edge, edge))
        models["torch.compile"] = compiled
    with warnings.catch_warnings(action="ignore"):
        quantized = torch.ao.quantization.quantize_dynamic(load(torch.float32), {torch.nn.Linear}, torch.qint8)
    models["int8 weights"] = quantized
    return models


def _pass(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        features = model.get_image_features(pixel_values=pixels.to(model.dtype)).pooler_output.float()
        return torch.nn.functional.normalize(features, dim=-1)


def _decoding(title: str, files: Sequence[bytes], rounds: int) -> str:
    """Compare ways to decode on one core: speed for a model of LARGE_EDGE, accuracy with the demo's smaller model."""
    model = CLIPEmbedder("demo", dtype="float32")
    large = _Resizer(LARGE_EDGE)
    factors: Mapping[str, float | None] = {
        "whole": None,
        **{f"reduced, at least {factor:g} x as large as needed": factor for factor in FACTORS},
    }

    def decoded(data: bytes, factor: float | None, edge: int) -> Image.Image:
        return _whole(data) if factor is None else _reduced(data, round(factor * edge))

    vectors = {
        name: torch.from_numpy(model.embed_images([decoded(each, factor, model.shortest_edge) for each in files]))
        for name, factor in factors.items()
    }
    seconds = interleaved(
        {
            name: lambda factor=factor: [large(decoded(each, factor, LARGE_EDGE)) for each in files]
            for name, factor in factors.items()
        },
        rounds,
    )
    rows = {
        name: f"{len(files) / taken:6.1f} images/s, {seconds['whole'] / taken:.2f} x the whole, "
        f"cosine {_least_cosine(vectors['whole'], vectors[name]):.4f}"
        for name, taken in seconds.items()
    }
    return table(f"decoding and scaling {title} on one core", rows)


class _Resizer:
    """Scales and crops images for a model with this input size."""

    def __init__(self, edge: int) -> None:
        self._edge = edge

    def __call__(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        factor = self._edge / min(width, height)
        scaled = image.resize((round(width * factor), round(height * factor)), Image.Resampling.BICUBIC)
        left, top = (scaled.width - self._edge) // 2, (scaled.height - self._edge) // 2
        return scaled.crop((left, top, left + self._edge, top + self._edge))


def _whole(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _reduced(data: bytes, least: int) -> Image.Image:
    """Let libjpeg decode at a half, a quarter or an eighth, while both sides keep at least `least` pixels."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (least, least))
    return image.convert("RGB")


def _enlarged(data: bytes) -> bytes:
    """Return an image like a camera's: as large, and with sensor noise."""
    image = _whole(data).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 6, (*PHOTO_SIZE[::-1], 1)).astype(np.float32)
    file = io.BytesIO()
    noisy = (np.asarray(image, np.float32) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def _least_cosine(reference: torch.Tensor, vectors: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(reference, vectors).min())
