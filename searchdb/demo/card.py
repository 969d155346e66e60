"""Writes the README of the demo's CLIP: what it is, how it was trained, and its measurements."""

from __future__ import annotations

from searchdb.demo.composition import COLOURS, KINDS, SETTINGS
from searchdb.demo.network import CONTEXT_LENGTH, TEXT_LAYERS, VISION_LAYERS, WIDTH
from searchdb.demo.trainset import IMAGE_SIZE, PATCH_SIZE

_CARD = """# The small CLIP of the searchdb demo

It knows {kinds} kinds of object in up to {colours} colours, in {settings} settings at three times of day, as the
postcards of `searchdb.demo.scenes` show them, and nothing else: it is there so that the demo and the tests mean
something without a download. For photographs use `openai/clip-vit-base-patch32`; both give 512 numbers.

## Training

    python -m searchdb.demo.train --output searchdb/demo/model

Trained from nothing but our own drawings and our own captions: {scenes:,} scenes, {steps:,} steps of {batch} images,
seed {seed}. It took {minutes:.0f} minutes, drawing included, on two cores of an AMD EPYC with avx512_bf16.
Soft targets from the known contents of the scenes, and heads that are thrown away in the end (contents from the
image's vector, from each patch, and from the caption's vector), are why so little suffices.

Vision: {image} pixels in patches of {patch}, {vision} layers of {width}. Text: {text} layers of {width}, a byte-level
BPE of our own, up to {context} tokens. The weights are float16.

## Measured

{measured}

The images were drawn at album size, stored as JPEG and read through the model's own image processor. A query counts
if at least five scenes match it; a result is right if everything that the query names is in the image. The lowest top
similarity of a sort is that of the best image for the query with the lowest one. No training caption used
the words of the tables of what no scene shows.

Again: `python -m searchdb.demo.evaluate --model searchdb/demo/model`.
"""


def card(measured: str, *, scenes: int, steps: int, batch: int, seed: int, minutes: float) -> str:
    """Return the model's README as Markdown; `measured` is the output of `evaluate.table`."""
    return _CARD.format(
        kinds=len(KINDS),
        colours=len(COLOURS),
        settings=len(SETTINGS),
        scenes=scenes,
        steps=steps,
        batch=batch,
        seed=seed,
        minutes=minutes,
        image=IMAGE_SIZE,
        patch=PATCH_SIZE,
        vision=VISION_LAYERS,
        text=TEXT_LAYERS,
        width=WIDTH,
        context=CONTEXT_LENGTH,
        measured=measured,
    )
