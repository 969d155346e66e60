"""Writes the README of the demo's CLIP: its purpose, its training and its measurements."""

from __future__ import annotations

from searchdb.demo.composition import COLOURS, KINDS, SETTINGS
from searchdb.demo.network import CONTEXT_LENGTH, TEXT_LAYERS, VISION_LAYERS, WIDTH
from searchdb.demo.trainset import IMAGE_SIZE, PATCH_SIZE

_CARD = """# The small CLIP of the searchdb demo

It knows {kinds} kinds of object in up to {colours} colours, in {settings} settings at three times of day, as drawn on
the postcards of `searchdb.demo.scenes`, and nothing else. It makes the demo and the tests meaningful without a
download. For photos use `openai/clip-vit-base-patch32`; both models give 512 numbers.

## Training

    python -m searchdb.demo.train --output searchdb/demo/model

Trained only on our own drawings and captions: {scenes:,} scenes, {steps:,} steps of {batch} images, seed {seed}.
Training took {minutes:.0f} minutes, drawing included, on two cores of an AMD EPYC with avx512_bf16.
Two techniques make so little training sufficient: soft targets from the known contents of the scenes, and auxiliary
heads, discarded after training, that predict the contents from the image vector, from each patch, and from the caption
vector.

Vision: {image} pixels in patches of {patch}, {vision} layers of {width}. Text: {text} layers of {width}, our own
byte-level BPE, up to {context} tokens. The weights are float16.

## Measured

{measured}

The images were drawn at album size, stored as JPEG and read with the model's own image processor. A query counts if at
least five scenes match it; a result is right if the image shows everything that the query names. The lowest top
similarity of a kind of query is the similarity of the best image for its worst query. No training caption used the
words in the tables of what no scene shows.

Measure it again with `python -m searchdb.demo.evaluate --model searchdb/demo/model`.
"""


def card(measured: str, *, scenes: int, steps: int, batch: int, seed: int, minutes: float) -> str:
    """Return the model's README as Markdown; `measured` holds the tables of `evaluate.table`."""
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
