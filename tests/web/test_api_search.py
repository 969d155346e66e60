"""The API that everybody may use: searching, looking up, embedding, and what it says of itself and of mistakes."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from searchdb.config import Settings
from tests.helpers.image_server import ImageServer, make_image
from web import create_app
from web.api.requests import MAX_IMAGES, MAX_TEXTS
from web.backend import EXTENSION

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.apps import MakeApp
    from tests.helpers.stored_images import StoredImages


def good(response: TestResponse, status: int = 200) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.mimetype == "application/json"
    return json.loads(response.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def problem(response: TestResponse, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    assert response.json is not None
    assert response.json["status"] == status
    assert response.json["title"]
    assert response.json["detail"].endswith(".")
    return response.json


def fields(response: TestResponse) -> set[str]:
    return {error["field"] for error in problem(response, 422)["errors"]}


def upload(data: bytes, name: str = "picture.png") -> tuple[BytesIO, str]:
    return BytesIO(data), name


# --- Searching ------------------------------------------------------------------------------------


def test_search_by_words(client: FlaskClient, stored_images: StoredImages) -> None:
    boat = stored_images.add("a boat at sunset", country="Chile", tags=["sea"], metadata={"album": "Holidays"})
    stored_images.add("a dog on a bench")
    found = good(client.get("/api/search", query_string={"q": "a boat at sunset", "threshold": -1}))
    assert (found["count"], found["offset"], found["next"], found["vector"]) == (2, 0, None, None)
    hit = found["hits"][0]
    assert (hit["id"], hit["description"], hit["country"], hit["tags"]) == (boat, "a boat at sunset", "Chile", ["sea"])
    assert hit["similarity"] == pytest.approx(1, abs=1e-5)
    assert hit["parts"] is None
    assert hit["name"] == "a-boat-at-sunset.png"
    assert hit["metadata"] == {"album": "Holidays"}
    assert (hit["url"], hit["page"]) == (f"/images/{boat}/file", f"/images/{boat}")
    assert client.get(hit["thumbnail_url"]).status_code == 200
    assert len(hit["sha256"]) == 64


def test_filters_are_those_of_the_library(client: FlaskClient, stored_images: StoredImages) -> None:
    boat = stored_images.add(
        "a boat", country="Chile", tags=["sea", "red"], latitude=-33.0, longitude=-71.6, taken_at="2024-05-31"
    )
    dog = stored_images.add("a dog", country="Peru", tags=["sea"], camera="Canon")

    def ids(**filters: Any) -> list[int]:
        found = good(client.get("/api/search", query_string={"q": "a boat", "threshold": -1, **filters}))
        return [hit["id"] for hit in found["hits"]]

    assert ids() == [boat, dog]
    assert ids(country=["chile", "Norway"]) == [boat]
    assert ids(country=["chile", "peru"]) == [boat, dog]
    assert ids(tag=["sea", "red"]) == [boat]
    assert ids(any_tag=["red", "none"]) == [boat]
    assert ids(camera="canon") == [dog]
    assert ids(taken_after="2024-05-01", taken_before="2024-06-01") == [boat]
    assert ids(near="-33,-71", radius_km=100) == [boat]
    assert ids(exclude_id=[boat]) == [dog]
    assert ids(words="dog") == [dog]
    assert ids(orientation="portrait") == []
    assert ids(min_size=41) == []
    assert ids(source="urls") == []


def test_next_leads_to_the_last_hit_and_no_hit_comes_twice(client: FlaskClient, stored_images: StoredImages) -> None:
    known = [stored_images.add(f"a boat number {number}", tags=["sea"]) for number in range(7)]
    url: str | None = "/api/search?q=a+boat&count=3&tag=sea&threshold=-1"
    found: list[int] = []
    while url is not None:
        page = good(client.get(url))
        found += [hit["id"] for hit in page["hits"]]
        url = page["next"]
    assert sorted(found) == known


def test_like_and_parts(client: FlaskClient, stored_images: StoredImages) -> None:
    boat, ship, dog = (stored_images.add(text) for text in ("a boat", "a boat at sea", "a dog"))
    found = good(client.get("/api/search", query_string={"like": boat, "not": "a dog", "threshold": -1}))
    assert {hit["id"] for hit in found["hits"]} == {ship, dog}
    assert found["hits"][0]["id"] == ship
    assert found["hits"][0]["parts"].keys() == {"like", "not"}
    assert "no such image" in problem(client.get("/api/search?like=999"), 404)["detail"]


def test_several_liked_and_disliked_images(client: FlaskClient, stored_images: StoredImages) -> None:
    texts = ("a boat", "a boat at sea", "a red boat", "a dog", "a cat")
    boat, ship, red, dog, cat = (stored_images.add(text) for text in texts)
    asked = {"q": "red", "like": [boat, ship], "unlike": [dog], "text_weight": 0.6, "threshold": -1, "count": 1}
    found = good(client.get("/api/search", query_string=asked))
    assert [hit["id"] for hit in found["hits"]] == [red]
    assert found["hits"][0]["parts"].keys() == {"text", "like", "unlike"}
    assert f"like={boat}&like={ship}&unlike={dog}&text_weight=0.6" in found["next"]
    assert [hit["id"] for hit in good(client.get(found["next"]))["hits"]] == [cat]


def test_search_by_an_image_continues_by_its_vector(client: FlaskClient, stored_images: StoredImages) -> None:
    for number in range(5):
        stored_images.add(f"a boat number {number}")
    data = make_image("PNG")
    first = good(client.post("/api/search", data={"image": upload(data), "count": "2", "threshold": "-1"}))
    assert first["count"] == 2
    assert first["vector"] in first["next"]
    second = good(client.get(first["next"]))
    assert second["vector"] == first["vector"]
    whole = good(client.get("/api/search", query_string={"vector": first["vector"], "threshold": -1}))
    assert [hit["id"] for hit in first["hits"] + second["hits"]] == [hit["id"] for hit in whole["hits"][:4]]


def test_search_by_a_url_and_words(client: FlaskClient, stored_images: StoredImages) -> None:
    stored_images.add("a boat")
    with ImageServer() as server:
        body = {"url": server.url("/ok.jpg"), "q": "a boat", "threshold": -1, "source": ["files"]}
        found = good(client.post("/api/search", json=body))
    assert found["hits"][0]["parts"].keys() == {"text", "image"}


# --- Single images ------------------------------------------------------------------------------


def test_image_by_id(client: FlaskClient, stored_images: StoredImages) -> None:
    boat = stored_images.add("a boat", latitude=float("nan"), longitude=1.0)
    found = good(client.get(f"/api/images/{boat}"))
    assert (found["id"], found["description"], found["latitude"]) == (boat, "a boat", None)
    assert "similarity" not in found
    for unknown in ("999", "0", "-1", "1.5", "9223372036854775808", "9" * 400, "boat"):
        problem(client.get(f"/api/images/{unknown}"), 404)


def test_image_url_is_its_original_url(client: FlaskClient, stored_images: StoredImages) -> None:
    url = stored_images.add(
        "a boat", image="https://ann:hush@pictures.example/boat.jpg?w=1", source="urls", source_id="a/b"
    )
    found = good(client.get(f"/api/images/{url}"))
    assert found["url"] == "https://pictures.example/boat.jpg?w=1"
    assert found["source_id"] == "a/b"
    assert "hush" not in json.dumps(found)


def test_no_response_names_a_folder_of_this_server(client: FlaskClient, stored_images: StoredImages) -> None:
    noted = {"from": f"{stored_images.folder}/boat.png", "deep": [{"path": str(stored_images.folder)}]}
    boat = stored_images.add("a boat", source_id="the private folder/2024/a-boat.png", metadata=noted)
    for response in (client.get(f"/api/images/{boat}"), client.get("/api/search?q=boat"), client.get("/api/random")):
        assert "boat.png" in response.text
        assert "/" + stored_images.folder.parts[1] + "/" not in response.text
        assert "2024" not in response.text.replace("ingested_at", "")[: response.text.find("ingested_at")]


def test_random_images(client: FlaskClient, stored_images: StoredImages) -> None:
    assert good(client.get("/api/random")) == {"images": []}
    known = {stored_images.add(f"a boat {number}") for number in range(4)}
    assert {image["id"] for image in good(client.get("/api/random?count=9"))["images"]} == known
    assert len(good(client.get("/api/random?count=2"))["images"]) == 2


# --- Embeddings -----------------------------------------------------------------------------------


def test_embeddings_of_texts(client: FlaskClient, embedder: CLIPEmbedder) -> None:
    texts = ["a boat", "a dog on a bench"]
    answer = good(client.post("/api/embeddings", json={"texts": texts}))
    assert answer["model"] == "demo"
    np.testing.assert_allclose(answer["embeddings"], embedder.embed_texts(texts), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(answer["embeddings"], axis=1), 1, atol=1e-5)


def test_embeddings_of_images(client: FlaskClient, embedder: CLIPEmbedder) -> None:
    files = [make_image("PNG", seed=seed, size=(300, 200)) for seed in (1, 2)]
    expected = embedder.embed_images([Image.open(BytesIO(data)).convert("RGB") for data in files])
    encoded = [base64.b64encode(files[0]).decode(), base64.encodebytes(files[1]).decode()]
    as_json = good(client.post("/api/embeddings", json={"images": encoded}))
    as_form = good(client.post("/api/embeddings", data={"images": [upload(data) for data in files]}))
    for answer in (as_json, as_form):
        np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"texts": ["a"], "images": ["a"]}, "body"),
        ({"texts": []}, "texts"),
        ({"texts": ["a"] * (MAX_TEXTS + 1)}, "texts"),
        ({"images": ["a"] * (MAX_IMAGES + 1)}, "images"),
        ({"texts": ["a", ""]}, "texts.1"),
        ({"texts": "a"}, "texts"),
        ({"images": ["%%%"]}, "images.0"),
        ({"texts": ["a"], "more": 1}, "more"),
    ],
)
def test_invalid_embedding_requests_are_refused(demo_client: FlaskClient, body: dict[str, Any], field: str) -> None:
    assert fields(demo_client.post("/api/embeddings", json=body)) == {field}


def test_embeddings_of_files_that_are_not_images(client: FlaskClient) -> None:
    texts = [base64.b64encode(data).decode() for data in (make_image(), b"<svg></svg>")]
    said = problem(client.post("/api/embeddings", json={"images": texts}), 415)
    assert said["errors"][0]["field"] == "images.1"
    assert "SVG" in said["detail"]


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("q=a&where=true", "where"),
        ("q=a&colour=red", "colour"),
        ("q=a&q=b", "q"),
        ("q=", "q"),
        ("q=a&count=0", "count"),
        ("q=a&count=ten", "count"),
        ("q=a&count=1001", "count"),
        ("q=a&count=" + "9" * 5000, "count"),
        ("q=a&offset=-1", "offset"),
        ("q=a&threshold=nan", "threshold"),
        ("q=a&threshold=inf", "threshold"),
        ("q=a&threshold=2", "threshold"),
        ("like=99999999999999999999", "like"),
        ("like=1.5", "like"),
        ("like=1&like=0", "like.1"),
        ("&".join(f"like={n}" for n in range(1, 102)), "like"),
        ("like=1&like=2&unlike=2", "unlike"),
        ("q=a&like=1&text_weight=1.5", "text_weight"),
        ("q=a&text_weight=0.5", "text_weight"),
        ("like=1&min_relevance=0.5", "min_relevance"),
        ("q=a&orientation=round", "orientation"),
        ("q=a&taken_after=yesterday", "taken_after"),
        ("q=a&near=1,2", "near"),
        ("q=a&near=north&radius_km=1", "near"),
        ("q=a&radius_km=-1", "radius_km"),
        ("q=a&tag=%00", "tag"),
        ("q=" + "a" * 7000, "q"),
    ],
)
def test_wrong_parameters_are_named(demo_client: FlaskClient, query: str, field: str) -> None:
    assert fields(demo_client.get(f"/api/search?{query}")) == {field}


@pytest.mark.parametrize("query", ["", "not=a", "q=%20", "q=a&not=a", "vector=abc", "q=a&count=600&offset=600"])
def test_invalid_queries_are_refused(demo_client: FlaskClient, query: str) -> None:
    problem(demo_client.get(f"/api/search?{query}"), 422)


@pytest.mark.parametrize("text", ["\x00", "\x1b[31mred\x07", "a\x00b", "\ufffe", "%ff%fe", "\u202eevil", "💥" * 400])
def test_odd_characters_are_searched_for(demo_client: FlaskClient, text: str) -> None:
    response = demo_client.get("/api/search", query_string={"q": text, "words": "x" + text.replace("\x00", "")[:100]})
    assert response.status_code in (200, 422)


@pytest.mark.parametrize("body", [b"{", b"", b'{"url": "\xff"}', b'{"url": "\\ud800"}', b"[" * 100_000])
def test_invalid_json_is_refused(demo_client: FlaskClient, body: bytes) -> None:
    for path in ("/api/search", "/api/embeddings"):
        response = demo_client.post(path, data=body, content_type="application/json")
        assert "not JSON" in problem(response, 400)["detail"]


def test_values_in_json_are_of_their_types(client: FlaskClient) -> None:
    body = {"url": "https://pictures.example/a.jpg", "count": "3", "tag": "sea", "threshold": True, "colour": 1}
    assert fields(client.post("/api/search", json=body)) == {"count", "tag", "threshold", "colour"}


def test_bodies_of_other_content_types_are_refused(client: FlaskClient) -> None:
    for path in ("/api/search", "/api/embeddings"):
        problem(client.post(path, data=b"x", content_type="text/plain"), 415)
        problem(client.post(path), 415)
    assert fields(client.post("/api/search", data={"q": "a"}, content_type="multipart/form-data")) == {"image"}
    assert fields(client.post("/api/search", data={"image": "a"}, content_type="multipart/form-data")) == {"image"}
    assert fields(client.post("/api/search", data={"image": upload(b""), "other": upload(b"")})) == {"other"}


def test_files_that_are_not_images_are_refused(client: FlaskClient) -> None:
    assert "SVG" in problem(client.post("/api/search", data={"image": upload(b"<svg></svg>")}), 415)["detail"]
    problem(client.post("/api/search", data={"image": upload(b"")}), 415)
    assert fields(client.post("/api/search", data={"image": upload(make_image()[:300])})) == {"image"}
    assert fields(client.post("/api/search", json={"url": "ftp://pictures.example/a.jpg"})) == {"url"}


def test_private_address_is_refused_and_not_revealed(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings.model_copy(update={"allow_private_addresses": False}), embedder=embedder)
    with ImageServer() as server:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254", "2130706433"):
            response = app.test_client().post("/api/search", json={"url": server.url("/ok.jpg", host=host)})
            assert fields(response) == {"url"}
            assert "SEARCHDB" not in response.text
            assert "127.0.0.1" not in response.text
        assert not server.requests
    app.extensions[EXTENSION].close()


def test_everything_below_api_is_answered_in_json(client: FlaskClient) -> None:
    problem(client.get("/api/nowhere"), 404)
    problem(client.get("/api/images/../../etc/passwd"), 404)
    refused = client.put("/api/search")
    assert "GET" in refused.headers["Allow"]
    problem(refused, 405)
    assert "<!doctype html>" in client.get("/nowhere").text


def test_unexpected_error_reveals_nothing(settings: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(settings, embedder=embedder)

    def broken() -> str:
        raise ZeroDivisionError("/srv/secret/config")

    app.add_url_rule("/api/broken", view_func=broken)
    said = problem(app.test_client().get("/api/broken"), 500)
    assert "secret" not in json.dumps(said)
    app.extensions[EXTENSION].close()


def test_database_that_is_away(settings: Settings, embedder: CLIPEmbedder) -> None:
    nowhere = settings.model_copy(update={"database_url": None, "home": settings.home / ("long" * 30)})
    app = create_app(nowhere, embedder=embedder)
    for path in ("/api/search?q=a", "/api/images/1", "/api/random"):
        response = app.test_client().get(path)
        said = problem(response, 503)
        assert "The database cannot be reached" in said["detail"]
        assert "longlong" not in response.text
        assert int(response.headers["Retry-After"]) > 0
    app.extensions[EXTENSION].close()


# --- What it says of itself -----------------------------------------------------------------------


def test_docs_page_shows_every_operation(client: FlaskClient) -> None:
    redirect = client.get("/api")
    assert redirect.status_code == 308
    assert urlsplit(redirect.headers["Location"]).path == "/api/"
    page = client.get("/api/").text
    document = client.get("/api/openapi.json").json
    assert document is not None
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"<code>{path}</code>" in page
            assert operation["summary"] in page
            assert f'id="{operation["operationId"]}"' in page
            sample = operation["x-codeSamples"][0]["source"]
            assert sample.startswith("curl ")
            assert "http://localhost/api/" in sample
            assert {"422", "429", "503"} <= operation["responses"].keys(), (method, path)
    assert "style=" not in page
    assert "<script>" not in page


def test_document_below_a_prefix(make_app: MakeApp) -> None:
    client = make_app(trusted_hosts="pictures.example").test_client()
    document = client.get("/api/openapi.json", base_url="https://pictures.example/find").json
    assert document is not None
    assert document["servers"] == [{"url": "/find"}]
    assert "https://pictures.example/find/api/search" in json.dumps(document)
