"""Twins of the demo's model give vectors of other lengths with the same cosines, hence the same rankings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from searchdb.media.embed import CLIPEmbedder
from tests.helpers.tiny_models import SMALLEST_TWIN, demo_twin

TEXTS = ["a red car", "two dogs at the beach", "a house at night"]


def vectors(embedder: CLIPEmbedder) -> np.ndarray:
    rng = np.random.default_rng(0)
    images = [Image.new("RGB", (96, 96), colour) for colour in ("red", "blue", "white")]
    images += [Image.fromarray(rng.integers(0, 256, (90, 60 + n, 3), dtype=np.uint8)) for n in range(5)]
    return np.concatenate([embedder.embed_images(images), embedder.embed_texts(TEXTS)])


@pytest.mark.parametrize("dimension", [SMALLEST_TWIN, 512, 2000])
def test_cosines_equal_the_demos(embedder: CLIPEmbedder, tmp_path: Path, dimension: int) -> None:
    twin = CLIPEmbedder(str(demo_twin(tmp_path / "twin", dimension)), dtype="float32")
    assert twin.dimension == dimension
    theirs, ours = vectors(embedder), vectors(twin)
    assert ours.shape == (len(theirs), dimension)
    assert np.abs(ours @ ours.T - theirs @ theirs.T).max() < 1e-5
    assert twin.identity.weights_sha256 != embedder.identity.weights_sha256


def test_another_seed_is_another_twin(tmp_path: Path) -> None:
    one, same, other = (
        CLIPEmbedder(str(demo_twin(tmp_path / name, 512, seed)), dtype="float32")
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one.identity.weights_sha256 == same.identity.weights_sha256 != other.identity.weights_sha256
    assert np.abs(one.embed_texts(TEXTS) - other.embed_texts(TEXTS)).max() > 0.01


def test_a_twin_with_too_few_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="384 at least"):
        demo_twin(tmp_path / "twin", SMALLEST_TWIN - 1)
