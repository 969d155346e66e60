"""Makes the training data: scenes drawn at the model's size, the contents of each patch, and the scenes' facts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchdb.demo.captions import FACTS, facts_of
from searchdb.demo.composition import COLOURS, KINDS, compose
from searchdb.demo.postcards import draw, layout

# 96 pixels in patches of 16: the smallest object still spans more than a patch, and training sees a third more scenes
# in the same time than at 112.
IMAGE_SIZE = 96
PATCH_SIZE = 16
PATCHES = IMAGE_SIZE // PATCH_SIZE

# Scenes drawn by one task of the process pool.
_CHUNK = 500

_KIND_NUMBERS = {kind: number + 1 for number, kind in enumerate(KINDS)}
_COLOUR_NUMBERS = {colour: number + 1 for number, colour in enumerate(COLOURS)}


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """N drawn scenes; numbers of kinds and colours start at 1, and 0 means none."""

    seeds: Sequence[int]
    pixels: np.ndarray
    """uint8, N x 96 x 96 x 3"""
    patch_kinds: np.ndarray
    """uint8, N x 6 x 6"""
    patch_colours: np.ndarray
    """uint8, N x 6 x 6"""
    facts: np.ndarray
    """bool, N x number of facts"""


def _draw_chunk(seeds: range) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    pixels = np.empty((len(seeds), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    kinds = np.zeros((len(seeds), PATCHES, PATCHES), np.uint8)
    colours = np.zeros_like(kinds)
    facts = np.zeros((len(seeds), len(FACTS)), bool)
    middles = (np.arange(PATCHES) + 0.5) / PATCHES
    for row, seed in enumerate(seeds):
        scene = compose(seed)
        pixels[row] = np.asarray(draw(scene, IMAGE_SIZE, square=True))
        facts[row, facts_of(scene)] = True
        for thing in layout(scene):
            # A little more than half a patch around the object's box: every object owns at least one patch.
            reach = 0.42 * thing.size
            across = np.abs(middles - thing.x) < max(reach, 0.55 / PATCHES)
            down = np.abs(middles - (thing.y - 0.45 * thing.size)) < max(reach, 0.55 / PATCHES)
            covered = np.outer(down, across)
            kinds[row][covered] = _KIND_NUMBERS[thing.group.kind]
            colours[row][covered] = _COLOUR_NUMBERS[thing.group.colour] if thing.group.colour else 0
    return pixels, kinds, colours, facts


def draw_training_set(seeds: range, folder: Path, *, processes: int = 2) -> TrainingSet:
    """Draw the scenes of the seeds to a memory-mapped file in `folder`."""
    count = len(seeds)
    # Memory-mapped, because the pixels of 100,000 scenes are 2.8 GB; the kernel can then evict pages under pressure.
    pixels = np.lib.format.open_memmap(
        folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(count, IMAGE_SIZE, IMAGE_SIZE, 3)
    )
    kinds = np.empty((count, PATCHES, PATCHES), np.uint8)
    colours = np.empty_like(kinds)
    facts = np.empty((count, len(FACTS)), bool)
    chunks = [seeds[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, drawn in enumerate(pool.imap(_draw_chunk, chunks)):
            rows = slice(number * _CHUNK, number * _CHUNK + len(drawn[0]))
            pixels[rows], kinds[rows], colours[rows], facts[rows] = drawn
    return TrainingSet(seeds=seeds, pixels=pixels, patch_kinds=kinds, patch_colours=colours, facts=facts)
