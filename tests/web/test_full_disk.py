"""The application on a full disk: searches work, and uploads end with status 507 and a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.formparser import MultiPartParser

from searchdb.config import UPLOADS, Settings
from searchdb.db.database import Database
from searchdb.ingest.store import Store
from searchdb.media.bounded_folder import BoundedFolder
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.full_disk import allow_writes, fill, refuse_writes, small_disk
from tests.helpers.image_server import make_image
from tests.helpers.stored_images import StoredImages
from web import create_app
from web.backend import EXTENSION

AUTHORISED = {"Authorization": "Bearer token"}


@pytest.fixture
def app(settings: Settings, embedder: CLIPEmbedder) -> Iterator[Flask]:
    app = create_app(settings.model_copy(update={"api_token": SecretStr("token")}), embedder=embedder)
    yield app
    app.extensions[EXTENSION].close()


def add(client: FlaskClient, data: bytes) -> tuple[int, str]:
    response = client.post("/api/images", data={"image": (BytesIO(data), "a.png")}, headers=AUTHORISED)
    return response.status_code, response.get_json().get("detail", "")


def test_new_texts_are_found_on_page_and_api(
    client: FlaskClient, database: Database, stored_images: StoredImages
) -> None:
    stored_images.add("a red boat")
    refuse_writes(database, "query_embeddings", "image_sample", "relevance_scale")
    assert client.get("/?q=a+new+text").status_code == 200
    assert len(client.get("/api/search?q=another+new+text").get_json()["hits"]) == 1
    assert client.post("/api/embeddings", json={"texts": ["a third text"]}).status_code == 200


def test_an_upload_into_a_full_database(client: FlaskClient, database: Database, settings: Settings) -> None:
    refuse_writes(database, "images")
    status, detail = add(client, make_image())
    assert (status, "The disk of its database is full" in detail) == (507, True)
    assert not [path for path in (settings.home / UPLOADS).rglob("*") if path.is_file()]
    allow_writes(database, "images")
    assert add(client, make_image())[0] == 201


def test_an_upload_onto_a_full_disk(client: FlaskClient, database: Database, settings: Settings) -> None:
    with small_disk(settings.home / UPLOADS, 1):
        fill(settings.home / UPLOADS)
        status, detail = add(client, make_image())
        assert (status, "The disk for uploaded images is full" in detail) == (507, True)
        assert str(settings.home) not in detail
        assert [path.name for path in (settings.home / UPLOADS).rglob("*") if path.is_file()] == ["filler"]
    assert Store(database.engine).counts()["images"] == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_an_upload_that_cannot_be_written(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(self: BoundedFolder, path: Path, data: bytes) -> None:
        raise OSError(number, "as the system says", str(path))

    monkeypatch.setattr(BoundedFolder, "write", refuse)
    status, detail = add(client, make_image())
    assert status == (507 if number in (errno.ENOSPC, errno.EDQUOT) else 503)
    assert "folder for uploaded images" in detail or "disk for uploaded images" in detail
    assert Store(database.engine).counts()["images"] == 0


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), FileNotFoundError(2, "No usable temporary directory found")],
)
def test_an_upload_without_room_for_temporary_files(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(MultiPartParser, "start_file_streaming", refuse)
    status, detail = add(client, make_image())
    assert (status, "no space left for temporary files" in detail) == (507, True)
    page = client.post("/search", data={"image": (BytesIO(make_image()), "a.png")})
    assert page.status_code == 507
    assert "This server has no space left" in page.text


def test_another_error_of_the_system_is_an_error_of_the_server(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(MultiPartParser, "start_file_streaming", refuse)
    assert add(client, make_image())[0] == 500


def test_thumbnails_are_served_without_their_cache(
    client: FlaskClient, settings: Settings, stored_images: StoredImages
) -> None:
    path = stored_images.folder / "a.png"
    stored_images.draw(path.name)
    image_id = stored_images.add("a red boat", image=path)
    with small_disk(settings.home / "thumbnails", 1):
        fill(settings.home / "thumbnails")
        assert client.get(f"/images/{image_id}/thumbnail").mimetype == "image/webp"
