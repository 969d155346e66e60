"""`searchdb model list` and `model show`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from searchdb.config import Settings
from searchdb.media.embed import DEMO_FOLDER
from tests.helpers.cli import output, run
from tests.helpers.tiny_models import save_tiny_model
from tests.ingest.test_vectors import save


@pytest.fixture(autouse=True)
def _columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_the_list_tells_the_collections_models_from_others(demo_settings: Settings) -> None:
    collection, here, recommended = output(run(demo_settings, "model", "list")).split("\n\n")
    lines = collection.splitlines()
    assert lines[0] == "Models of this collection:"
    assert lines[2].split()[:3] == ["current", "demo", "512"]
    assert here.startswith("Models on this machine:")
    assert "demo" in here
    assert recommended.startswith("Recommended models (docs/models.md has their figures):")
    assert "google/siglip2-base-patch16-224" in recommended


def test_the_list_of_an_empty_collection(settings: Settings) -> None:
    assert "Models of this collection: none yet" in output(run(settings, "model", "list"))
    document = json.loads(output(run(settings, "model", "list", "--json")))
    assert document["collection"] == []


def test_the_list_as_json(demo_settings: Settings) -> None:
    document = json.loads(output(run(demo_settings, "model", "list", "--json")))
    assert list(document) == ["collection", "this_machine", "recommended"]
    (model,) = document["collection"]
    assert (model["name"], model["dimension"], model["current"]) == ("demo", 512, True)
    assert (model["retired_at"], model["verified"], model["kept"]) == (None, True, True)
    assert document["this_machine"][0]["name"] == "demo"
    assert {"name", "needs", "dimension", "languages"} <= document["recommended"][0].keys()


def test_a_switch_of_an_empty_collection_says_how_its_model_is_kept(settings: Settings) -> None:
    result = run(settings, "model", "switch", "demo")
    output(result)
    assert (
        "the collection is empty, and made for demo now: set SEARCHDB_MODEL=demo for the first ingest" in result.stderr
    )


def test_show_says_what_a_model_is(settings: Settings, tmp_path: Path) -> None:
    folder = save_tiny_model("siglip2-naflex", tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en, de, fr, it, es, pt, zh]\n---\n")
    lines = dict(
        line.split(maxsplit=1) for line in output(run(settings, "model", "show", str(folder))).splitlines() if line
    )
    assert lines["family"] == "SigLIP 2 NaFlex"
    assert lines["numbers"] == "72"
    assert lines["context"] == "16 tokens"
    assert lines["image"] == "32 x 32 pixels"
    assert lines["languages"] == "en, de, fr, it, es, pt and 1 more"
    assert lines["licence"] == "apache-2.0"
    assert lines["folder"] == str(folder)


def test_show_as_json(settings: Settings) -> None:
    document = json.loads(output(run(settings, "model", "show", "demo", "--json")))
    assert (document["family"], document["dimension"], document["usable"]) == ("CLIP", 512, True)


def test_show_says_that_a_model_cannot_be_stored(settings: Settings, tmp_path: Path) -> None:
    folder = save_tiny_model("clip", tmp_path / "model", dimension=2008)
    assert "2,008, which searchdb cannot store" in output(run(settings, "model", "show", str(folder)))


@pytest.mark.parametrize("name", ["", "  "])
@pytest.mark.parametrize(
    "command",
    [
        ["model", "show", "{}"],
        ["model", "switch", "{}"],
        ["model", "switch", "{}", "--dry-run"],
        ["model", "compare", "{}", "demo", "--queries", "-"],
        ["model", "compare", "demo", "{}", "--queries", "-"],
        ["ingest", "vectors", "v.npz", "--model", "{}"],
    ],
)
def test_an_empty_name_is_not_the_current_folder(
    demo_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str
) -> None:
    monkeypatch.chdir(shutil.copytree(DEMO_FOLDER, tmp_path / "model"))
    save(Path("v.npz"), 1)
    result = run(demo_settings, *(part.replace("{}", name) for part in command), stdin="a dog\n")
    assert result.exit_code == 1
    assert "the model's name is empty: give a hub name, a folder, or `demo`" in result.stderr


def test_an_unknown_model_is_one_line(settings: Settings) -> None:
    result = run(settings, "model", "show", "/no/such/folder")
    assert result.exit_code == 1
    assert "there is no such folder. Give a hub name, a folder in Hugging Face layout, or `demo`" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        "model switch /no/such/folder",
        "model switch /no/such/folder --dry-run",
        "ingest vectors v.npz --model /no/such/folder",
    ],
)
def test_the_way_out_of_a_model_that_cannot_be_loaded_fits_the_command(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", embeddings=np.ones((1, 64), np.float32), url=np.array(["https://example.org/1.jpg"]))
    result = run(settings, *command.split())
    assert result.exit_code == 1
    assert "Give a hub name, a folder in Hugging Face layout, or `demo`" in result.stderr
    assert "SEARCHDB_MODEL" not in result.stderr
