"""What strangers send on purpose, to every place that takes it: refused as it should be, nothing kept, nothing told."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flask.testing import FlaskClient
from pydantic import SecretStr
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from searchdb.config import Settings
from searchdb.db.database import open_database
from searchdb.ingest.store import Store
from tests.helpers.image_server import ImageServer, huge_png, make_image
from web import create_app
from web.api.images import REBUILDER
from web.backend import EXTENSION

pytestmark = pytest.mark.slow  # sends every hostile input to every endpoint

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.databases import NewSettings

TOKEN = {"Authorization": "Bearer hunter2"}
MARKUP = "\"'><script>alert(1)</script><svg onload=alert(1)>{{1237*6551}}"
CONTROLS = "a\x00b\x07\x1b[31m\r\nSet-Cookie: x=1\u202e\ufffe"
UP = "../../../../../../etc/passwd"
UPS = (
    UP,
    f"/{UP}",
    "..%2f..%2f..%2fetc%2fpasswd",
    "..\\..\\windows\\win.ini",
    "....//....//etc/passwd",
    f"file://{UP}",
)
SVG = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@dataclass(frozen=True, kw_only=True)
class Site:
    """The application, and what it keeps."""

    client: FlaskClient
    home: Path
    store: Store

    def kept(self) -> tuple[dict[str, int], set[Path]]:
        """All that there is, in the database and on the disk."""
        return self.store.counts(), {path for path in self.home.rglob("*") if path.is_file()}


@contextmanager
def serving(settings: Settings, embedder: CLIPEmbedder) -> Iterator[Site]:
    changes = {"api_token": SecretStr("hunter2"), "allow_private_addresses": False, "max_image_bytes": 8 * 2**20}
    changes |= {"rate_limit": "", "work_limit": ""}
    settings = settings.model_copy(update=changes)
    app = create_app(settings, embedder=embedder)
    client = app.test_client()
    said = {"image": (BytesIO(make_image("PNG")), f"{MARKUP}.png"), "description": MARKUP, "tags": [MARKUP]}
    assert client.post("/api/images", data=said, headers=TOKEN).status_code == 201
    with open_database(settings) as database:
        yield Site(client=client, home=settings.home, store=Store(database.engine))
    app.extensions[REBUILDER].join()
    app.extensions[EXTENSION].close()


@pytest.fixture
def site(settings: Settings, embedder: CLIPEmbedder) -> Iterator[Site]:
    with serving(settings, embedder) as site:
        yield site


@pytest.fixture(scope="module")
def unchanged_site(
    new_settings: NewSettings, embedder: CLIPEmbedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site for tests whose every request is refused."""
    with new_settings(tmp_path_factory.mktemp("home")) as settings, serving(settings, embedder) as site:
        yield site


def uploads(site: Site, data: bytes, name: str = "a.png") -> dict[str, TestResponse]:
    """The answers of every place that takes an image."""

    def post(path: str, field: str) -> TestResponse:
        # Encoded here: the client would leave a large body's temporary file open.
        boundary, body = encode_multipart({field: FileStorage(BytesIO(data), name)})
        kind = f"multipart/form-data; boundary={boundary}"
        return site.client.post(path, data=body, content_type=kind, headers=TOKEN)

    return {
        "page": post("/search", "image"),
        "search": post("/api/search", "image"),
        "embeddings": post("/api/embeddings", "images"),
        "add": post("/api/images", "image"),
    }


def tells_nothing(site: Site, response: TestResponse) -> None:
    for secret in (str(site.home), "root:x:", "hunter2", "Traceback", "/site-packages/"):
        assert secret not in response.text


def test_markup_is_text_wherever_it_comes_from(site: Site) -> None:
    hit = site.client.get("/api/search", query_string={"q": MARKUP, "threshold": -1}).get_json()["hits"][0]
    pages = [
        site.client.get("/", query_string={"q": MARKUP, "not": MARKUP, "words": MARKUP, "threshold": -1}),
        site.client.get("/", query_string={"q": "boat", "threshold": -1}),
        site.client.get("/", query_string={"q": "boat", "country": MARKUP, "near": MARKUP}),
        site.client.get(f"/images/{hit['id']}", query_string={"q": MARKUP, "threshold": -1}),
        site.client.get(f"/{MARKUP}"),
        site.client.get("/status"),
    ]
    for response in pages:
        assert response.mimetype == "text/html"
        assert not re.search(r"<script>|<svg onload", response.text), response.request.url
        assert str(1237 * 6551) not in response.text
        assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert hit["description"] == MARKUP
    for response in (site.client.get("/api/search", query_string={"q": MARKUP}), site.client.get(f"/api/{MARKUP}")):
        assert response.mimetype in ("application/json", "application/problem+json")
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("up", UPS)
def test_no_path_leads_out_of_the_collection(site: Site, up: str) -> None:
    before = site.kept()
    for below in ("/images", "/images/1", "/static", "/api/images", "/static/.", ""):
        path = f"{below}/{up}" if below else f"/{up.lstrip('/')}"
        response = site.client.get(path)
        assert response.status_code in (308, 404), path
        tells_nothing(site, response)
    for name in ("like", "vector", "exclude_id"):
        assert site.client.get("/", query_string={"q": "a", name: up}).status_code == 400
    response = site.client.get("/api/search", query_string={"q": "a", "source": up})
    assert response.get_json()["hits"] == []
    for said in ({"url": up}, {"url": f"https://pictures.example/a.jpg#{up}"}):
        response = site.client.post("/api/images", json=said, headers=TOKEN)
        assert response.status_code == 422
        tells_nothing(site, response)
    assert site.kept() == before
    added = site.client.post("/api/images", data={"image": (BytesIO(make_image(seed=5)), up)}, headers=TOKEN)
    assert added.status_code == 201
    assert "/" not in added.get_json()["name"].removeprefix("file:")
    [new] = site.kept()[1] - before[1]
    assert re.fullmatch(r"[0-9a-f]{64}\.jpg", new.name)
    assert new.parent.parent.name == "uploads"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (bytes(9 * 2**20), 413),
        (bytes(100 * 2**20), 413),
        (huge_png(), 413),
        (SVG, 415),
        (b"\xef\xbb\xbf" + SVG, 415),
        (b"<!doctype html><script>alert(1)</script>", 415),
        (b"%PDF-1.7\n" + make_image(), 415),
        (b"GIF89a/*" + b"\0" * 40 + b"*/=alert(1)", 422),
        (b"", 415),
        (make_image()[:300], 422),
        (b"\xff\xd8\xff\xe0" + bytes(200), 422),
    ],
    ids=[
        *("over the limit", "100 MB", "60,000 x 60,000", "svg", "svg after a mark", "html", "pdf and jpeg"),
        *("gif and script", "empty", "half", "jpeg of nothing"),
    ],
)
def test_files_that_are_not_images_are_refused_everywhere_alike(unchanged_site: Site, data: bytes, status: int) -> None:
    before = unchanged_site.kept()
    for place, response in uploads(unchanged_site, data).items():
        assert response.status_code == status, (place, response.text)
        tells_nothing(unchanged_site, response)
    assert unchanged_site.kept() == before


def test_a_polyglot_is_served_as_the_image_it_is(site: Site) -> None:
    data = make_image() + b"<!doctype html><script>alert(1)</script>"
    row = uploads(site, data, "page.html")["add"].get_json()
    with site.client.get(row["url"]) as response:
        assert response.mimetype == "image/jpeg"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert site.client.get(row["thumbnail_url"]).mimetype == "image/webp"


def test_unbounded_queries_are_refused(site: Site) -> None:
    long = "boat " * 1400
    assert site.client.get("/", query_string={"q": long}).status_code == 400
    assert site.client.get("/", query_string={"q": "boat", "words": long}).status_code == 400
    response = site.client.get("/api/search", query_string={"q": long})
    assert response.status_code == 422
    assert response.get_json()["errors"][0]["field"] == "q"
    assert len(response.text) < 2000, "it is not repeated"
    assert site.client.post("/api/search", json={"url": "https://a.example/", "q": long}).status_code == 422
    assert site.client.post("/api/embeddings", json={"texts": [long]}).status_code == 422
    assert site.client.get("/", query_string=[("tag", str(n)) for n in range(800)]).status_code == 400


def test_control_characters_are_searched_and_stored(site: Site) -> None:
    for path in ("/", "/api/search"):
        response = site.client.get(path, query_string={"q": CONTROLS, "threshold": -1})
        assert response.status_code == 200
        assert "Set-Cookie" not in response.headers
    response = site.client.post(
        "/api/images",
        data={"image": (BytesIO(make_image(seed=7)), f"{CONTROLS}.jpg"), "description": CONTROLS, "tags": [CONTROLS]},
        headers=TOKEN,
    )
    assert response.status_code in (201, 422)
    assert site.client.get("/", query_string={"q": "boat", "threshold": -1}).status_code == 200
    for name in ("\x00", "\ud800", "\r\n"):
        said = json.dumps({"url": "https://a.example/", "metadata": {name: name}})
        response = site.client.post("/api/images", data=said, content_type="application/json", headers=TOKEN)
        assert response.status_code in (400, 422), response.text


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f.1", "169.254.169.254"],
)
def test_private_addresses_are_not_contacted(unchanged_site: Site, host: str) -> None:
    site, before = unchanged_site, unchanged_site.kept()
    with ImageServer() as server:
        url = server.url("/ok.jpg", host=host)
        for response in (
            site.client.post("/search", data={"url": url}),
            site.client.post("/api/search", json={"url": url}),
            site.client.post("/api/images", json={"url": url}, headers=TOKEN),
        ):
            assert response.status_code == 422, response.text
            assert "public" in response.text
            assert "127.0.0.1" not in response.text.replace(url, "")
            tells_nothing(site, response)
        assert not server.requests
    assert site.kept() == before
