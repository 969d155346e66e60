"""Switches collections to twins of their model, from the first image to the last."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.db.current_model import current_model
from searchdb.db.vectors import current_column, other_columns
from searchdb.errors import ModelOutputError, ModelUnavailableError, SwitchError
from searchdb.media.embed import CLIPEmbedder
from searchdb.switch.start import start_switch
from searchdb.switch.state import SwitchStatus
from tests.switch.conftest import FEW


def vectors(collection: SearchDB, column: str = "embedding") -> dict[str, np.ndarray]:
    """Return the vectors of a column by reference, of the images that have one in it."""
    with collection.database.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT image, {column}::vector AS vector FROM images ORDER BY image")).all()
    return {row.image: np.asarray(row.vector.to_numpy()) for row in rows if row.vector is not None}


def similarities(found: dict[str, np.ndarray]) -> np.ndarray:
    """Return the cosines of all pairs, in the order of references."""
    matrix = np.stack(list(found.values()))
    return matrix @ matrix.T


def test_a_switch_gives_every_image_a_vector_by_the_new_model(filled: SearchDB, twin: Path) -> None:
    before = vectors(filled)
    hits = filled.search("a red car", count=FEW)
    seen: list[SwitchStatus] = []
    report = filled.switch_model(str(twin), progress=seen.append)
    assert report.changed
    assert report.images == FEW
    assert report.unembedded == []
    assert {"fill", "texts", "index", "change"} <= {status.phase for status in seen}
    after = vectors(filled)
    assert after.keys() == before.keys()
    assert {vector.shape for vector in after.values()} == {(768,)}
    assert np.abs(similarities(after) - similarities(before)).max() < 1e-5
    with filled.database.connect() as connection:
        assert current_column(connection).dimension == 768
        assert [column.dimension for column in other_columns(connection)] == [512]
        model = current_model(connection)
        assert model is not None
        assert model.name == str(twin)
        assert connection.scalar(sa.text("SELECT count(*) FROM procrastinate_jobs")) == 0
    assert filled.switch_status() is None
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as again:
        found = again.search("a red car", count=FEW)
        assert [hit.image for hit in found] == [hit.image for hit in hits]
        assert all(hit.relevance is not None for hit in found)  # measured before the change-over


def test_switching_back_embeds_only_what_came_meanwhile(
    filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vectors(filled)
    filled.search("a boat")
    filled.switch_model(str(twin))
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as again:
        with again.database.connect() as connection:
            builds = connection.scalar(sa.text("SELECT count(*) FROM index_builds"))
        monkeypatch.setattr(CLIPEmbedder, "_model", lambda _self: pytest.fail("the model was loaded"))
        report = again.switch_model("demo")
        assert report.changed
        with again.database.connect() as connection:
            assert connection.scalar(sa.text("SELECT count(*) FROM index_builds")) == builds
        after = vectors(again)
        assert all(np.array_equal(after[image], before[image]) for image in before)


def test_a_switch_to_the_current_model_is_refused(filled: SearchDB) -> None:
    with pytest.raises(SwitchError, match="there is nothing to switch"):
        filled.switch_model("demo")
    with pytest.raises(SwitchError, match="there is nothing to switch"):
        filled.plan_switch("demo")


def test_an_empty_collection_takes_a_model_at_once(collection: SearchDB, twin: Path) -> None:
    report = collection.switch_model(str(twin))
    assert (report.images, report.changed) == (0, True)
    with collection.database.connect() as connection:
        assert current_column(connection).dimension == 768


@pytest.mark.parametrize("command", ["ingest", "switch"])
def test_an_emptied_collection_that_took_its_kept_model_can_be_switched_again(
    filled: SearchDB, pictures: Path, other_twin: Path, command: str
) -> None:
    """The kept column of a model must not be in the way when that becomes the current one without a switch."""
    filled.switch_model(str(other_twin))
    with filled.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM images"))
    with SearchDB(filled.settings.model_copy(update={"model": "demo"})) as again:
        if command == "switch":
            again.switch_model("demo")
        assert again.ingest_files(pictures).stored == FEW
        with again.database.connect() as connection:
            assert other_columns(connection) == []
        assert again.switch_model(str(other_twin)).changed
        assert len(again.search("a red car", count=FEW, threshold=-1)) == FEW


def test_a_switch_ends_when_the_emptied_collection_takes_another_model(
    filled: SearchDB, pictures: Path, twin: Path, other_twin: Path
) -> None:
    start_switch(filled.database, filled.settings, CLIPEmbedder(str(twin)).identity)
    with filled.database.begin() as connection:
        connection.execute(sa.text("DELETE FROM images"))
    with SearchDB(filled.settings.model_copy(update={"model": str(other_twin)})) as other:
        assert other.ingest_files(pictures).stored == FEW
        assert other.switch_status() is None
        assert other.switch_model(str(twin)).changed


def test_a_kept_model_that_is_damaged_is_refused(filled: SearchDB, twin: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(twin, damaged)
    filled.switch_model(str(damaged))
    filled.switch_model("demo")
    tokenizer, config = (damaged / "tokenizer.json").read_bytes(), (damaged / "config.json").read_text()
    for content, message in ((b"{", "its tokenizer cannot be loaded"), (None, "has no tokenizer.json")):
        if content is None:
            (damaged / "tokenizer.json").unlink()
        else:
            (damaged / "tokenizer.json").write_bytes(content)
        with pytest.raises(ModelUnavailableError, match=message):
            filled.switch_model(str(damaged))
    (damaged / "tokenizer.json").write_bytes(tokenizer)
    (damaged / "config.json").write_text(config.replace('"projection_dim": 768', '"projection_dim": 640'))
    with pytest.raises(SwitchError, match=r"gave vectors of 768 numbers before, and its config\.json says 640"):
        filled.switch_model(str(damaged))
    assert filled.switch_status() is None


def test_a_model_that_gives_no_numbers_is_refused(filled: SearchDB, twin: Path, tmp_path: Path) -> None:
    broken = broken_model(twin, tmp_path / "broken")
    with pytest.raises(ModelOutputError, match=r"no numbers \(NaN\) for 1 of 1 images: its weights are damaged"):
        filled.switch_model(str(broken))
    assert filled.switch_status() is None


def test_an_image_without_numbers_is_left_out(filled: SearchDB, twin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = CLIPEmbedder.embed_images
    seen = list[bytes]()

    def fail_for_one(self: CLIPEmbedder, images: Sequence[Image.Image], /) -> np.ndarray:
        if self.dimension == 768 and len(images) > 1 and not seen:
            seen.append(images[3].tobytes())
        if self.dimension == 768 and any(each.tobytes() in seen for each in images):
            raise ModelOutputError(self.name, "1 image")
        return embed(self, images)

    monkeypatch.setattr(CLIPEmbedder, "embed_images", fail_for_one)
    report = filled.switch_model(str(twin))
    assert report.changed
    assert [each.error for each in report.unembedded] == ["NoVectorError"]


def broken_model(source: Path, folder: Path) -> Path:
    """Copy a model, with a projection of images that gives NaN."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
