"""Trains the demo's small CLIP on drawn scenes: `python -m searchdb.demo.train --output searchdb/demo/model`.

Draws 80,000 scenes, trains for 7,000 steps or 34 minutes, whichever comes first, and evaluates the result: under 40
minutes on two cores. The model's README gives the time and the results for the shipped weights.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from searchdb.demo.captions import FACTS, MOST_REQUIREMENTS, NEVER, Requirement, altered, corpus, write, write_unknown
from searchdb.demo.card import card
from searchdb.demo.composition import COLOURS, EVALUATION_SEEDS, KINDS, TRAINING_SEEDS, Scene, compose
from searchdb.demo.evaluate import EVALUATION_SCENES, measure, table
from searchdb.demo.network import (
    EMBEDDING_SIZE,
    PIXEL_MEAN,
    PIXEL_STD,
    WIDTH,
    build_model,
    save,
    train_tokenizer,
)
from searchdb.demo.trainset import TrainingSet, draw_training_set

SCENES = 80_000
# Five and a half passes, half of them mirrored. On a slow or busy machine MINUTES ends training early, and the
# learning rate still falls to zero in time.
STEPS = 7_000
MINUTES = 34.0
# Small, because learning to look at objects at all takes many steps rather than many images.
BATCH = 64
# Added to one caption for each image of the batch: near misses, and captions of things that no scene shows.
NEAR_MISSES = 18
UNKNOWNS = 10

# Characters. The longest caption sets the cost of a batch; only some batches have long ones, to train all positions.
LONGEST_CAPTION = 56
LONG_CAPTIONS_EVERY = 16

LEARNING_RATE = 1e-3
WARM_UP_STEPS = 300
# Steps between two saves, so that an interrupted training leaves a model.
SAVE_EVERY = 1_000
WEIGHT_DECAY = 0.05
GRADIENT_LIMIT = 1.0
# The heads make the model look at objects; later they are faded out, so that only the vectors are optimised.
HEADS = ("image facts", "caption facts", "kind", "colour")
HEADS_FADE_FROM = 0.6


class Tutor(nn.Module):
    """Auxiliary heads for training only, which predict the contents from the vectors.

    Without them the model learns settings and times of day, which settle most of the contrast, and ignores the objects.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(EMBEDDING_SIZE, len(FACTS))
        self.caption = nn.Linear(EMBEDDING_SIZE, len(FACTS))
        self.patch_kind = nn.Linear(WIDTH, len(KINDS) + 1)
        self.patch_colour = nn.Linear(WIDTH, len(COLOURS) + 1)
        self.fit_scale = nn.Parameter(torch.tensor(8.0))
        self.fit_bias = nn.Parameter(torch.tensor(-4.0))
        for head in (self.image, self.caption):
            nn.init.constant_(head.bias, -3.0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B images and C captions, with the facts of each."""

    pixels: Tensor
    """uint8, B x 96 x 96 x 3"""
    facts: Tensor
    """float, B x number of facts"""
    patch_kinds: Tensor
    patch_colours: Tensor
    tokens: Tensor
    """int, C x longest caption"""
    wanted: Tensor
    """float, C x number of facts: all facts that a caption mentions"""
    fits: Tensor
    """float, C x B: the share of the caption's requirements that the image meets"""


def _write(scene: Scene, dice: random.Random, longest: int) -> tuple[str, list[Requirement]]:
    text, needs = write(scene, dice)
    while len(text) > longest:
        text, needs = write(scene, dice)
    return text, needs


def _captions(scenes: list[Scene], dice: random.Random, longest: int) -> tuple[list[str], list[list[Requirement]]]:
    written = [_write(scene, dice, longest) for scene in scenes]
    for _ in range(NEAR_MISSES):
        one, other = dice.choice(scenes), dice.choice(scenes)
        written.append(_write(altered(one, other, dice), dice, longest))
    while len(written) < len(scenes) + NEAR_MISSES + UNKNOWNS:
        # Unknown words split into many tokens, so they get half the length.
        if len(text := write_unknown(dice)) <= longest // 2:
            written.append((text, [NEVER]))
    return [text for text, _ in written], [needs for _, needs in written]


def make_batch(data: TrainingSet, tokenizer: CLIPTokenizer, step: int) -> Batch:
    """Return the batch of a step; the step's number determines its images, captions and mirroring."""
    dice = random.Random(step)
    rows = sorted(dice.sample(range(len(data.seeds)), BATCH))
    longest = LONGEST_CAPTION if step % LONG_CAPTIONS_EVERY else sys.maxsize
    texts, needs = _captions([compose(data.seeds[row]) for row in rows], dice, longest)
    from_numpy = cast("Any", torch.from_numpy)  # pyright: ignore[reportUnknownMemberType] - untyped
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]
    asked = torch.zeros(len(texts), MOST_REQUIREMENTS, len(FACTS))
    for row, requirements in enumerate(needs):
        for column, requirement in enumerate(requirements):
            asked[row, column, list(requirement)] = 1
    facts = from_numpy(data.facts[rows]).float()
    met = (asked @ facts.T > 0).float().sum(1)
    mirrored = dice.random() < 0.5
    pixels, kinds, colours = data.pixels[rows], data.patch_kinds[rows], data.patch_colours[rows]
    if mirrored:
        pixels, kinds, colours = pixels[:, :, ::-1], kinds[:, :, ::-1], colours[:, :, ::-1]
    return Batch(
        pixels=from_numpy(np.ascontiguousarray(pixels)),
        facts=facts,
        patch_kinds=from_numpy(kinds.reshape(BATCH, -1).astype(np.int64)),
        patch_colours=from_numpy(colours.reshape(BATCH, -1).astype(np.int64)),
        tokens=tokens,
        wanted=asked.amax(1),
        fits=met / torch.tensor([len(requirements) for requirements in needs])[:, None],
    )


def _prepare(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Convert uint8 B x H x W x 3 to the model's input, with random brightness and noise."""
    values = pixels.permute(0, 3, 1, 2).float().div_(255)
    values *= 0.95 + 0.1 * torch.rand(len(values), 1, 1, 1, generator=generator)
    values += 0.02 * torch.randn(1, *values.shape[1:], generator=generator)
    return (values - PIXEL_MEAN) / PIXEL_STD


def _spread(targets: Tensor, scores: Tensor) -> Tensor:
    """Return the mean cross-entropy of the rows that have targets, each against all its targets evenly."""
    rows = targets.sum(1) > 0
    targets, scores = targets[rows], scores[rows]
    return -(targets / targets.sum(1, keepdim=True) * scores.log_softmax(1)).sum(1).mean()


def loss_of(model: CLIPModel, tutor: Tutor, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the weighted parts of the loss."""
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.vision_model(pixel_values=_prepare(batch.pixels, generator))
        image = model.visual_projection(seen.pooler_output)
        caption = model.text_projection(model.text_model(input_ids=batch.tokens).pooler_output)
        patches = seen.last_hidden_state[:, 1:]
        patch_kinds, patch_colours = tutor.patch_kind(patches), tutor.patch_colour(patches)
    image, caption = image.float(), caption.float()
    facts_seen, facts_read = tutor.image(image), tutor.caption(caption)
    cosine = F.normalize(caption, dim=1) @ F.normalize(image, dim=1).T
    whole = (batch.fits > 0.999).float()
    scores = cosine * model.logit_scale.exp()
    # A partial match is worth much less than its share: a search for a red car is not a search for cars.
    worth = torch.where(whole > 0, whole, 0.4 * batch.fits.square())
    fit = F.binary_cross_entropy_with_logits(tutor.fit_scale * cosine + tutor.fit_bias, worth, reduction="none")
    image_facts = F.binary_cross_entropy_with_logits(facts_seen, batch.facts, reduction="none")
    caption_facts = F.binary_cross_entropy_with_logits(facts_read, batch.wanted, reduction="none")
    coloured = batch.patch_colours > 0
    return {
        "text": _spread(whole, scores),
        "image": 0.5 * _spread(whole.T, scores.T),
        "fit": 0.3 * fit.sum() / len(batch.pixels) / 2,
        "image facts": 0.06 * image_facts.sum(1).mean(),
        "caption facts": 0.03 * caption_facts.sum(1).mean(),
        "kind": 0.6 * F.cross_entropy(patch_kinds.float().flatten(0, 1), batch.patch_kinds.flatten()),
        "colour": 0.6 * F.cross_entropy(patch_colours.float()[coloured], batch.patch_colours[coloured]),
    }


def _rate(step: int, progress: float) -> float:
    """Return the factor of the learning rate: linear warm-up, then half a cosine to 0 as `progress` goes to 1."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + float(np.cos(np.pi * progress)))


def train(
    data: TrainingSet,
    tokenizer: CLIPTokenizer,
    *,
    steps: int,
    minutes: float,
    seed: int,
    keep: Callable[[CLIPModel], None],
) -> tuple[CLIPModel, int]:
    """Train a new model for `steps` or `minutes`, whichever ends first; return it and the number of steps.

    The same data, steps and seed on the same machine give the same weights, unless time runs out first. `keep` is
    called with the current model every SAVE_EVERY steps.
    """
    torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType] - untyped
    model, tutor = build_model(tokenizer), Tutor()
    model.train()
    parameters = [*model.parameters(), *tutor.parameters()]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    totals: dict[str, float] = {}
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(make_batch, data, tokenizer, 0)
        step, progress = 0, 0.0
        while progress < 1:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * _rate(step, progress)
            batch = coming.result()
            coming = ahead.submit(make_batch, data, tokenizer, step + 1)
            parts = loss_of(model, tutor, batch, generator)
            for head in HEADS:
                parts[head] = parts[head] * min(1.0, (1 - progress) / (1 - HEADS_FADE_FROM))
            optimizer.zero_grad()
            loss = torch.stack(list(parts.values())).sum()
            loss.backward()  # pyright: ignore[reportUnknownMemberType] - untyped
            nn.utils.clip_grad_norm_(parameters, GRADIENT_LIMIT)
            optimizer.step()  # pyright: ignore[reportUnknownMemberType] - untyped
            with torch.no_grad():
                model.logit_scale.clamp_(max=4.0)
            for name, part in parts.items():
                totals[name] = totals.get(name, 0.0) + part.item() / 100
            step += 1
            passed = time.monotonic() - began
            progress = max(step / steps, passed / (60 * minutes))
            if step % 100 == 0:
                pace = step * BATCH / passed
                said = "  ".join(f"{name} {value:.3f}" for name, value in totals.items())
                print(f"step {step}/{steps}  {pace:.0f} images/s  {said}", file=sys.stderr, flush=True)
                totals.clear()
            if step % SAVE_EVERY == 0:
                keep(model)
    return model.eval(), step


def main() -> None:
    """Train a model, save it and write its README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder for the model")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for training, beside drawing and measuring")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    began = time.monotonic()
    seeds = TRAINING_SEEDS[: chosen.scenes]
    tokenizer = train_tokenizer(corpus((compose(seed) for seed in seeds[:20_000]), random.Random(chosen.seed)))
    with tempfile.TemporaryDirectory() as folder:
        data = draw_training_set(seeds, Path(folder))
        print(f"drew {len(seeds)} scenes in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        model, steps = train(
            data,
            tokenizer,
            steps=chosen.steps,
            minutes=chosen.minutes,
            seed=chosen.seed,
            keep=lambda model: save(model, tokenizer, chosen.output),
        )
    save(model, tokenizer, chosen.output)
    minutes = (time.monotonic() - began) / 60
    print(f"trained in {minutes:.0f} minutes", file=sys.stderr, flush=True)
    measured = "\n\n".join(table(measure(chosen.output, EVALUATION_SEEDS[:scenes])) for scenes in EVALUATION_SCENES)
    text = card(measured, scenes=len(seeds), steps=steps, batch=BATCH, seed=chosen.seed, minutes=minutes)
    (chosen.output / "README.md").write_text(text, "utf-8")
    print(measured)


if __name__ == "__main__":
    # Without these settings glibc returns every large buffer to the kernel and requests it again, at half the speed. It
    # reads them only when a process starts.
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
        os.execv(sys.executable, [sys.executable, "-m", "searchdb.demo.train", *sys.argv[1:]])  # noqa: S606
    main()
