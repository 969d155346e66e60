"""Where a switch reads images again: videos, their previews, renditions of URLs, uploads, vectors from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import SourceItem
from tests.helpers.image_server import ImageServer, make_image
from tests.helpers.videos import draw_scene, draw_video
from tests.switch.test_run import similarities, vectors

SCENES = ("cat", "boat", "mountain")


@pytest.fixture
def local(settings: Settings, embedder: CLIPEmbedder) -> Iterator[SearchDB]:
    with SearchDB(settings.model_copy(update={"dtype": "float32"})) as collection:
        collection.embedder = embedder
        yield collection


@pytest.fixture
def film(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    folder.mkdir()
    return draw_video(folder / "film.mp4", [(draw_scene(kind, size=192), 3) for kind in SCENES], fps=8)


@pytest.mark.parametrize("gone", [False, True], ids=["video", "preview"])
def test_frames_are_read_at_their_times_or_from_their_previews(
    local: SearchDB, film: Path, twin: Path, gone: bool
) -> None:
    assert local.ingest_files(film.parent).frames == len(SCENES)
    before = vectors(local)
    if gone:
        film.unlink()
    report = local.switch_model(str(twin))
    assert report.unembedded == []
    after = vectors(local)
    assert list(after) == list(before)
    # A preview is smaller than the frame, and compressed.
    assert np.abs(similarities(after) - similarities(before)).max() < (0.05 if gone else 1e-5)


def test_a_frame_without_video_and_preview_is_left_out(local: SearchDB, film: Path, twin: Path) -> None:
    local.ingest_files(film.parent)
    film.unlink()
    with local.database.begin() as connection:
        connection.execute(
            sa.text("DELETE FROM frame_previews WHERE image_id = (SELECT id FROM images WHERE video_time = 3)")
        )
    report = local.switch_model(str(twin), accept_missing=True)
    assert [(each.image, each.error) for each in report.unembedded] == [(f"{film}#t=3", "FileUnreadableError")]
    assert list(vectors(local)) == [f"{film}#t=0", f"{film}#t=6"]


def test_renditions_uploads_and_vectors_from_elsewhere(local: SearchDB, twin: Path) -> None:
    with ImageServer() as server:
        for name in ("/small.jpg", "/elsewhere.jpg"):
            server.bodies[name] = make_image(seed=len(name))
        photo = SourceItem(
            image=server.url("/photo.jpg"), source="urls", rendition=server.url("/small.jpg"), tags=("kept",)
        )
        assert local.ingest([photo]).stored == 1
        upload = local.settings.home / "uploads" / "ab" / "upload.png"
        upload.parent.mkdir(parents=True)
        upload.write_bytes(make_image("PNG", seed=5))
        assert local.ingest([SourceItem(image=str(upload), source="api")]).stored == 1
        with local.database.begin() as connection:
            # As an import of vectors stores it: with a reference and a vector, and nothing of a file.
            connection.execute(
                sa.text(
                    "INSERT INTO images (image, source, embedding_model_id, embedding) "
                    "SELECT :image, 'vectors', embedding_model_id, embedding FROM images LIMIT 1"
                ),
                {"image": server.url("/elsewhere.jpg")},
            )
        before = vectors(local)
        assert local.switch_model(str(twin)).unembedded == []
        after = vectors(local)
        assert after.keys() == before.keys()
        assert (server.requests["/photo.jpg"], server.requests["/small.jpg"]) == (0, 2)
        assert server.requests["/elsewhere.jpg"] == 1
        assert str(upload) in after
        assert {vector.shape for vector in after.values()} == {(768,)}
