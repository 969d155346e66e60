"""CLIP: the model's own preprocessing, unit vectors, and the errors for models that cannot be used."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from searchdb.errors import ModelUnavailableError
from searchdb.media.embed import DEMO_FOLDER, MAX_SCALED_ASPECT, CLIPEmbedder


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """A copy of the demo model, that a test may change."""
    return Path(shutil.copytree(DEMO_FOLDER, tmp_path / "model"))


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 99))
def test_resizing_is_bit_equal_to_the_processor(embedder: CLIPEmbedder, width: int, height: int, seed: int) -> None:
    if max(width, height) > MAX_SCALED_ASPECT * min(width, height):
        return
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(DEMO_FOLDER)
    image = noise(width, height, seed)
    theirs = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert np.array_equal(np.asarray(embedder.resize(image)), theirs.transpose(1, 2, 0))


def test_embedding_equals_the_processor_and_the_model(embedder: CLIPEmbedder) -> None:
    import torch
    from transformers import CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = [noise(300, 200, 1), noise(90, 160, 2), Image.new("RGB", (64, 64), "red")]
    processor = CLIPImageProcessorPil.from_pretrained(DEMO_FOLDER)
    model: Any = CLIPModel.from_pretrained(DEMO_FOLDER, dtype=torch.float32).eval()
    with torch.inference_mode():
        theirs = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
        theirs = torch.nn.functional.normalize(theirs, dim=-1).numpy()
    assert np.abs(embedder.embed_images(images) - theirs).max() < 1e-5


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1), (1, 1), (3000, 10)])
def test_extreme_shapes_are_resized(embedder: CLIPEmbedder, width: int, height: int) -> None:
    resized = embedder.resize(Image.new("RGB", (width, height), (10, 200, 30)))
    assert resized.size == embedder.image_size
    assert np.array_equal(np.unique(np.asarray(resized).reshape(-1, 3), axis=0), [[10, 200, 30]])


def test_vectors_are_float32_unit_vectors_for_any_batch_size(embedder: CLIPEmbedder) -> None:
    images = [noise(64, 64, n) for n in range(40)]
    together = embedder.embed_images(images)
    assert together.shape == (40, 512)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.allclose(together[37], embedder.embed_images([images[37]])[0], atol=1e-4)
    texts = embedder.embed_texts(["a red car", "a dog"])
    assert texts.shape == (2, 512)
    assert np.allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)
    assert embedder.embed_texts([]).shape == embedder.embed_images([]).shape == (0, 512)


def test_bfloat16_vectors_are_close_to_float32(embedder: CLIPEmbedder) -> None:
    images = [noise(128, 128, n) for n in range(4)]
    low = CLIPEmbedder("demo", dtype="bfloat16").embed_images(images)
    assert (low * embedder.embed_images(images)).sum(axis=1).min() > 0.99


def test_a_text_beyond_the_context_is_cut_with_a_warning(
    embedder: CLIPEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        vector = embedder.embed_texts(["a red car " * 200])
    assert vector.shape == (1, 512)
    assert "the model reads the first" in caplog.text


def test_identity_is_the_hash_of_the_weights_and_needs_no_loading() -> None:
    fresh = CLIPEmbedder("demo")
    digest = hashlib.sha256((DEMO_FOLDER / "model.safetensors").read_bytes()).digest()
    assert fresh.identity.weights_sha256 == digest
    assert fresh.identity.name == "demo"
    assert fresh._loaded is None
    assert str(fresh.identity) == f"demo (weights {digest.hex()[:12]})"


def test_a_folder_is_a_model_with_its_own_name(other_folder: Path, embedder: CLIPEmbedder) -> None:
    copy = CLIPEmbedder(str(other_folder))
    assert copy.identity.name == str(other_folder)
    assert copy.identity.weights_sha256 == embedder.identity.weights_sha256


@pytest.mark.parametrize(
    "change", [{"do_center_crop": False}, {"size": {"height": 9}}, {"crop_size": {"width": 9}}, {"image_mean": None}]
)
def test_another_preprocessing_is_refused(other_folder: Path, change: dict[str, object]) -> None:
    change_json(other_folder / "preprocessor_config.json", **change)
    with pytest.raises(ModelUnavailableError, match=r"preprocessor_config\.json"):
        CLIPEmbedder(str(other_folder)).load()


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "no config", "no tokenizer"])
def test_the_error_for_an_incomplete_folder_says_what_is_missing(other_folder: Path, damage: str) -> None:
    weights = other_folder / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no config":
        (other_folder / "config.json").unlink()
    else:
        for path in other_folder.glob("tokenizer*"):
            path.unlink()
    with pytest.raises(ModelUnavailableError, match="SEARCHDB_MODEL"):
        CLIPEmbedder(str(other_folder)).load()


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "nobody/nothing-of-this-name", "not a name: at all!"])
def test_the_error_for_an_unavailable_model_names_it_and_the_way_out(name: str) -> None:
    with pytest.raises(ModelUnavailableError, match=r"SEARCHDB_MODEL.*demo") as caught:
        _ = CLIPEmbedder(name).identity
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_for_a_missing_device_names_it() -> None:
    with pytest.raises(ModelUnavailableError, match="no device cuda:77"):
        CLIPEmbedder("demo", device="cuda:77").load()


def test_texts_of_all_lengths_keep_their_order(embedder: CLIPEmbedder) -> None:
    texts = [
        " ".join(["a red boat", "at night", "and two houses by the sea"][: 1 + n % 3] * (1 + n % 2)) for n in range(20)
    ]
    alone = np.concatenate([embedder.embed_texts([text]) for text in texts])
    assert (embedder.embed_texts(texts) * alone).sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert embedder.embed_texts([]).shape == (0, 512)
