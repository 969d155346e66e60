"""How much faster is ingest than a common recipe, and how close does it come to this machine's limit?

Images are JPEGs of 768 x 512 from a server on this machine; the model is a CLIP of the usual size (ViT-B/32), whose
random weights find nothing useful but take as long. The recipe is that of popular guides: one image after the other
with requests, Pillow, the model's processor, a forward pass in float32, one row and one commit. The limit assumes that
downloading, writing and waiting cost nothing: with d images per second decoded and scaled, and e embedded, each alone
on all cores, it is 1 / (1 / d + 1 / e). Its forward pass uses the best batch size, number format and distribution over
the cores.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import requests
import torch
from pgvector.psycopg import register_vector
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.report import interleaved, table
from benchmarks.server import IMAGE_SIZE, image_server
from benchmarks.stages import LARGE_EDGE, make_large_model
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.decode import decode
from searchdb.records import FetchedImage, SourceItem

IMAGES, QUICK_IMAGES = 2_000, 512
"""Enough that a start and an end of a second each hardly count."""
RECIPE_IMAGES, QUICK_RECIPE_IMAGES = 100, 32
"""The recipe handles each image separately, so a few measure as well as many."""
LIMIT_IMAGES, QUICK_LIMIT_IMAGES = 1_024, 256
ROUNDS, QUICK_ROUNDS = 3, 2
BATCHES, QUICK_BATCHES = (8, 16, 32), (16, 32)
TRIED = 64
"""Images per trial of a forward pass, after a warm-up with the same number."""
DTYPES = (torch.float32, torch.bfloat16)


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    image_count = QUICK_IMAGES if quick else IMAGES
    recipe_images = QUICK_RECIPE_IMAGES if quick else RECIPE_IMAGES
    limit_images = QUICK_LIMIT_IMAGES if quick else LIMIT_IMAGES
    folder = make_large_model(home / "vit-b32")
    settings = Settings(home=home, model=str(folder), database_url=None, allow_private_addresses=True)
    recipe = _Recipe(folder)
    forwards = _forwards(folder, QUICK_BATCHES if quick else BATCHES)
    with (
        image_server() as url,
        SearchDB(settings) as collection,
        psycopg.connect(collection.database.libpq_url) as connection,
        ThreadPoolExecutor(os.cpu_count()) as cores,
    ):
        collection.embedder.load()
        register_vector(connection)
        connection.execute("CREATE TABLE recipe_ingest (image text, embedding vector(512))")
        items = [SourceItem(image=f"{url}/{n}.jpg", source="urls") for n in range(image_count)]
        fetched = [collection.fetcher.fetch(item) for item in items[:limit_images]]

        def ingest() -> None:
            collection.store.delete_source("urls")
            report = collection.ingest(items)
            if report.stored != image_count or report.copied:
                raise RuntimeError(str(report))

        def decode_one(image: FetchedImage) -> Image.Image:
            needed = collection.embedder.shortest_edge
            return collection.embedder.resize(decode(image, max_pixels=settings.max_image_pixels, needed=needed).pixels)

        sides = {
            "recipe": (recipe_images, lambda: recipe.run(connection, url, recipe_images)),
            "ingest": (image_count, ingest),
            "decode": (limit_images, lambda: list(cores.map(decode_one, fetched))),
            **{name: (limit_images, partial(forward, limit_images)) for name, forward in forwards.items()},
        }
        seconds = interleaved({name: run for name, (_, run) in sides.items()}, QUICK_ROUNDS if quick else ROUNDS)
    rates = {name: sides[name][0] / value for name, value in seconds.items()}
    best = max(forwards, key=rates.__getitem__)
    rates = {name: rates[name] for name in ("recipe", "ingest", "decode")} | {"forward": rates[best]}
    limit = 1 / (1 / rates["decode"] + 1 / rates["forward"])
    figures = {
        "ingest_vs_recipe": rates["ingest"] / rates["recipe"],
        "ingest_vs_limit": rates["ingest"] / limit,
        **{f"ingest_{name}_per_s": rate for name, rate in rates.items()},
        "ingest_limit_per_s": limit,
    }
    shown = {
        "ingest / recipe": f"{figures['ingest_vs_recipe']:.1f} x",
        "ingest / limit": f"{figures['ingest_vs_limit']:.2f}",
        "images/s": ", ".join(f"{name} {rate:.1f}" for name, rate in [*rates.items(), ("limit", limit)]),
        "forward pass": best,
    }
    width, height = IMAGE_SIZE
    return figures, table(f"ingest, {image_count:,} JPEGs of {width} x {height}, a ViT-B/32", shown)


class _Recipe:
    """Ingests one image at a time, as in the guides."""

    def __init__(self, folder: Path) -> None:
        self._processor = CLIPImageProcessorPil.from_pretrained(folder)
        self._model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()

    def run(self, connection: psycopg.Connection, url: str, image_count: int) -> None:
        for n in range(image_count):
            address = f"{url}/{n}.jpg"
            response = requests.get(address, timeout=30)
            response.raise_for_status()
            image = Image.open(io.BytesIO(response.content)).convert("RGB")
            inputs = self._processor(images=image, return_tensors="pt")
            with torch.inference_mode():
                features = self._model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
            vector = torch.nn.functional.normalize(features, dim=-1)[0].numpy()
            connection.execute("INSERT INTO recipe_ingest VALUES (%s, %s)", [address, vector])
            connection.commit()


def _forwards(folder: Path, batches: Sequence[int]) -> dict[str, Callable[[int], None]]:
    """Return forward passes in the faster number format, spread over the cores in two ways, each with its best batch.

    Each is a function of the number of images, keyed by its name.
    """
    models: dict[torch.dtype, Any] = {
        dtype: CLIPModel.from_pretrained(folder, dtype=dtype).eval().vision_model for dtype in DTYPES
    }

    def one_pass(pixels: torch.Tensor) -> None:
        with torch.inference_mode():
            models[pixels.dtype](pixel_values=pixels)

    def run(dtype: torch.dtype, batch: int, cores: Executor | None, image_count: int) -> None:
        work = [torch.zeros(batch, 3, LARGE_EDGE, LARGE_EDGE, dtype=dtype)] * (image_count // batch)
        list(map(one_pass, work) if cores is None else cores.map(one_pass, work))

    def seconds(dtype: torch.dtype, batch: int, cores: Executor | None) -> float:
        run(dtype, batch, cores, TRIED)
        started = time.perf_counter()
        run(dtype, batch, cores, TRIED)
        return time.perf_counter() - started

    apart = ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    dtype = min(DTYPES, key=lambda dtype: seconds(dtype, batches[0], apart))
    found: dict[str, Callable[[int], None]] = {}
    for spread, cores in {"a pass on each core": apart, "a pass on all cores": None}.items():
        batch = min(batches, key=lambda batch: seconds(dtype, batch, cores))
        name = f"{str(dtype).removeprefix('torch.')}, batches of {batch}, {spread}"
        found[name] = partial(run, dtype, batch, cores)
    for other in set(models) - {dtype}:
        del models[other]
    return found
