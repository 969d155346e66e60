"""What limits ingest: downloading, decoding, the model, or writing? Measures each alone, and all together.

Every stage handles the same images in the same way as ingest: downloads with as many threads, from a server on this
machine; decoding and scaling with one thread per core; the model and the database in chunks. Measured with the demo's
small CLIP and, unless quick, with one of the size of openai/clip-vit-base-patch32, whose random weights find nothing
useful but take as long.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging as transformers_logging

from benchmarks.report import interleaved, table
from benchmarks.server import IMAGE_SIZE, image_server
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.ingest.enqueue import DEFAULT_CHUNK_SIZE
from searchdb.ingest.pipeline import FETCH_THREADS
from searchdb.ingest.store import upsert_images
from searchdb.media.decode import decode
from searchdb.media.embed import DEMO_FOLDER
from searchdb.records import DEMO_MODEL, DecodedImage, EmbeddedImage, FetchedImage, SourceItem

T = TypeVar("T")

IMAGES, QUICK_IMAGES = 1_000, 256
LARGE_IMAGES = 512
"""Fewer for the large model, which needs tens of milliseconds per image on a core."""
ROUNDS, QUICK_ROUNDS = 3, 2
LARGE_EDGE = 224
"""Width and height of openai/clip-vit-base-patch32's input, in pixels."""
SOURCE = "urls"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model to measure with: its name in Settings, its title in tables, and its suffix in the figures' names."""

    name: str
    title: str
    suffix: str
    image_count: int


def measure(home: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and tables of them."""
    models = [
        Model(name=DEMO_MODEL, title="the demo's model", suffix="", image_count=QUICK_IMAGES if quick else IMAGES)
    ]
    if not quick:
        large = str(make_large_model(home / "vit-b32"))
        models.append(Model(name=large, title="a ViT-B/32", suffix="_vit_b32", image_count=LARGE_IMAGES))
    figures: dict[str, float] = {}
    tables = []
    with image_server() as url:
        for model in models:
            rates = _rates(home, model, url, QUICK_ROUNDS if quick else ROUNDS)
            figures |= {f"stage_{stage}{model.suffix}_per_s": rate for stage, rate in rates.items()}
            width, height = IMAGE_SIZE
            title = f"stages, {model.image_count:,} JPEGs of {width} x {height}, {model.title}, {os.cpu_count()} cores"
            tables.append(table(title, {stage: f"{rate:,.0f} images/s" for stage, rate in rates.items()}))
    return figures, "\n\n".join(tables)


def make_large_model(folder: Path) -> Path:
    """Create a folder with a randomly initialised CLIP of the usual size and the demo's tokenizer; return it."""
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # otherwise this thread keeps a pool of threads that slows down the model's
    CLIPModel(CLIPConfig()).half().save_pretrained(folder)
    torch.set_num_threads(cores)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_FOLDER / name, folder)
    preprocessing = json.loads((DEMO_FOLDER / "preprocessor_config.json").read_text(encoding="utf-8"))
    preprocessing |= {
        "size": {"shortest_edge": LARGE_EDGE},
        "crop_size": {"height": LARGE_EDGE, "width": LARGE_EDGE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return folder


def _rates(home: Path, model: Model, url: str, rounds: int) -> dict[str, float]:
    """Return the images per second of each stage."""
    settings = Settings(home=home, model=model.name, database_url=None, allow_private_addresses=True)
    items = [SourceItem(image=f"{url}/{n}.jpg", source=SOURCE) for n in range(model.image_count)]
    with (
        SearchDB(settings) as collection,
        ThreadPoolExecutor(FETCH_THREADS) as fetching,
        ThreadPoolExecutor(os.cpu_count()) as decoding,
    ):
        embedder = collection.embedder
        embedder.load()

        def download() -> list[FetchedImage]:
            return list(fetching.map(collection.fetcher.fetch, items))

        def decode_one(image: FetchedImage) -> DecodedImage:
            decoded = decode(image, max_pixels=settings.max_image_pixels, needed=embedder.shortest_edge)
            return replace(decoded, pixels=embedder.resize(decoded.pixels))

        def decode_all() -> list[DecodedImage]:
            return list(decoding.map(decode_one, fetched))

        def embed() -> list[np.ndarray]:
            return [embedder.embed_images([image.pixels for image in chunk]) for chunk in _chunks(decoded)]

        def write() -> None:
            for chunk in _chunks(rows):
                with collection.database.begin() as connection:
                    upsert_images(connection, chunk, embedder.identity)

        def whole() -> None:
            # Deletes what the last round stored, which takes milliseconds.
            collection.store.delete_source(SOURCE)
            report = collection.ingest(items)
            if report.stored != len(items) or report.copied:
                raise RuntimeError(str(report))

        fetched = download()
        decoded = decode_all()
        vectors = np.concatenate(embed())
        rows = [_row(image, vector) for image, vector in zip(decoded, vectors, strict=True)]
        stages: Mapping[str, Callable[[], object]] = {
            "download": download,
            "decode": decode_all,
            "embed": embed,
            "write": write,
            "whole": whole,
        }
        seconds = interleaved(stages, rounds)
        collection.store.delete_source(SOURCE)  # the next model needs an empty database
    return {stage: len(items) / value for stage, value in seconds.items()}


def _row(image: DecodedImage, vector: np.ndarray) -> EmbeddedImage:
    """Return the row to write for an image: with another reference and hash, or ingest would copy its vector."""
    item = replace(image.item, image=f"{image.item.image}?written")
    other = hashlib.sha256(image.sha256).digest()
    return EmbeddedImage(decoded=replace(image, item=item, sha256=other), embedding=vector)


def _chunks(whole: Sequence[T]) -> list[Sequence[T]]:
    return [whole[start : start + DEFAULT_CHUNK_SIZE] for start in range(0, len(whole), DEFAULT_CHUNK_SIZE)]
