"""Folders that hold no usable model: one error that names what is wrong and the way out."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from searchdb.errors import ModelUnavailableError
from searchdb.media import model_files
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.models.description import describe_model
from searchdb.media.models.folders import model_folder
from tests.helpers.tiny_models import save_tiny_model


@pytest.fixture
def copy(tmp_path: Path, tiny_folders: dict[str, Path]) -> Callable[[str], Path]:
    """Copies a tiny model's folder, for a test to change."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(tiny_folders[name], tmp_path / name))

    return make


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(ModelUnavailableError, match=reason) as caught:
        CLIPEmbedder(str(folder)).load()
    message = str(caught.value)
    assert message.startswith(f"cannot load the model '{folder}': ")
    assert "SEARCHDB_MODEL" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("bert", "it is a model of type 'bert'; searchdb takes models of CLIP, SigLIP, SigLIP 2 NaFlex, MetaCLIP 2,"),
        ("clip_text_model", "only the text half of a CLIP model"),
        ("siglip_vision_model", "only the vision half of a SigLIP model"),
        ("blip-2", "'blip-2'"),
        (None, "of type None"),
    ],
)
def test_a_model_of_another_kind(copy: Callable[[str], Path], model_type: str | None, reason: str) -> None:
    folder = copy("clip")
    change(folder / "config.json", model_type=model_type)
    refused(folder, re.escape(reason))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("model_index.json", "pipeline of diffusers"),
        ("open_clip_config.json", "format of open_clip"),
        ("modules.json", "format of sentence-transformers"),
    ],
)
def test_a_folder_in_another_format(tmp_path: Path, file: str, reason: str) -> None:
    (tmp_path / file).write_text("{}")
    refused(tmp_path, reason)


def test_a_models_own_code_is_not_run(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    change(folder / "config.json", model_type="jina_clip", auto_map={"AutoModel": "own.OwnModel"})
    (folder / "own.py").write_text("raise AssertionError('it was run')")
    refused(folder, "code of its own, and searchdb runs no code of a model")


def test_a_known_model_with_code_beside_it_runs_the_known_code(copy: Callable[[str], Path]) -> None:
    folder = copy("metaclip-2")
    change(folder / "config.json", auto_map={"AutoModel": "own.OwnModel"})
    (folder / "own.py").write_text("raise AssertionError('it was run')")
    assert CLIPEmbedder(str(folder)).embed_texts(["a dog"]).shape == (1, 128)


def test_a_tokenizers_own_code_is_not_run(copy: Callable[[str], Path]) -> None:
    folder = copy("chinese-clip")
    change(
        folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]}
    )
    (folder / "own.py").write_text("raise AssertionError('it was run')")
    try:
        CLIPEmbedder(str(folder)).load()
    except ModelUnavailableError as exc:
        assert "it was run" not in str(exc)  # noqa: PT017 - whether it loads is up to transformers
    assert "own" not in sys.modules


def test_no_config(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    (folder / "config.json").unlink()
    refused(folder, r"config\.json cannot be read")


def test_no_preprocessor(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, r"preprocessor_config\.json cannot be read")


def test_an_unknown_preprocessor(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    change(folder / "preprocessor_config.json", image_processor_type="OwlViTImageProcessor")
    refused(folder, "names the image processor OwlViTImageProcessor; searchdb knows CLIPImageProcessor,")


def test_a_preprocessor_that_gives_images_of_many_sizes(copy: Callable[[str], Path]) -> None:
    folder = copy("clip")
    change(folder / "preprocessor_config.json", do_center_crop=False)
    refused(folder, "does not crop, so that images have many sizes")


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "siglip2-naflex", "metaclip-2", "chinese-clip"])
def test_no_tokenizer(copy: Callable[[str], Path], name: str) -> None:
    folder = copy(name)
    (folder / "tokenizer.json").unlink()
    refused(folder, r"has no tokenizer\.json")


@pytest.mark.parametrize("file", ["spiece.model", "sentencepiece.bpe.model"])
def test_a_tokenizer_that_needs_a_package(copy: Callable[[str], Path], file: str) -> None:
    pytest.importorskip("transformers")
    if "sentencepiece" in sys.modules:
        pytest.skip("sentencepiece is installed")
    folder = copy("siglip" if file == "spiece.model" else "altclip")
    (folder / "tokenizer.json").unlink()
    (folder / file).write_bytes(b"\n")
    refused(folder, f"its tokenizer {re.escape(file)} is read by sentencepiece.*pip install sentencepiece")


def test_a_tokenizer_of_another_familys_files(copy: Callable[[str], Path]) -> None:
    """transformers makes a tokenizer of special tokens only."""
    folder = copy("chinese-clip")
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    refused(folder, "its tokenizer knows no words|its tokenizer cannot be loaded")


def test_a_tokenizer_without_padding(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["pad_token"]
    path.write_text(json.dumps(config))
    refused(folder, "its tokenizer has no padding token")


def test_a_damaged_tokenizer(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip2")
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    refused(folder, "its tokenizer cannot be loaded")


def test_weights_of_another_size(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    change(folder / "config.json", vision_config=json.loads((folder / "config.json").read_text())["vision_config"])
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "its weights are those of another model")


def test_weights_that_lack_tensors(copy: Callable[[str], Path]) -> None:
    """transformers would fill them with random numbers."""
    from safetensors.numpy import load_file, save_file

    folder = copy("altclip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"its weights lack 1 of the model's tensors \(text_projection\.weight\)")


def test_cut_weights(copy: Callable[[str], Path]) -> None:
    folder = copy("align")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(folder, "its weights are damaged or cut: copy them again")


def test_no_weights(copy: Callable[[str], Path]) -> None:
    folder = copy("align")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailableError, match="has no weights"):
        _ = CLIPEmbedder(str(folder)).identity


def test_images_and_texts_of_different_lengths(tmp_path: Path, copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["projection_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, "its images have 96 numbers and its texts 64, so that they cannot be compared")


def test_a_malformed_config(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    change(folder / "config.json", text_config=["no"], vision_config=7)
    refused(folder, r"its config\.json is malformed")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "holds no JSON object"),
        ("null", "holds no JSON object"),
        ("[" * 100_000, "it is nested too deeply, or has a number of thousands of digits"),
        (f'{{"a": {"1" * 5000}}}', "it is nested too deeply, or has a number of thousands of digits"),
        ('{"a": "\udcff"}', "it is not UTF-8"),
    ],
)
def test_files_that_hold_no_object(copy: Callable[[str], Path], name: str, content: str, reason: str) -> None:
    folder = copy("clip")
    (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ModelUnavailableError, match=rf"{name} .*{reason}"):
        describe_model(str(folder))


def test_a_config_that_is_too_large(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy("clip")
    monkeypatch.setattr(model_files, "MAX_JSON_BYTES", 100)
    refused(folder, r"config\.json has [\d,]+ bytes, the limit is 100\.")


@pytest.mark.parametrize(
    ("model", "file", "values", "reason"),
    [
        ("clip", "config.json", {"text_config": [1]}, "text_config is no object"),
        ("clip", "config.json", {"vision_config": "x"}, "vision_config is no object"),
        ("clip", "config.json", {"projection_dim": 400.5}, "projection_dim is 400.5, no whole number"),
        ("clip", "config.json", {"projection_dim": float("inf")}, "projection_dim is Infinity, no whole number"),
        ("clip", "config.json", {"dtype": "float99"}, "torch has no type of numbers 'float99'"),
        ("clip", "tokenizer_config.json", {"model_max_length": "x"}, "model_max_length|its tokenizer cannot be loaded"),
        ("siglip", "preprocessor_config.json", {"size": "x"}, "size is \"x\", no number of 1 to 4,096 pixels"),
        ("siglip", "preprocessor_config.json", {"size": {"height": 10**7, "width": 9}}, "10000000, no number of 1 to"),
        ("siglip", "preprocessor_config.json", {"size": {"height": 0, "width": 32}}, "the height in size is 0, no"),
        ("siglip", "preprocessor_config.json", {"size": None}, "size is null, no number"),
        ("siglip", "preprocessor_config.json", {"image_mean": [0.5]}, r"image_mean is \[0\.5\], not three numbers"),
        ("siglip", "preprocessor_config.json", {"image_std": [0.5, 0, 1]}, "image_std holds zero"),
        ("siglip", "preprocessor_config.json", {"rescale_factor": "x"}, 'rescale_factor is "x", no number'),
        ("siglip", "preprocessor_config.json", {"resample": 99}, "no way to resample 99"),
        ("clip", "preprocessor_config.json", {"size": {"shortest_edge": 10**7}}, "size is 10000000, no number of 1 to"),
        ("clip", "preprocessor_config.json", {"crop_size": [1]}, r"crop_size is \[1\], no number of 1 to 4,096 pixels"),
        ("siglip2-naflex", "preprocessor_config.json", {"max_num_patches": 10**9}, "max_num_patches is 1000000000: "),
        ("siglip2-naflex", "preprocessor_config.json", {"patch_size": 0}, "patch_size is 0, no number of 1 to 4,096"),
        ("clip", "processor_config.json", {"image_processor": [1]}, "image_processor is no object"),
    ],
)  # fmt: skip
def test_values_of_another_kind(
    copy: Callable[[str], Path], model: str, file: str, values: dict[str, object], reason: str
) -> None:
    folder = copy(model)
    change(folder / file, **values)
    refused(folder, reason)


@pytest.mark.parametrize(
    "values", [{"image_size": "big"}, {"hidden_size": 7}, {"num_attention_heads": 0}, {"hidden_act": "unheard-of"}]
)
def test_values_that_only_transformers_refuses(copy: Callable[[str], Path], values: dict[str, object]) -> None:
    folder = copy("clip")
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", vision_config=config["vision_config"] | values)
    refused(folder, r"its config\.json does not fit its kind of model \(.+\)")


# --- Names of the hub ----------------------------------------------------------------------------------


def test_the_weights_of_no_model_are_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub has pipelines of many gigabytes."""
    (tmp_path / "model_index.json").write_text("{}")
    asked = list[list[str]]()

    def download(name: str, patterns: list[str]) -> Path:
        asked.append(patterns)
        return tmp_path

    monkeypatch.setattr("searchdb.media.models.folders.download", download)
    with pytest.raises(ModelUnavailableError, match="diffusers"):
        model_folder("somebody/a-pipeline")
    assert len(asked) == 1
    assert not any("safetensors" in pattern for pattern in asked[0])


def test_a_model_of_the_hub_is_downloaded_with_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = save_tiny_model("siglip", tmp_path / "hub")
    here = tmp_path / "here"
    here.mkdir()

    def download(name: str, patterns: list[str]) -> Path:
        for path in hub.iterdir():
            if any(path.match(pattern) for pattern in patterns):
                shutil.copy(path, here)
        return here

    monkeypatch.setattr("searchdb.media.models.folders.download", download)
    embedder = CLIPEmbedder("somebody/siglip")
    assert embedder.embed_texts(["a dog"]).shape == (1, 96)
    assert embedder.identity.name == "somebody/siglip"
