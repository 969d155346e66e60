"""How large a request may be: its URL, its headers, its form and its JSON; and that the answer says the limit."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from werkzeug.test import encode_multipart

from tests.helpers.image_server import make_image
from web.api.requests import MAX_EXCLUDED_IDS
from web.search_url import LONGEST_URL

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from tests.helpers.apps import MakeApp
    from tests.helpers.gunicorn import Serve
    from tests.helpers.stored_images import StoredImages

PLACES = ("/search", "/api/search")
LONG_IDS = [10**18 + number for number in range(MAX_EXCLUDED_IDS)]
IMPOSSIBLE_DATE = "Sun, 06 Nov 999999999999999 08:49:37 GMT"


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize(
    "form",
    [{"tag": [str(number) for number in range(2000)]}, {"q": "v" * 600_000}, {"q" * 1_000_000: "v"}],
    ids=["parts", "a long value", "a long name"],
)
def test_a_form_is_told_the_limits_of_forms(client: FlaskClient, path: str, form: dict[str, object]) -> None:
    # Encoded here: the client would leave a large body's temporary file open.
    boundary, body = encode_multipart(form)
    response = client.post(path, data=body, content_type=f"multipart/form-data; boundary={boundary}")
    assert response.status_code == 413
    assert "up to 1,000 fields" in response.text
    assert "up to 500,000 bytes" in response.text


def test_a_form_without_a_file_is_small(client: FlaskClient) -> None:
    response = client.post("/search", data="a=1&" * 100_000, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 413
    assert "up to 262,144 bytes" in response.text


def test_json_of_many_values_is_refused_before_it_is_read(client: FlaskClient) -> None:
    for value in ("1", "[]", '{"a":1}'):
        body = f'{{"images": [{",".join([value] * 300_000)}]}}'
        response = client.post("/api/embeddings", data=body, content_type="application/json")
        assert response.status_code == 413
        assert "up to 200,000 values" in response.text
    texts = {"texts": ["," * 2000] * 64}
    assert client.post("/api/embeddings", json=texts).status_code == 200


def test_as_many_ids_as_documented_fit_into_a_url(client: FlaskClient, stored_images: StoredImages) -> None:
    for text in ("a red boat", "a dog"):
        stored_images.add(text)
    first = client.get("/api/search", query_string={"q": "a", "threshold": -1, "count": 1, "exclude_id": LONG_IDS})
    assert first.status_code == 200
    following = first.get_json()["next"]
    assert 7700 < len(following) < LONGEST_URL
    assert len(client.get(following).get_json()["hits"]) == 1
    assert client.get("/", query_string={"q": "a", "exclude_id": LONG_IDS}).status_code == 200
    one_more = {"q": "a", "exclude_id": [*range(1, MAX_EXCLUDED_IDS + 2)]}
    assert "at most 250 items" in client.get("/api/search", query_string=one_more).text


def test_a_search_by_image_whose_next_page_has_no_url_is_refused(
    client: FlaskClient, stored_images: StoredImages
) -> None:
    for text in ("a red boat", "a dog"):
        stored_images.add(text)

    def search(path: str, count: int) -> tuple[int, str, str]:
        form = {"image": (BytesIO(make_image()), "a.png"), "threshold": -1, "exclude_id": LONG_IDS[:count]}
        response = client.post(path, data={**form, "count": 1} if path.startswith("/api") else form)
        return response.status_code, response.text, response.headers.get("Location", "")

    for path, status in (("/api/search", 422), ("/search", 400)):
        refused, text, _ = search(path, MAX_EXCLUDED_IDS)
        assert refused == status
        assert "7,900" in text
    answered, text, _ = search("/api/search", 220)
    assert answered == 200
    assert client.get(json.loads(text)["next"]).status_code == 200
    answered, _, location = search("/search", 220)
    assert answered == 303
    assert client.get(location).status_code == 200


def test_a_long_url_is_told_the_limit(client: FlaskClient) -> None:
    for path in ("/?q=", "/api/search?q=", "/images/", "/api/"):
        response = client.get(path + "a" * LONGEST_URL)
        assert response.status_code == 414
        assert response.mimetype == ("application/problem+json" if path.startswith("/api/") else "text/html")
        assert "8,000 characters" in response.text


def test_a_date_that_no_calendar_has_is_ignored(client: FlaskClient, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a red boat")
    headers = {"If-Modified-Since": IMPOSSIBLE_DATE, "If-Range": IMPOSSIBLE_DATE, "Range": "bytes=0-1,3-4"}
    for path in (f"/images/{image_id}/file", "/static/page.css"):
        with client.get(path, headers=headers) as response:
            assert response.status_code == 200


@pytest.mark.parametrize("path", ["/search", "/api/search"])
def test_a_refusal_does_not_tell_which_names_and_services_there_are(
    make_app: MakeApp, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    guarded, open_ = make_app(allow_private_addresses=False).test_client(), make_app().test_client()
    asked = {
        "http://127.0.0.1:9/a.jpg": (guarded, "is not a public address"),
        "http://localhost:9/a.jpg": (guarded, "is not a public address"),
        "http://nowhere.invalid/a.jpg": (guarded, "no address found"),
        "http://127.0.0.2:9/a.jpg": (open_, "refused"),
    }
    answers = set()
    for url, (client, reason) in asked.items():
        capsys.readouterr()
        response = client.post(path, json={"url": url}) if path != "/search" else client.post(path, data={"url": url})
        answers.add((response.status_code, response.text.replace(url, "")))
        assert reason in capsys.readouterr().err
    [(status, text)] = answers
    assert status == 422
    assert "does not lead to a public address, or" in text


@pytest.mark.slow
def test_gunicorn_reads_what_fits_and_refuses_the_rest(serve: Serve) -> None:
    server = serve()
    for length, status in ((LONGEST_URL - 20, 404), (LONGEST_URL + 20, 414), (9000, 414), (100_000, 431)):
        answered, text = server.ask("Host: localhost", target=f"/{'a' * length}")
        assert answered == status
        assert ("8,000 characters" in text) == (length == LONGEST_URL + 20)
    headers = {
        "Cookie": "a" * 9000,
        "X-Forwarded-For": "9" * 8000,
        "If-Modified-Since": IMPOSSIBLE_DATE,
        "If-None-Match": ",".join(f'"{n}"' for n in range(1200)),
        "Range": f"bytes={','.join(f'{n}-{n}' for n in range(1000))}",
        "Accept-Language": "a;q=0.1," * 900,
        "Content-Length": "9" * 5000,
        "Origin": "http://[",
    }
    for name, value in headers.items():
        answered, _ = server.ask("Host: localhost", f"{name}: {value}", target="/static/page.css")
        assert answered in (200, 400, 413, 416, 431), name
    assert server.ask("Host: localhost", *(f"X-{n}: {n}" for n in range(200)))[0] == 431
