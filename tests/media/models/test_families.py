"""Each family: its images and texts are what its own processor, tokenizer and model make of them."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from searchdb.errors import ModelShapeError
from searchdb.media.embed import MAX_SCALED_ASPECT, CLIPEmbedder
from searchdb.media.models.families import FAMILIES, dimension_of, read_config
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION
from tests.helpers.tiny_models import CONTEXT, TINY_FAMILIES, TinyFamily, save_tiny_model

TEXTS = ["a red car", "Two dogs, at the BEACH!", "um cachorro vermelho", "红 狗", "a", "the white house by the sea"]
SIZES = [(60, 40), (40, 60), (32, 32), (38, 38), (300, 200), (33, 31), (1, 1), (25, 200), (256, 64), (17, 1000)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def unit(vectors: Any) -> np.ndarray:
    values = vectors.float().numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


class Theirs:
    """What transformers makes of a folder: its own processor, tokenizer and model."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedTokenizerFast

        self.torch: Any = torch
        self.processor: Any = cast("Any", AutoImageProcessor).from_pretrained(folder, backend="pil")
        # SigLIP's own class needs a package that is not installed; its tokenizer.json holds the same.
        auto = cast("Any", PreTrainedTokenizerFast if folder.name == "siglip" else AutoTokenizer)
        self.tokenizer: Any = auto.from_pretrained(folder)
        self.model: Any = cast("Any", AutoModel).from_pretrained(folder, dtype=torch.float32).eval()

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels before they are normalised, of shape (height, width, 3); NaFlex's as patches."""
        values = self.processor(images=image, do_rescale=False, do_normalize=False)
        return np.asarray(values["pixel_values"][0])

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        with self.torch.inference_mode():
            inputs = self.processor(images=list(images), return_tensors="pt")
            return unit(self.model.get_image_features(**inputs).pooler_output)

    def embed_texts(self, texts: Sequence[str], padding: str | bool) -> np.ndarray:
        inputs = self.tokenizer(list(texts), padding=padding, truncation=True, max_length=CONTEXT, return_tensors="pt")
        with self.torch.inference_mode():
            return unit(self.model.get_text_features(**inputs).pooler_output)


@pytest.fixture(scope="session")
def theirs_by_name(tiny_folders: dict[str, Path]) -> dict[str, Theirs]:
    return {name: Theirs(folder) for name, folder in tiny_folders.items()}


@pytest.fixture
def theirs(family: TinyFamily, theirs_by_name: dict[str, Theirs]) -> Theirs:
    return theirs_by_name[family.name]


def as_theirs(resized: Image.Image, family: TinyFamily) -> np.ndarray:
    """Return our pixels in the order in which the processor returns its own."""
    pixels = np.asarray(resized).transpose(2, 0, 1)
    if family.model_type != "siglip2":
        return pixels
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    patches = convert_image_to_patches(pixels, 8)
    return np.pad(patches, ((0, 16 - len(patches)), (0, 0)))


@pytest.mark.parametrize("name", TINY_FAMILIES)
@settings(max_examples=15)
@given(width=st.integers(1, 500), height=st.integers(1, 500), seed=st.integers(0, 99))
def test_resizing_is_bit_equal_to_the_processor(
    tiny_embedders: dict[str, CLIPEmbedder],
    theirs_by_name: dict[str, Theirs],
    name: str,
    width: int,
    height: int,
    seed: int,
) -> None:
    family = TINY_FAMILIES[name]
    if family.model_type in ("clip", "metaclip_2", "altclip"):  # beyond, the centre is cropped first
        longest = MAX_SCALED_ASPECT * min(width, height)
        width, height = min(width, longest), min(height, longest)
    image = noise(width, height, seed)
    ours = as_theirs(tiny_embedders[name].resize(image), family)
    assert np.array_equal(ours, theirs_by_name[name].pixels(image))


def test_images_equal_the_processor_and_the_model(tiny: CLIPEmbedder, theirs: Theirs) -> None:
    images = [noise(*size, seed=n) for n, size in enumerate(SIZES[:8])] + [Image.new("RGB", (64, 64), "red")]
    expected = theirs.embed_images(images)
    assert np.abs(tiny.embed_images(images) - expected).max() < 1e-5


def test_texts_equal_the_tokenizer_and_the_model(tiny: CLIPEmbedder, theirs: Theirs, family: TinyFamily) -> None:
    # SigLIP was trained on texts that are padded to the whole context, and SigLIP 2 on lower case.
    fixed = "siglip" in family.model_type
    texts = [text.lower() for text in TEXTS] if family.name == "siglip2" else TEXTS
    expected = theirs.embed_texts(texts, "max_length" if fixed else True)
    assert np.abs(tiny.embed_texts(TEXTS) - expected).max() < 1e-5


def test_case_counts_only_where_the_model_distinguishes_it(tiny_embedders: dict[str, CLIPEmbedder]) -> None:
    for name, embedder in tiny_embedders.items():
        upper, lower = embedder.embed_texts(["A RED CAR", "a red car"])
        assert np.allclose(upper, lower, atol=1e-6) == (name not in ("metaclip-2", "altclip")), name


def test_vectors_are_float32_unit_vectors(tiny: CLIPEmbedder, family: TinyFamily) -> None:
    for vectors in (tiny.embed_images([noise(*size) for size in SIZES]), tiny.embed_texts(TEXTS)):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == tiny.dimension == family.dimension
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert tiny.embed_texts([]).shape == tiny.embed_images([]).shape == (0, family.dimension)


def test_order_and_batch_size_do_not_matter(tiny: CLIPEmbedder) -> None:
    images = [noise(*SIZES[n % 8], seed=n) for n in range(70)]
    together = tiny.embed_images(images)
    alone = np.concatenate([tiny.embed_images([image]) for image in images[::7]])
    assert np.abs(together[::7] - alone).max() < 1e-4
    assert np.abs(tiny.embed_images(images[::-1])[::-1] - together).max() < 1e-4
    texts = [f"{text} {'near the sea ' * (n % 3)}" for n, text in enumerate(TEXTS * 4)]
    together = tiny.embed_texts(texts)
    alone = np.concatenate([tiny.embed_texts([text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-4


def test_different_inputs_have_different_vectors(tiny: CLIPEmbedder) -> None:
    images = tiny.embed_images([Image.new("RGB", (50, 50), colour) for colour in ("red", "blue", "white")])
    texts = tiny.embed_texts(["a red car", "two dogs at the beach", "snow"])
    for vectors in (images, texts):
        assert (vectors @ vectors.T)[np.triu_indices(3, 1)].max() < 0.99


def test_an_image_that_was_resized_stays_as_it_is(tiny: CLIPEmbedder) -> None:
    """Ingest resizes in its threads, and embedding resizes what it gets."""
    for size in SIZES:
        resized = tiny.resize(noise(*size))
        again = tiny.resize(resized)
        assert again.size == resized.size
        assert again.tobytes() == resized.tobytes()


def test_an_image_that_another_model_resized_is_resized(tiny_embedders: dict[str, CLIPEmbedder]) -> None:
    image = noise(100, 80)
    theirs = tiny_embedders["siglip"].resize(image)
    assert tiny_embedders["align"].resize(theirs).tobytes() != theirs.tobytes()
    assert tiny_embedders["align"].resize(image).size == theirs.size == (32, 32)


@pytest.mark.parametrize(("mode", "colour"), [("L", 200), ("LA", (200, 255)), ("RGBA", (9, 8, 7, 255)), ("P", 3)])
def test_images_in_other_modes_are_converted(tiny: CLIPEmbedder, mode: str, colour: Any) -> None:
    image = Image.new(mode, (41, 67), colour)
    assert np.abs(tiny.embed_images([image]) - tiny.embed_images([image.convert("RGB")])).max() == 0


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3000, 10), (1, 1)])
def test_extreme_shapes_are_resized(tiny: CLIPEmbedder, size: tuple[int, int]) -> None:
    resized = tiny.resize(Image.new("RGB", size, (10, 200, 30)))
    width, height = tiny.image_size
    assert resized.width * resized.height <= width * height
    assert np.array_equal(np.unique(np.asarray(resized).reshape(-1, 3), axis=0), [[10, 200, 30]])
    assert tiny.embed_images([resized]).shape == (1, tiny.dimension)


def test_the_decoder_keeps_as_many_pixels_as_are_needed(tiny: CLIPEmbedder, family: TinyFamily) -> None:
    assert tiny.image_size == (32, 32)
    assert tiny.shortest_edge == (38 if family.name == "align" else 32)


def test_a_text_beyond_the_context_is_cut_with_a_warning(tiny: CLIPEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    long = "a red car at the beach " * 20
    with caplog.at_level(logging.WARNING):
        vector = tiny.embed_texts([long])
    assert f"the model reads the first {CONTEXT}" in caplog.text
    assert np.abs(vector - tiny.embed_texts([long + "dog"])).max() < 1e-6
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        tiny.embed_texts(["a red car"])
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_precision_can_be_chosen(tiny: CLIPEmbedder, folder: Path, dtype: str) -> None:
    embedder = CLIPEmbedder(str(folder), dtype=dtype)
    images = [noise(*size, seed=n) for n, size in enumerate(SIZES[:6])]
    for ours, exact in (
        (embedder.embed_images(images), tiny.embed_images(images)),
        (embedder.embed_texts(TEXTS), tiny.embed_texts(TEXTS)),
    ):
        assert ours.dtype == np.float32
        assert (ours * exact).sum(axis=1).min() > 0.98


# --- Dimensions ----------------------------------------------------------------------------------------


def test_the_dimension_is_known_without_loading(folder: Path, family: TinyFamily) -> None:
    embedder = CLIPEmbedder(str(folder))
    assert embedder.dimension == family.dimension
    assert embedder._loaded is None


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_empty_config_has_the_defaults_of_transformers(model_type: str) -> None:
    """Files on the hub leave out what is the default; SigLIP's leave out everything but the image's size."""
    from transformers import AutoConfig

    family = FAMILIES[model_type]
    full: dict[str, Any] = cast("Any", AutoConfig).for_model(model_type).to_dict()
    assert family.dimensions({"model_type": model_type}) == family.dimensions(full)
    assert family.context({"model_type": model_type}) == family.context(full)


@pytest.mark.parametrize(
    ("config", "dimension"),
    [
        # What google/siglip2-giant-opt-patch16-256 and kakaobrain/align-base have of what counts.
        (
            {
                "model_type": "siglip",
                "text_config": {"hidden_size": 1152, "projection_size": 1536},
                "vision_config": {"hidden_size": 1536},
            },
            1536,
        ),
        ({"model_type": "align", "projection_dim": 640, "vision_config": {"width_coefficient": 2.0}}, 640),
        ({"model_type": "clip", "projection_dim": 768, "text_config": {"projection_dim": 512}}, 768),
    ],
)
def test_dimensions_of_models_on_the_hub(config: dict[str, Any], dimension: int) -> None:
    assert dimension_of("it", config) == dimension


@pytest.mark.parametrize("dimension", [MIN_DIMENSION - 8, MAX_DIMENSION + 8])
def test_too_few_or_too_many_numbers_are_refused(tmp_path: Path, dimension: int) -> None:
    folder = save_tiny_model("clip", tmp_path / "model", dimension=dimension)
    with pytest.raises(ModelShapeError, match=f"vectors of {dimension:,} numbers: searchdb stores 64 to 2,000"):
        CLIPEmbedder(str(folder)).load()


@pytest.mark.parametrize("dimension", [MIN_DIMENSION, 768, MAX_DIMENSION])
def test_all_numbers_between_are_taken(tmp_path: Path, dimension: int) -> None:
    embedder = CLIPEmbedder(str(save_tiny_model("metaclip-2", tmp_path / "model", dimension=dimension)))
    assert embedder.embed_texts(["a dog"]).shape == (1, dimension) == embedder.embed_images([noise(9, 9)]).shape


# --- Files of other versions ---------------------------------------------------------------------------


def test_the_processor_may_be_in_the_file_that_transformers_5_writes(
    tiny: CLIPEmbedder, folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    old = copy / "preprocessor_config.json"
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(old.read_text())}))
    old.unlink()
    image = noise(70, 50)
    assert CLIPEmbedder(str(copy)).resize(image).tobytes() == tiny.resize(image).tobytes()


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_what_a_processors_file_leaves_out_is_the_default(
    name: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    copy = Path(shutil.copytree(tiny_folders[name], tmp_path / "model"))
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": json.loads(path.read_text())["image_processor_type"]}))
    processor = cast("Any", AutoImageProcessor).from_pretrained(copy, backend="pil")
    image = noise(400, 300)
    theirs: Any = processor(images=image, return_tensors="np")["pixel_values"][0]
    preprocessing = CLIPEmbedder(str(copy))._preprocessing
    pixels = np.asarray(preprocessing.resize(image)).astype(np.float32)
    ours = (pixels * preprocessing.rescale - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    if name == "siglip2-naflex":
        ours = ours.reshape(-1, 16, ours.shape[1] // 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 768)
        theirs = theirs[: len(ours)]
    else:
        ours = ours.transpose(2, 0, 1)
    assert np.abs(ours - theirs).max() < 1e-5


def test_the_config_that_is_read_is_the_one_of_the_loaded_model(tiny: CLIPEmbedder, folder: Path) -> None:
    tiny.load()
    assert dimension_of("it", read_config("it", folder)) == tiny.embed_texts(["a"]).shape[1]
