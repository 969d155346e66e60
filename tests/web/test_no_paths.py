"""No page, answer or header tells a visitor where the collection's files are on the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from PIL import Image
from pydantic import SecretStr

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.tables import images, ingest_failures
from searchdb.media.embed import CLIPEmbedder
from searchdb.records import StoredImage
from searchdb.watch.registry import Registration
from tests.helpers.databases import NewSettings
from tests.helpers.photo_files import dng, encoded_as, heic, jpeg
from tests.helpers.sidecars import write_takeout, write_xmp
from tests.helpers.videos import cut, draw_scene, draw_video
from web import create_app
from web.backend import EXTENSION

PRIVATE = "the private place"
"""The folder in which the named folder is: its name may be nowhere. Paths with spaces are hard to tell from text."""
FOUND = {"boat.jpg", "old.heic", "lone.dng", "scan.tif", "negative.jxl", "live.jpg", "pair.jpg", "clip.mp4"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind, some of them damaged."""
    folder = tmp_path_factory.mktemp("disk") / PRIVATE / "Bilder" / "See & Meer"
    folder.mkdir(parents=True)
    scene = draw_scene("boat", size=96)
    for name, kind in {"boat.jpg": "JPEG", "old.heic": "HEIC", "scan.tif": "TIFF", "negative.jxl": "JPEG XL"}.items():
        (folder / name).write_bytes(encoded_as(scene, kind))
    write_xmp(folder / "boat.xmp", rating=4, text="ein Boot", keyword="sea")
    write_takeout(folder / "old.heic.json")
    (folder / "scan.xmp").write_text("<x:xmp")
    large = scene.resize((640, 480))
    (folder / "lone.dng").write_bytes(dng(large, preview=large))
    (folder / "pair.jpg").write_bytes(jpeg(scene))
    (folder / "pair.dng").write_bytes(dng(large, preview=large))
    (folder / "live.jpg").write_bytes(jpeg(scene.rotate(90)))
    (folder / "live.mov").write_bytes(draw_video(folder / "x.mov", [((9, 90, 9), 1.0)], size=(64, 48)).read_bytes())
    (folder / "x.mov").unlink()
    draw_video(folder / "clip.mp4", [(scene, 1.0), (draw_scene("cat", size=96), 1.0)])
    cut(draw_video(folder / "half.mp4", [(scene, 2.0)]), 0.4)
    (folder / "broken.heic").write_bytes(heic(scene)[:300])
    (folder / "no image.jpg").write_text("<svg onload=alert(1)>")
    (folder / "empty.png").write_bytes(b"")
    return folder.parent


@pytest.fixture(scope="module")
def collection(
    new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory, mixed: Path
) -> Iterator[tuple[SearchDB, Settings]]:
    with new_settings(tmp_path_factory.mktemp("home")) as settings, SearchDB(settings) as opened:
        opened.ingest_files(mixed)
        yield opened, settings


@pytest.fixture(scope="module")
def client(collection: tuple[SearchDB, Settings], embedder: CLIPEmbedder) -> Iterator[FlaskClient]:
    app = create_app(collection[1].model_copy(update={"api_token": SecretStr("secret")}), embedder=embedder)
    yield app.test_client()
    app.extensions[EXTENSION].close()


def stored(opened: SearchDB) -> list[StoredImage]:
    return [opened.searcher.get(each) for each in ids_of(opened)]


def ids_of(opened: SearchDB) -> list[int]:
    with opened.database.connect() as connection:
        return list(connection.scalars(sa.select(images.c.id).order_by(images.c.id)))


def paths(ids: list[int], folder: str) -> Iterator[str]:
    """Yield the addresses of all pages and answers, and of some that do not exist."""
    yield from ("/", "/random", "/status", "/metrics", "/readyz", "/healthz", "/api/", "/api/openapi.json")
    yield from ("/api/random", "/images/999999", "/api/images/999999", "/nowhere", f"/{quote(folder)}")
    for search in ("q=a+boat", "like=1", f"q=a&folder={quote('Bilder/See & Meer')}", "q=a&rating=9", "q=a&folder=/etc"):
        for page in ("/", "/api/search"):
            yield f"{page}?{search}&threshold=-1&{'page=1' if page == '/' else 'count=100'}"
    for number in ids:
        yield f"/images/{number}?q=a+boat&threshold=-1"
        yield f"/api/images/{number}"
        for part in ("file", "thumbnail", "preview"):
            yield f"/images/{number}/{part}"


def test_no_answer_has_a_path_of_the_server(
    collection: tuple[SearchDB, Settings], client: FlaskClient, mixed: Path
) -> None:
    opened, settings = collection
    found = stored(opened)
    assert {Path(each.video or each.image).name for each in found} >= FOUND
    assert {key for each in found for key in each.metadata} >= {"raw", "live", "companion_error", "video"}
    with opened.database.connect() as connection:
        assert len(connection.scalars(sa.select(ingest_failures.c.image)).all()) >= 3
    secrets = [PRIVATE, quote(PRIVATE), PRIVATE.replace(" ", "+"), str(mixed.parent.parent), str(settings.home)]
    answers = 0
    with Registration(opened.database.engine, [str(mixed)]):
        for path in paths([each.id for each in found], str(mixed)):
            with client.get(path) as response:
                said = response.data + json.dumps(list(response.headers)).encode()
                assert not [each for each in secrets if each.encode() in said], (path, said[-2000:])
                assert response.status_code < 500, path
                answers += 1
    assert answers > 5 * len(found)


def test_no_error_has_a_path_of_the_server(
    collection: tuple[SearchDB, Settings], client: FlaskClient, mixed: Path
) -> None:
    """Of images whose files have gone, and of uploads that name a path."""
    name = f"{mixed}/evil.jpg"
    token = {"Authorization": "Bearer secret"}
    for data in (b"<svg>", encoded_as(Image.new("RGB", (9, 9)), "JPEG")):
        for path in ("/api/search", "/api/embeddings", "/search", "/api/images"):
            field = "images" if path.endswith("embeddings") else "image"
            response = client.post(path, data={field: (BytesIO(data), name)}, headers=token)
            assert PRIVATE not in f"{response.text}{response.headers}", path
    hidden = mixed.rename(mixed.with_name("moved"))
    try:
        for number in ids_of(collection[0]):
            for path in (f"/images/{number}", f"/images/{number}/file", f"/images/{number}/preview"):
                with client.get(path) as response:
                    assert PRIVATE.encode() not in response.data + str(response.headers).encode(), path
    finally:
        hidden.rename(mixed)
