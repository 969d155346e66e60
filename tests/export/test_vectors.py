"""Exported vectors come back: in every format a collection made of the file finds the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images
from searchdb.errors import ExportError
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import Hit
from tests.helpers.cli import output, run
from tests.helpers.sidecars import write_xmp
from tests.helpers.stored_videos import StoredVideos
from tests.ingest.test_vectors import NAME, save

FORMATS = ("csv", "tsv", "jsonl", "parquet", "npz")
KEPT = (
    "image", "source", "rendition", "modified_at", "taken_at", "source_id", "description", "tags", "width", "height",
    "credit", "camera", "country", "city", "latitude", "longitude", "sha256", "byte_size", "colour", "rating", "folder",
    "video", "video_time", "embedding",
)  # fmt: skip


def rows(collection: SearchDB, *tags: str) -> list[tuple[object, ...]]:
    columns = (images.c[name] for name in KEPT)
    statement = sa.select(*columns, images.c.metadata).where(images.c.tags.contains(list(tags)))
    statement = statement.order_by(images.c.image.collate("C"))
    with collection.database.connect() as connection:
        return [
            tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in row)
            for row in connection.execute(statement)
        ]


def companion_states(collection: SearchDB) -> list[str | None]:
    with collection.database.connect() as connection:
        return list(connection.scalars(sa.select(images.c.companion_state).order_by(images.c.id)))


def found(hits: list[Hit]) -> list[tuple[str, float]]:
    return sorted((hit.image, round(hit.similarity, 6)) for hit in hits)


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_trip(
    demo_collection: SearchDB, demo_settings: Settings, collection: SearchDB, tmp_path: Path, form: str
) -> None:
    target = tmp_path / f"v.{form}"
    assert output(run(demo_settings, "export", "--vectors", "--tag", "boat", "--to", target)) == ""
    report = collection.ingest_vectors(target, model="demo")
    exported = rows(demo_collection, "boat")
    assert len(exported) > 20
    assert (report.stored, report.failed.total(), report.rescaled) == (len(exported), 0, 0)
    assert rows(collection) == exported
    for text, tags in (("a red boat at sunset", ["boat"]), ("a dog", ["boat", "beach"])):
        hits = found(collection.search(text, tag=tags, count=20))
        assert hits
        assert hits == found(demo_collection.search(text, tag=tags, count=20))


def test_a_round_trip_into_the_same_collection_changes_nothing(
    collection: SearchDB, embedder: CLIPEmbedder, tmp_path: Path
) -> None:
    for name, colour in (("a b.jpg", "red"), ("b.jpg", "teal")):
        Image.new("RGB", (60, 40), colour).save(tmp_path / name)
    write_xmp(tmp_path / "b.jpg.xmp", rating=4)
    collection.ingest_files(tmp_path)
    for video in ("/videos/a boat.mp4", "https://example.org/dog.mp4"):
        StoredVideos(collection.database, embedder).add(video, {0: "a boat", 2.5: "a dog"})
    with collection.database.begin() as connection:
        connection.execute(sa.update(images).where(images.c.id == 1).values(description=" spaces around\n"))
    before, states = rows(collection), companion_states(collection)
    assert any(states)
    for form in FORMATS:
        target = tmp_path / f"v.{form}"
        collection.export(target, vectors=True)
        report = collection.ingest_vectors(target)
        assert (report.stored, report.unchanged, report.failed.total()) == (0, len(before), 0), form
        (tmp_path / "a b.jpg").touch()  # what the file is now is no matter of the export
    assert (rows(collection), companion_states(collection)) == (before, states)


def test_the_width_comes_from_the_vectors(settings: Settings, tmp_path: Path) -> None:
    with SearchDB(Settings(database_url=settings.database_url, home=settings.home)) as collection:
        collection.ingest_vectors(save(tmp_path / "v.npz", 3), model=NAME)
        collection.export(tmp_path / "x.parquet", vectors=True, columns=["image"])
        assert str(pq.read_schema(tmp_path / "x.parquet").field("embedding").type) == (
            "fixed_size_list<element: float>[768]"
        )
        collection.export(tmp_path / "x.npz", columns=["image"])
        collection.export(tmp_path / "none.npz", tag="nothing")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        assert archive["embedding"].shape == (3, 768)
        assert archive["image"].tolist() == [f"https://example.org/{n}.jpg" for n in range(3)]
    with np.load(tmp_path / "none.npz", allow_pickle=False) as archive:
        assert archive["image"].shape == (0,)


def test_options(demo_settings: Settings, demo_collection: SearchDB, tmp_path: Path) -> None:
    result = run(demo_settings, "export", "a boat", "--vectors", "--count", "1", "--format", "jsonl", "--columns", "id")
    assert list(json.loads(output(result))) == ["id", "embedding"]
    assert run(demo_settings, "export", "--vectors", "--to-folder", tmp_path).exit_code == 2
    with pytest.raises(ExportError, match="contact sheet has no vectors"):
        demo_collection.export(tmp_path / "x.html", vectors=True)
