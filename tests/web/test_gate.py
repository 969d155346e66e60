"""Requests that another site's page makes: for a name that was rebound to us, or in a visitor's browser."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from web import SECURITY_HEADERS

EVIL = {"Host": "evil.example"}


def test_a_foreign_host_gets_a_sentence_that_names_the_setting(client: FlaskClient) -> None:
    for path in ("/", "/api/random", "/metrics", "/static/page.css", "/nowhere", "/api/search?q=boat"):
        response = client.get(path, headers=EVIL)
        assert response.status_code == 400, path
        assert response.mimetype == ("application/problem+json" if path.startswith("/api/") else "text/html")
        assert "evil.example" in response.text
        assert "SEARCHDB_TRUSTED_HOSTS" in response.text
        assert SECURITY_HEADERS.items() <= dict(response.headers).items()
        assert not any(name.startswith("Access-Control") for name, _ in response.headers)


def test_health_is_told_to_every_host(client: FlaskClient) -> None:
    assert client.get("/healthz", headers=EVIL).status_code == 200
    assert client.get("/readyz", headers={"Host": "10.1.2.3:8000"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example\x1b[31m", "<script>", "a" * 200, "a" * 3000, "\xff\xfe", "localhost, b"]
)
def test_a_malformed_host_is_refused_and_not_repeated_raw(client: FlaskClient, host: str) -> None:
    response = client.get("/", environ_overrides={"HTTP_HOST": host})
    assert response.status_code == 400
    assert "\x1b" not in response.text
    assert "<script>" not in response.text.replace('<script type="module"', "")
    assert len(response.text) < 10_000


def test_a_request_without_a_host_is_answered(client: FlaskClient) -> None:
    assert client.get("/", environ_overrides={"HTTP_HOST": ""}).status_code == 200


def test_the_host_of_an_absolute_target_counts(client: FlaskClient) -> None:
    foreign = {"RAW_URI": "http://evil.example/", "HTTP_HOST": "localhost"}
    assert client.get("/", environ_overrides=foreign).status_code == 400
    own = {"RAW_URI": "http://localhost:5000/?q=http://evil.example/", "HTTP_HOST": "evil.example"}
    assert client.get("/", environ_overrides=own).status_code == 200


FORM = {"method": "POST", "path": "/search", "data": {"url": "http://192.0.2.1/"}}
LINK = {"method": "GET", "path": "/"}


@pytest.mark.parametrize(
    ("request_", "headers", "refused"),
    [
        (FORM, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        (FORM, {"Sec-Fetch-Site": "same-site"}, True),
        (FORM, {"Sec-Fetch-Site": "same-origin", "Origin": "null"}, False),
        (FORM, {"Origin": "http://evil.example"}, True),
        (FORM, {"Origin": "null"}, True),
        (FORM, {"Origin": "http://[::1"}, True),
        (FORM, {"Origin": "http://localhost:5000"}, False),
        (FORM, {}, False),
        (LINK, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        (LINK, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, False),
        (LINK, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, True),
        (LINK, {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, False),
    ],
)
def test_what_another_sites_page_asks_for_is_refused(
    client: FlaskClient, request_: dict[str, object], headers: dict[str, str], refused: bool
) -> None:
    response = client.open(**request_, headers=headers)  # type: ignore[arg-type]
    assert (response.status_code == 403) == refused
    assert ("another site" in response.text) == refused


def test_no_other_origin_is_allowed_to_read(app: Flask) -> None:
    client = app.test_client()
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "GET"):
        response = client.open("/api/search?q=boat", method=method, headers=asked)
        assert not any(name.startswith("Access-Control") for name, _ in response.headers)
