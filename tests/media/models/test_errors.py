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
from searchdb.media.embed import CLIPEmbedder
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
    refused(folder, "cannot load")


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
