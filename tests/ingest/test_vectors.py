"""Vectors from elsewhere in a collection: what is stored, what a second run does, and which model they belong to."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import embedding_models, images, ingest_failures
from searchdb.errors import (
    ConfigError,
    ModelMismatchError,
    ModelUnavailableError,
    UnverifiedModelError,
    VectorWidthError,
)
from searchdb.media.embed import CLIPEmbedder
from searchdb.vector_files import arrays
from tests.helpers.cli import run
from tests.helpers.tiny_models import demo_twin
from tests.vector_files.test_reading import export, urls, vectors

NAME = "somebody/made-this"


def save(path: Path, rows: int, width: int = 768, **columns: Any) -> Path:
    arrays: dict[str, Any] = {"embeddings": vectors(rows, width), "url": np.array(urls(rows)), **columns}
    np.savez(path, **arrays)
    return path


def rows_of(collection: SearchDB, *names: str) -> list[Any]:
    with collection.database.connect() as connection:
        return list(
            connection.execute(
                sa.select(*(images.c[name] for name in names)).order_by(images.c.image.collate("C").desc())
            )
        )


def model_of(collection: SearchDB) -> Any:
    with collection.database.connect() as connection:
        return connection.execute(sa.select(embedding_models).where(embedding_models.c.current)).one()


@pytest.fixture
def any_model(settings: Settings) -> Settings:
    """The settings without a named model, so that the collection's is used."""
    return Settings(database_url=settings.database_url, home=settings.home)


@pytest.fixture
def empty(any_model: Settings) -> Any:
    with SearchDB(any_model) as collection:
        yield collection


def test_vectors_of_a_model_that_is_not_here(empty: SearchDB, tmp_path: Path) -> None:
    report = empty.ingest_vectors(save(tmp_path / "v.npz", 30), model=NAME)
    assert (report.stored, report.unchanged, report.dimension, report.verified) == (30, 0, 768, False)
    model = model_of(empty)
    assert (model.name, model.dimension, model.verified) == (NAME, 768, False)
    [*_, first] = rows_of(empty, "image", "source", "width", "height", "sha256", "byte_size", "embedding")
    assert first[:-1] == (urls(1)[0], "vectors", None, None, None, None)
    np.testing.assert_array_equal(first.embedding, vectors(30, 768)[0])
    hits = empty.search(like=1, count=5, threshold=-1)
    exact = vectors(30, 768) @ vectors(30, 768)[0]
    assert [hit.image for hit in hits] == [urls(30)[at] for at in np.argsort(-exact)[1:6]]
    assert empty.searcher.get(1).width is None
    needs_model: list[dict[str, Any]] = [
        {"text": "a boat"},
        {"like": 1, "exclude": "a dog"},
        {"image": Image.new("RGB", (9, 9))},
    ]
    for what in needs_model:
        with pytest.raises(ModelUnavailableError, match=NAME):
            empty.search(**what)
    assert empty.build_index() is not None
    status = empty.status()
    assert (status.images, status.model, status.verified) == (30, NAME, False)


def test_the_same_rows_again_are_unchanged_and_changed_ones_are_stored(empty: SearchDB, tmp_path: Path) -> None:
    empty.ingest_vectors(save(tmp_path / "v.npz", 5), model=NAME)
    again = empty.ingest_vectors(tmp_path / "v.npz")
    assert (again.stored, again.unchanged) == (0, 5)
    ids = rows_of(empty, "id")
    captions = np.array(["", "a boat", "", "", ""])
    changed = empty.ingest_vectors(save(tmp_path / "v.npz", 5, caption=captions))
    assert (changed.stored, changed.unchanged) == (1, 4)
    assert rows_of(empty, "id") == ids
    assert empty.searcher.get(2).description == "a boat"


def test_bad_rows_are_recorded_and_vanish_once_they_are_good(empty: SearchDB, tmp_path: Path) -> None:
    made = vectors(4, 768)
    made[1] = 0
    np.savez(tmp_path / "v.npz", embeddings=made, url=np.array([*urls(3), urls(1)[0]]))
    report = empty.ingest_vectors(tmp_path / "v.npz", model=NAME)
    assert (report.stored, dict(report.failed)) == (2, {"InvalidVectorError": 1, "RepeatedReferenceError": 1})
    with empty.database.connect() as connection:
        failures = connection.execute(sa.select(ingest_failures).order_by(ingest_failures.c.id)).all()
    assert {each.image: (each.source, each.retryable) for each in failures} == {
        urls(2)[1]: ("vectors", False),
        "v.npz:4": ("vectors", False),
    }
    assert "row 2 of v.npz: the vector is zero" in failures[0].message + failures[1].message
    empty.ingest_vectors(save(tmp_path / "v.npz", 3))
    assert [each.image for each in empty.store.failures()] == ["v.npz:4"]


def test_a_dry_run_and_a_limit(empty: SearchDB, tmp_path: Path) -> None:
    report = empty.ingest_vectors(save(tmp_path / "v.npz", 5), model=NAME, dry_run=True)
    assert (report.stored, report.total) == (5, 5)
    assert rows_of(empty, "id") == []
    assert empty.ingest_vectors(tmp_path / "v.npz", model=NAME, limit=2).stored == 2


def test_which_model(empty: SearchDB, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model NAME"):
        empty.ingest_vectors(save(tmp_path / "v.npz", 2))
    with pytest.raises(ModelUnavailableError, match="no such folder"):
        empty.ingest_vectors(tmp_path / "v.npz", model="/nowhere/model")
    with pytest.raises(VectorWidthError, match=r"768 numbers.*512"):
        empty.ingest_vectors(tmp_path / "v.npz", model="demo")
    empty.ingest_vectors(tmp_path / "v.npz", model=NAME)
    with pytest.raises(ModelMismatchError, match="another/model"):
        empty.ingest_vectors(tmp_path / "v.npz", model="another/model")
    with pytest.raises(VectorWidthError, match="512 numbers"):
        empty.ingest_vectors(save(tmp_path / "w.npz", 2, 512), model=NAME)


def test_files_tell_what_the_vectors_do_not(collection: SearchDB, tmp_path: Path) -> None:
    there = tmp_path / "there.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a boat at sea"
    Image.new("RGB", (60, 40), "teal").save(there, exif=exif)
    made = vectors(3, 512)
    paths = [str(there), str(tmp_path / "gone.jpg"), str(tmp_path)]
    np.savez(tmp_path / "v.npz", embeddings=made, path=np.array(paths), width=np.array([7, 8, 9]))
    report = collection.ingest_vectors(tmp_path / "v.npz", model="demo")
    assert (report.stored, report.verified) == (3, True)
    here, gone, folder = rows_of(collection, "width", "height", "byte_size", "sha256", "modified_at", "description")
    assert (here.width, here.height, here.byte_size, here.description) == (
        40,
        60,
        there.stat().st_size,
        "a boat at sea",
    )
    assert (gone.width, gone.height, gone.byte_size, gone.sha256, gone.modified_at) == (8, None, None, None, None)
    assert folder.byte_size is None
    assert collection.ingest_vectors(tmp_path / "v.npz").unchanged == 3
    # An ingest of the files keeps the row of one that is unchanged, and reads one that was not there.
    Image.new("RGB", (30, 20), "red").save(tmp_path / "gone.jpg")
    report = collection.ingest_files(tmp_path / "there.jpg", tmp_path / "gone.jpg")
    assert (report.stored, report.unchanged) == (1, 1)
    here, gone, _ = rows_of(collection, "id", "width", "sha256", "embedding", "source")
    assert (gone.id, gone.width, gone.source) == (2, 30, "files")
    assert gone.sha256 is not None
    np.testing.assert_array_equal(here.embedding, made[0])
    assert collection.verify().to_json()["changed"] == 0


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that gives vectors of 768 numbers; tests only read it."""
    return demo_twin(tmp_path_factory.mktemp("models") / "twin", 768)


@pytest.fixture(scope="module")
def twins(twin: Path, originals: list[Path]) -> dict[Path, np.ndarray]:
    """Images of the demo album with the vectors of the twin."""
    paths = originals[:12]
    return dict(zip(paths, CLIPEmbedder(str(twin)).embed_images([Image.open(path) for path in paths]), strict=True))


def write_vectors(collection: SearchDB, vectors: dict[Path, np.ndarray], *, noise: float = 0.0) -> Path:
    made = np.stack(list(vectors.values()))
    made = made + noise * np.random.default_rng(0).normal(size=made.shape)
    target = collection.settings.home / "given.jsonl"
    lines = [{"image": str(path), "embedding": row.tolist()} for path, row in zip(vectors, made, strict=True)]
    target.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return target


def pretend_name(collection: SearchDB, name: str) -> None:
    """Give the unverified model another name, as if it had been ingested under it."""
    with collection.database.begin() as connection:
        connection.execute(sa.update(embedding_models).values(name=name))


def test_weights_are_adopted_when_the_model_is_there(
    empty: SearchDB,
    any_model: Settings,
    album: Path,
    twin: Path,
    twins: dict[Path, np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    empty.ingest_vectors(write_vectors(empty, twins), model=NAME)
    pretend_name(empty, str(twin.resolve()))
    with caplog.at_level(logging.INFO), SearchDB(any_model) as collection:
        hits = collection.search("a boat", count=3, threshold=-1)
        assert len(hits) == 3
        model = model_of(collection)
        assert model.verified
        assert model.weights_sha256 == collection.embedder.identity.weights_sha256
        assert "median cosine 0.99" in caplog.text or "median cosine 1.0" in caplog.text
        assert "belong to its weights from now on" in caplog.text
        assert collection.ingest_files(album, limit=14).stored >= 1


def test_a_model_that_gives_other_vectors_is_refused(
    empty: SearchDB, any_model: Settings, album: Path, twin: Path, twins: dict[Path, np.ndarray]
) -> None:
    empty.ingest_vectors(write_vectors(empty, twins, noise=0.05), model=NAME)
    pretend_name(empty, str(twin.resolve()))
    with SearchDB(any_model) as collection:
        for call in (lambda: collection.search("a boat"), lambda: collection.ingest_files(album, limit=20)):
            with pytest.raises(UnverifiedModelError, match=r"median cosine is 0\.\d+, and 0\.98"):
                call()
        assert len(collection.search(like=1, threshold=-1)) > 1
        assert not model_of(collection).verified


def test_a_folder_with_the_same_weights_is_adopted_after_a_comparison(
    empty: SearchDB, any_model: Settings, twin: Path, twins: dict[Path, np.ndarray], tmp_path: Path
) -> None:
    other = demo_twin(tmp_path / "other", 768, seed=2)
    empty.ingest_vectors(write_vectors(empty, twins), model=NAME)
    with SearchDB(any_model.model_copy(update={"model": str(other)})) as collection:
        with pytest.raises(ModelMismatchError):
            collection.search("a boat")
        assert not model_of(collection).verified
    with SearchDB(any_model.model_copy(update={"model": str(twin)})) as collection:
        assert len(collection.search("a boat", count=3, threshold=-1)) == 3
        model = model_of(collection)
        assert (model.name, model.verified) == (str(twin), True)
    with SearchDB(any_model) as collection:
        assert len(collection.search("a boat", count=3, threshold=-1)) == 3


def test_another_name_is_not_adopted_without_images_to_compare(
    empty: SearchDB, any_model: Settings, twin: Path, tmp_path: Path
) -> None:
    empty.ingest_vectors(save(tmp_path / "v.npz", 20), model=NAME)
    with SearchDB(any_model.model_copy(update={"model": str(twin)})) as collection:
        with pytest.raises(ModelMismatchError):
            collection.search("a boat")
        assert model_of(collection).name == NAME


def test_an_interrupted_ingest_leaves_whole_batches_and_goes_on(
    empty: SearchDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BATCH_ROWS", 10)

    def interrupt(report: Any) -> None:
        if report.stored == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        empty.ingest_vectors(save(tmp_path / "v.npz", 35), model=NAME, progress=interrupt)
    assert len(rows_of(empty, "id")) == 20
    report = empty.ingest_vectors(tmp_path / "v.npz", model=NAME)
    assert (report.stored, report.unchanged) == (15, 20)


def test_one_row_is_said_in_the_singular(settings: Settings, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", embeddings=2 * vectors(1, 512), url=np.array(urls(1)))
    dry = run(settings, "ingest", "vectors", tmp_path / "v.npz", "--model", "demo", "--dry-run")
    assert "1 row: 1 could be stored, 0 cannot be used" in dry.stderr
    result = run(settings, "ingest", "vectors", tmp_path / "v.npz", "--model", "demo")
    assert "1 row: 1 stored, 0 unchanged, 0 failed" in result.stderr
    assert "1 vector had another length than 1 and was scaled to it" in result.stderr


def test_a_file_without_rows_fails_with_the_reason(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").touch()
    result = run(settings, "ingest", "vectors", tmp_path / "v.jsonl", "--model", "demo")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "v.jsonl has no rows" in result.stderr


def test_values_of_exports_that_do_not_fit_are_stored_as_metadata(collection: SearchDB, tmp_path: Path) -> None:
    values = {"rendition": 5, "folder": ["a"], "video": 7, "video_time": -5, "source": "y" * 3000}
    collection.ingest_vectors(export(tmp_path / "v.jsonl", {"image": "/a.jpg", **values}, width=512), model="demo")
    assert rows_of(collection, "rendition", "folder", "video", "source", "metadata") == [
        (None, None, None, "vectors", values)
    ]
