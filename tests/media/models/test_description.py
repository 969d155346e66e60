"""What is told about a model without loading it, and which models are found on this machine."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import get_args

import pytest

from searchdb.errors import ModelUnavailableError
from searchdb.media.embed import DEMO_FOLDER
from searchdb.media.models import description
from searchdb.media.models.description import describe_model, models_here
from searchdb.media.models.families import FAMILIES
from searchdb.media.models.recommended import RECOMMENDED, Need
from searchdb.records import MAX_DIMENSION, MIN_DIMENSION
from tests.helpers.tiny_models import CONTEXT, TinyFamily, save_tiny_model

CARD = """---
language:
- en
- pt
license: apache-2.0
---
# A model
"""
DOCS = Path(__file__).parents[3] / "docs" / "models.md"


def test_a_model_is_described_from_its_small_files(folder: Path, family: TinyFamily) -> None:
    model = describe_model(str(folder))
    assert (model.name, model.folder) == (str(folder), str(folder))
    assert (model.model_type, model.family) == (family.model_type, FAMILIES[family.model_type].title)
    assert (model.dimension, model.context_length, model.image_size) == (family.dimension, CONTEXT, (32, 32))
    assert (model.languages, model.licence, model.usable) == ((), None, True)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert model.weights == digest[:12]
    assert model.bytes_on_disk == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    ("card", "languages", "licence"),
    [
        (CARD, ("en", "pt"), "apache-2.0"),
        ("---\nlanguage: zh\nlicense: other\nlicense_name: a-licence\n---\n", ("zh",), "a-licence"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", (), "mit apache-2.0"),
        ("# No front matter\n", (), None),
        ("---\nlanguage: [en\n---\n", (), None),
        ("---\n- a list\n---\n", (), None),
        ("", (), None),
    ],
)
def test_languages_and_licence_are_read_from_the_card(
    tiny_folders: dict[str, Path], tmp_path: Path, card: str, languages: tuple[str, ...], licence: str | None
) -> None:
    copy = Path(shutil.copytree(tiny_folders["siglip"], tmp_path / "model"))
    (copy / "README.md").write_text(card, encoding="utf-8")
    model = describe_model(str(copy))
    assert (model.languages, model.licence) == (languages, licence)


def test_the_demo(tmp_path: Path) -> None:
    model = describe_model("demo")
    assert (model.family, model.dimension, model.context_length) == ("CLIP", 512, 48)
    assert model.folder == str(DEMO_FOLDER)


def test_a_model_that_is_not_here_is_described_without_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_tiny_model("align", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    asked = list[list[str]]()

    def download(name: str, patterns: list[str]) -> Path:
        asked.append(patterns)
        return folder

    monkeypatch.setattr("searchdb.media.models.folders.download", download)
    model = describe_model("somebody/align")
    assert (model.dimension, model.weights, model.bytes_on_disk) == (88, None, None)
    assert not any("safetensors" in pattern for pattern in asked[0])


def test_a_width_that_cannot_be_stored_is_described(tmp_path: Path) -> None:
    folder = save_tiny_model("clip", tmp_path / "model", dimension=MAX_DIMENSION + 8)
    model = describe_model(str(folder))
    assert (model.dimension, model.usable) == (MAX_DIMENSION + 8, False)


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/nothing-of-this-name", "not a name: at all!"])
def test_an_unknown_model_is_an_error(name: str) -> None:
    with pytest.raises(ModelUnavailableError):
        describe_model(name)


def test_models_in_the_hubs_cache_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    """A real cache of the hub's: blobs named by their digest, and snapshots of links to them."""
    cache = tmp_path / "hub"

    def put(repository: str, files: Path) -> None:
        folder = cache / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("0" * 40)
        for part in (folder / "blobs", folder / "refs", snapshot):
            part.mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        for path in files.iterdir():
            blob = folder / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(blob)

    put("somebody/siglip", tiny_folders["siglip"])
    put("anybody/align", tiny_folders["align"])
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    (other / "model.safetensors").write_bytes(b"")
    put("somebody/bert", other)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache), raising=False)
    found = models_here()
    assert [model.name for model in found] == ["demo", "anybody/align", "somebody/siglip"]
    assert [model.dimension for model in found] == [512, 88, 96]
    assert found[1].bytes_on_disk == sum(path.stat().st_size for path in tiny_folders["align"].iterdir())


def test_without_a_cache_the_demo_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import CacheNotFound

    def missing() -> None:
        raise CacheNotFound("there is none", tmp_path)

    monkeypatch.setattr("huggingface_hub.scan_cache_dir", missing)
    assert [model.name for model in models_here()] == ["demo"]
    assert description._cached_folders() == []


# --- Recommended models --------------------------------------------------------------------------------


def test_each_need_has_several_recommended_models() -> None:
    for need in get_args(Need):
        assert len([model for model in RECOMMENDED if need in model.needs]) > 2, need
    assert all(MIN_DIMENSION <= model.dimension <= MAX_DIMENSION for model in RECOMMENDED)


def test_recommended_models_are_those_of_the_documentation() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    documented = {
        line.split("`")[1]: line.split("|")[2].strip() for line in lines if line.startswith("| `") and "/" in line
    }
    assert documented == {model.name: f"{model.dimension:,}" for model in RECOMMENDED}
