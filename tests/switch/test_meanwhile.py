"""What happens to images while their collection is switched: new, changed, moved, deleted, and unreadable ones."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.db.open_switch import OpenSwitch
from searchdb.db.switch_tables import unembedded_images
from searchdb.embedder import Embedder
from searchdb.errors import FileUnreadableError, SwitchError, TooManyMissingError
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import FailedImage, SourceItem
from searchdb.switch.start import start_switch
from tests.helpers.cli import output, run
from tests.switch.conftest import FEW
from tests.switch.test_run import similarities, vectors


@pytest.fixture
def other(twin: Path) -> CLIPEmbedder:
    return CLIPEmbedder(str(twin), dtype="float32")


def begun(collection: SearchDB, embedder: Embedder) -> OpenSwitch:
    """Begin a switch, which nobody goes on with."""
    return start_switch(collection.database, collection.settings, embedder.identity)


def filled_at_once(collection: SearchDB, switch: OpenSwitch) -> dict[str, np.ndarray]:
    """Return the vectors that are in the new column."""
    return vectors(collection, switch.column.name)


def draw(path: Path, colour: str) -> None:
    Image.new("RGB", (64, 64), colour).save(path)


def test_new_images_get_the_vectors_of_both_models(filled: SearchDB, other: CLIPEmbedder, pictures: Path) -> None:
    switch = begun(filled, other)
    draw(pictures / "new.png", "red")
    assert filled.ingest_files(pictures).stored == 1
    assert list(filled_at_once(filled, switch)) == [str(pictures / "new.png")]


def test_changed_bytes_leave_no_vector_of_the_old_ones(filled: SearchDB, other: CLIPEmbedder, pictures: Path) -> None:
    draw(pictures / "a.png", "red")
    draw(pictures / "b.png", "green")
    filled.ingest_files(pictures)
    switch = begun(filled, other)
    for name in ("a.png", "b.png"):
        with filled.database.begin() as connection:
            connection.execute(
                sa.text(f"UPDATE images SET {switch.column.name} = :vector WHERE image = :image"),
                {"vector": str([1.0] + [0.0] * 767), "image": str(pictures / name)},
            )
    draw(pictures / "a.png", "blue")
    # A process that cannot load the model, or does not know of the switch yet, stores no second vector.
    filled.other_models.find_or_warn = lambda _switch: None  # type: ignore[method-assign]
    filled.ingest_files(pictures)
    assert list(filled_at_once(filled, switch)) == [str(pictures / "b.png")]
    # The same bytes stored again keep it.
    filled.ingest_files(pictures, reread=True)
    (pictures / "b.png").touch()
    filled.ingest_files(pictures)
    assert list(filled_at_once(filled, switch)) == [str(pictures / "b.png")]


def test_what_was_added_by_a_program_is_embedded_by_the_switch(
    filled: SearchDB, other: CLIPEmbedder, twin: Path, pictures: Path
) -> None:
    begun(filled, other)
    (pictures / "gone.png").unlink(missing_ok=True)
    first = sorted(pictures.iterdir())[0]
    first.unlink()
    draw(pictures / "new.png", "red")
    filled.ingest_files(pictures, prune=True)
    shutil.move(sorted(pictures.iterdir())[0], pictures / "moved.png")
    filled.ingest_files(pictures, prune=True)
    report = filled.switch_model(str(twin))
    assert report.unembedded == []
    found = vectors(filled)
    assert set(found) == {str(path) for path in pictures.iterdir()}
    assert {vector.shape for vector in found.values()} == {(768,)}


def test_a_file_that_changed_before_the_switch_is_ingested_anew(filled: SearchDB, twin: Path, pictures: Path) -> None:
    changed = sorted(pictures.iterdir())[0]
    draw(changed, "purple")
    with filled.database.connect() as connection:
        before = connection.scalar(sa.text("SELECT sha256 FROM images WHERE image = :i"), {"i": str(changed)})
    report = filled.switch_model(str(twin))
    assert report.unembedded == []
    with filled.database.connect() as connection:
        row = connection.execute(
            sa.text("SELECT sha256, tags, embedding::vector AS vector FROM images WHERE image = :i"),
            {"i": str(changed)},
        ).one()
    assert bytes(row.sha256) != bytes(before)
    embedder = CLIPEmbedder(str(twin), dtype="float32")
    with Image.open(changed) as picture:
        expected = embedder.embed_images([embedder.resize(picture.convert("RGB"))])[0]
    assert float(expected @ row.vector.to_numpy()) > 0.999


def test_images_that_cannot_be_read_move_aside_and_come_back(
    filled: SearchDB, twin: Path, pictures: Path, tmp_path: Path
) -> None:
    gone = sorted(pictures.iterdir())[0]
    with filled.database.begin() as connection:
        image_id = connection.scalar(
            sa.text("UPDATE images SET tags = '{holiday}' WHERE image = :i RETURNING id"), {"i": str(gone)}
        )
    shutil.move(gone, tmp_path / "aside")
    report = filled.switch_model(str(twin))
    assert [(each.image, each.error) for each in report.unembedded] == [(str(gone), "FileUnreadableError")]
    assert len(vectors(filled)) == FEW - 1
    assert filled.status().unembedded == 1
    assert "\nno vector 1 image, not found: " in output(run(filled.settings, "status"))
    item = SourceItem(image=str(gone), source="files")
    filled.store.record_failures([FailedImage.of(item, FileUnreadableError("there is no such file"))])
    failures = json.loads(output(run(filled.settings, "failures", "list", "--json")))["failures"]
    assert [each["image"] for each in failures] == [str(gone)]  # once, though its ingest has failed, too
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as again:
        assert again.retry_unembedded().failed == 1
        shutil.move(tmp_path / "aside", gone)
        assert again.retry_unembedded().moved_back == 1
        assert again.status().unembedded == 0
        with again.database.connect() as connection:
            row = connection.execute(sa.text("SELECT id, tags FROM images WHERE image = :i"), {"i": str(gone)}).one()
        assert (row.id, row.tags) == (image_id, ["holiday"])
        assert vectors(again)[str(gone)].shape == (768,)


def test_a_row_that_was_ingested_anew_keeps_its_place(
    filled: SearchDB, twin: Path, pictures: Path, tmp_path: Path
) -> None:
    gone = sorted(pictures.iterdir())[0]
    with filled.database.begin() as connection:
        connection.execute(
            sa.text("UPDATE images SET tags = '{holiday}' WHERE image = :i RETURNING id"), {"i": str(gone)}
        )
    shutil.move(gone, tmp_path / "aside")
    filled.switch_model(str(twin))
    shutil.move(tmp_path / "aside", gone)
    with SearchDB(filled.settings.model_copy(update={"model": str(twin)})) as again:
        again.ingest_files(pictures)
        with again.database.connect() as connection:
            before = connection.scalar(sa.text("SELECT id FROM images WHERE image = :i"), {"i": str(gone)})
        assert again.retry_unembedded().moved_back == 1
        with again.database.connect() as connection:
            row = connection.execute(sa.text("SELECT id, tags FROM images WHERE image = :i"), {"i": str(gone)}).one()
            assert connection.scalar(sa.select(sa.func.count()).select_from(unembedded_images)) == 0
        assert row.id == before
        assert "holiday" in row.tags


def test_many_unreadable_images_stop_the_switch(filled: SearchDB, twin: Path, pictures: Path) -> None:
    for path in sorted(pictures.iterdir())[: FEW // 2]:
        path.unlink()
    with pytest.raises(TooManyMissingError, match="--accept-missing"):
        filled.switch_model(str(twin))
    assert len(vectors(filled)) == FEW
    report = filled.switch_model(str(twin), accept_missing=True)
    assert len(report.unembedded) == FEW // 2
    assert len(vectors(filled)) == FEW - FEW // 2


def test_images_with_the_same_bytes_are_embedded_once(filled: SearchDB, twin: Path, pictures: Path) -> None:
    first = sorted(pictures.iterdir())[0]
    shutil.copy(first, pictures / "copy.png")
    filled.ingest_files(pictures)
    filled.switch_model(str(twin))
    found = vectors(filled)
    assert np.array_equal(found[str(first)], found[str(pictures / "copy.png")])


def test_a_switch_is_stopped_and_goes_on(filled: SearchDB, twin: Path) -> None:
    stop = threading.Event()
    report = filled.switch_model(str(twin), progress=lambda _status: stop.set(), stop=stop)
    assert not report.changed
    status = filled.switch_status()
    assert status is not None
    before = similarities(vectors(filled))
    assert filled.switch_model(str(twin)).changed
    assert np.abs(similarities(vectors(filled)) - before).max() < 1e-5


def test_a_switch_to_a_third_model_is_refused_while_one_is_open(
    filled: SearchDB, other: CLIPEmbedder, other_twin: Path
) -> None:
    begun(filled, other)
    with pytest.raises(SwitchError, match="--abort"):
        filled.switch_model(str(other_twin))
