"""Searching by an image that a visitor brings: the address that says it all, words and filters beside it, refusals."""

from __future__ import annotations

import re
from html import unescape
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from flask.testing import FlaskClient

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.hostile_files import scan_bomb
from tests.helpers.image_server import ImageServer, huge_png, make_image
from web import create_app
from web.backend import EXTENSION


def search(client: FlaskClient, data: bytes | None = None, **fields: str | list[str]) -> str:
    """Return the address that a search by this image leads to."""
    upload = {} if data is None else {"image": (BytesIO(data), "mine.png")}
    response = client.post("/search", data={**fields, **upload})
    assert response.status_code == 303, response.text
    return response.headers["Location"]


def shown(html: str) -> list[int]:
    return [int(found) for found in re.findall(r'<li class="cell r\d+" id="image-(\d+)"', html)]


@pytest.fixture(scope="module")
def stored(demo_collection: SearchDB) -> dict[int, Path]:
    """Some of the album's files, by id."""
    return {hit.id: Path(hit.image) for hit in demo_collection.search("a boat", count=3)}


def test_finds_the_image_itself_and_the_url_repeats_the_search(
    demo_client: FlaskClient, stored: dict[int, Path]
) -> None:
    for number, path in stored.items():
        address = search(demo_client, path.read_bytes())
        assert re.fullmatch(r"/\?vector=[\w=-]{688}", address.replace("%3D", "="))
        html = demo_client.get(address).text
        assert shown(html)[0] == number
        assert "Like your image" in html
        assert shown(demo_client.get(address).text) == shown(html)


def test_words_not_and_filters_combine_with_the_image(demo_client: FlaskClient, stored: dict[int, Path]) -> None:
    path = next(iter(stored.values()))
    address = search(
        demo_client, path.read_bytes(), q="in the snow", country="", tag=["boat"], page="3", **{"not": "cat"}
    )
    arguments = parse_qs(urlsplit(address).query)
    vector = arguments.pop("vector")
    assert arguments == {"q": ["in the snow"], "not": ["cat"], "tag": ["boat"]}
    html = demo_client.get(address).text
    assert f'name="vector" value="{vector[0]}"' in html
    hit = next(link for link in re.findall(r'class="open" href="([^"]+)"', html))
    detail = demo_client.get(unescape(hit)).text
    for part in ("to the text", "to your image", "to the excluded text"):
        assert part in detail
    assert "text_embedding(&#39;in the snow&#39;)" in detail
    without = [unescape(link) for link in re.findall(r'href="([^"]+)" aria-label="Remove your image', html)]
    assert without == ["/?q=in+the+snow&not=cat&tag=boat"]


def test_search_by_the_url_of_an_image(demo_client: FlaskClient, stored: dict[int, Path]) -> None:
    number, path = next(iter(stored.items()))
    with ImageServer() as server:
        server.bodies["/boat.jpg"] = path.read_bytes()
        address = search(demo_client, url=server.url("/boat.jpg"), q=" ")
    assert shown(demo_client.get(address).text)[0] == number


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"not a picture at all", 415, "image"),
        (b"", 415, "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "image"),
        (make_image() + b"<script>alert(1)</script>", 303, ""),
        (make_image()[:200], 422, "image"),
        (huge_png(), 413, "pixels"),
        (scan_bomb(), 413, "more than 200 scans"),
        (None, 422, "No image was chosen"),
    ],
    ids=["text", "empty", "svg", "polyglot", "truncated", "huge", "costly", "none"],
)
def test_a_file_that_is_not_an_image_is_refused_with_the_reason(
    demo_client: FlaskClient, data: bytes | None, status: int, message: str
) -> None:
    upload = {} if data is None else {"image": (BytesIO(data), "a/../<b>.png")}
    response = demo_client.post("/search", data={"q": "a boat", **upload})
    assert response.status_code == status
    if status == 303:
        return
    title = "Cannot search by this image" if data is None else "This file is not an image we can read"
    assert f"<h1>{title}</h1>" in response.text
    assert message in response.text
    assert "&lt;b&gt;" not in response.text
    assert 'value="a boat"' in response.text, "what was typed is still there"


def test_more_than_may_be_sent_is_too_large(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings.model_copy(update={"max_image_bytes": 1000}), embedder=embedder)
    client = app.test_client()
    response = client.post("/search", data={"image": (BytesIO(bytes(2000)), "a.png")})
    assert response.status_code == 413
    assert "1,000 bytes" in response.text
    response = client.post("/search", data=b"q=" + b"x" * 2**20, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 413
    app.extensions[EXTENSION].close()


def test_private_addresses_are_refused(demo_settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(demo_settings.model_copy(update={"allow_private_addresses": False}), embedder=embedder)
    with ImageServer() as server:
        for url in (server.url("/jpeg"), "http://169.254.169.254/latest", "http://[::1]/a.png", "file:///etc/passwd"):
            response = app.test_client().post("/search", data={"url": url})
            assert response.status_code == 422
            assert "root:" not in response.text
        assert not server.requests
    app.extensions[EXTENSION].close()


@pytest.mark.parametrize("vector", ["x", "A" * 688, "é" * 688, "-" * 687 + "="])
def test_an_invalid_vector_is_explained(demo_client: FlaskClient, vector: str) -> None:
    response = demo_client.get("/", query_string={"vector": vector})
    assert response.status_code == 400
    assert "search by the image again" in response.text


def test_nothing_of_the_uploaded_image_is_stored(demo_client: FlaskClient, demo_settings: Settings) -> None:
    before = {path for path in demo_settings.home.rglob("*") if path.is_file()}
    search(demo_client, make_image(seed=9))
    assert {path for path in demo_settings.home.rglob("*") if path.is_file()} == before
