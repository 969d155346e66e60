"""The API that only those with the token may use: adding images, and removing them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.test import TestResponse

from searchdb.config import UPLOADS, Settings
from searchdb.db.database import Database
from searchdb.ingest.store import Store
from searchdb.media.bounded_folder import BLOCK
from tests.helpers.image_server import ImageServer, make_image
from web import create_app
from web.api.images import REBUILDER
from web.backend import EXTENSION

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.stored_images import StoredImages

TOKEN = "tokën for tests"
"""With a letter beyond ASCII, as a person may choose."""
AUTHORISED = {"Authorization": f"Bearer {TOKEN}".encode().decode("latin-1")}


@pytest.fixture
def app(settings: Settings, embedder: CLIPEmbedder) -> Iterator[Flask]:
    app = create_app(settings.model_copy(update={"api_token": SecretStr(TOKEN)}), embedder=embedder)
    yield app
    app.extensions[REBUILDER].join()
    app.extensions[EXTENSION].close()


def add(client: FlaskClient, data: bytes, name: str = "boat.png", **said: Any) -> TestResponse:
    return client.post("/api/images", data={"image": (BytesIO(data), name), **said}, headers=AUTHORISED)


def stored(database: Database) -> int:
    return Store(database.engine).counts()["images"]


def files(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.home / UPLOADS).rglob("*") if path.is_file())


# --- Who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer nonsense", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xff"],
)
def test_without_the_token_nothing_is_written(
    client: FlaskClient, database: Database, settings: Settings, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header.encode().decode("latin-1")}
    for response in (
        client.post("/api/images", data={"image": (BytesIO(make_image()), "a.png")}, headers=headers),
        client.post("/api/images", json={"url": "https://pictures.example/a.jpg"}, headers=headers),
        client.delete("/api/images/1", headers=headers),
    ):
        assert response.status_code == 401
        assert response.mimetype == "application/problem+json"
        assert response.headers["WWW-Authenticate"].lower().startswith("bearer")
        assert TOKEN not in response.text
    assert stored(database) == 0
    assert files(settings) == []


def test_where_no_token_is_set_writing_is_off_and_says_so(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings, embedder=embedder)
    for headers in ({}, AUTHORISED, {"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        for response in (
            app.test_client().post("/api/images", data={"image": (BytesIO(make_image()), "a.png")}, headers=headers),
            app.test_client().delete("/api/images/1", headers=headers),
        ):
            assert response.status_code == 403
            assert "SEARCHDB_API_TOKEN" in response.get_json()["detail"]
    app.extensions[EXTENSION].close()


# --- Adding ---------------------------------------------------------------------------------------


def test_an_upload_is_stored_found_and_shown(client: FlaskClient, settings: Settings) -> None:
    data = make_image("PNG", seed=3)
    response = add(
        client,
        data,
        "photos/my boat.png",
        description="A boat at sunset",
        tags=["sea", "evening"],
        taken_at="2024-05-31T18:30:00+02:00",
        latitude="48.5",
        longitude="-3.25",
        rating="4",
        metadata=json.dumps({"album": "Holidays"}),
    )
    assert response.status_code == 201, response.text
    row = response.get_json()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (row["sha256"], row["name"], row["source"]) == (sha256, "my boat.png", "api")
    assert (row["description"], row["tags"]) == ("A boat at sunset", ["sea", "evening"])
    assert (row["taken_at"], row["latitude"], row["longitude"]) == ("2024-05-31T16:30:00Z", 48.5, -3.25)
    assert (row["rating"], row["folder"]) == (4, None)
    assert row["metadata"]["album"] == "Holidays"
    assert response.headers["Location"] == f"/api/images/{row['id']}"
    assert files(settings) == [f"{sha256}.png"]
    assert client.get(response.headers["Location"]).get_json() == row
    with client.get(row["url"]) as shown:
        assert (shown.data, shown.mimetype) == (data, "image/png")
    assert client.get(row["thumbnail_url"]).mimetype == "image/webp"
    found = client.post("/api/search", data={"image": (BytesIO(data), "a.png")}).get_json()
    assert found["hits"][0]["id"] == row["id"]
    assert found["hits"][0]["similarity"] == pytest.approx(1, abs=1e-3)


def test_the_same_bytes_again_are_the_same_row(client: FlaskClient, database: Database, settings: Settings) -> None:
    first = add(client, make_image(), description="The first")
    again = add(client, make_image(), "other.png", description="The second")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.get_json() == first.get_json()
    assert stored(database) == len(files(settings)) == 1


def test_an_image_added_by_url_is_stored_by_its_url(client: FlaskClient, settings: Settings) -> None:
    with ImageServer() as server:
        url = server.url("/ok.jpg")
        first = client.post("/api/images", json={"url": url, "description": "A stripe"}, headers=AUTHORISED)
        again = client.post("/api/images", json={"url": url}, headers=AUTHORISED)
        assert server.requests["/ok.jpg"] == 1
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.get_json() == again.get_json()
    assert (first.get_json()["url"], first.get_json()["description"]) == (url, "A stripe")
    assert files(settings) == []


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"latitude": "48"}, "body"),
        ({"latitude": "91", "longitude": "0"}, "latitude"),
        ({"taken_at": "yesterday"}, "taken_at"),
        ({"metadata": "[1]"}, "metadata"),
        ({"metadata": "{"}, "metadata"),
        ({"colour": "red"}, "colour"),
        ({"camera": "x" * 301}, "camera"),
        ({"rating": "6"}, "rating"),
        ({"tags": [""]}, "tags.0"),
        ({"credit_url": "javascript:alert(1)"}, "credit_url"),
        ({"description": ["one", "two"]}, "description"),
    ],
)
def test_invalid_metadata_is_named(
    client: FlaskClient, database: Database, settings: Settings, said: dict[str, Any], field: str
) -> None:
    response = add(client, make_image(), **said)
    assert response.status_code == 422, response.text
    assert [error["field"] for error in response.get_json()["errors"]] == [field]
    assert stored(database) == len(files(settings)) == 0


def test_a_url_that_cannot_be_fetched_is_refused(client: FlaskClient, database: Database) -> None:
    with ImageServer() as server:
        for path, status in (("/404", 422), ("/html", 415), ("/nowhere", 422)):
            response = client.post("/api/images", json={"url": server.url(path)}, headers=AUTHORISED)
            assert response.status_code == status, (path, response.text)
            assert [error["field"] for error in response.get_json()["errors"]] == ["url"]
    assert stored(database) == 0
    assert Store(database.engine).counts()["failed"] == 0


def test_uploads_have_a_bound_in_bytes(settings: Settings, database: Database, embedder: CLIPEmbedder) -> None:
    limits = {"api_token": SecretStr(TOKEN), "max_uploads_bytes": 3 * BLOCK}
    app = create_app(settings.model_copy(update=limits), embedder=embedder)
    pictures = [make_image(size=(40 + n, 40)) for n in range(8)]
    try:
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda data: add(app.test_client(), data), pictures))
        kept = [answer for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code == 507]
        assert (len(kept), len(refused), len(files(settings)), stored(database)) == (3, 5, 3, 3)
        assert "SEARCHDB_MAX_UPLOADS_BYTES" in refused[0].get_json()["detail"]
        assert str(settings.home) not in refused[0].text
        again = create_app(settings.model_copy(update=limits), embedder=embedder)  # as after a restart
        client = again.test_client()
        left_out = next(data for data, answer in zip(pictures, answers, strict=True) if answer.status_code == 507)
        assert add(client, left_out).status_code == 507
        assert client.delete(f"/api/images/{kept[0].get_json()['id']}", headers=AUTHORISED).status_code == 204
        assert add(client, left_out).status_code == 201
        assert add(client, left_out).status_code == 200
        again.extensions[REBUILDER].join()
        again.extensions[EXTENSION].close()
    finally:
        app.extensions[REBUILDER].join()
        app.extensions[EXTENSION].close()


# --- Removing -------------------------------------------------------------------------------------


def test_removing_takes_row_file_and_thumbnail(client: FlaskClient, database: Database, settings: Settings) -> None:
    row = add(client, make_image()).get_json()
    client.get(row["thumbnail_url"])
    thumbnails = settings.home / "thumbnails"
    assert len(list(thumbnails.rglob("*.webp"))) == 1
    response = client.delete(f"/api/images/{row['id']}", headers=AUTHORISED)
    assert (response.status_code, response.data) == (204, b"")
    assert stored(database) == len(files(settings)) == len(list(thumbnails.rglob("*.webp"))) == 0
    for path in (f"/api/images/{row['id']}", row["url"], row["thumbnail_url"]):
        assert client.get(path).status_code == 404
    assert client.delete(f"/api/images/{row['id']}", headers=AUTHORISED).status_code == 404


def test_removing_does_not_delete_a_file_of_a_folder(client: FlaskClient, stored_images: StoredImages) -> None:
    image = stored_images.draw("mine.png")
    number = stored_images.add("mine", image=image)
    assert client.delete(f"/api/images/{number}", headers=AUTHORISED).status_code == 204
    assert image.exists()
