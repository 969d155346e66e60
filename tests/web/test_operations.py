"""One log line per request, a place behind a proxy and under a path, and the answer to "are you ready?"."""

from __future__ import annotations

import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from searchdb.config import Settings
from searchdb.db.connections import Timeouts
from searchdb.db.database import Database, open_database
from searchdb.db.schema import MIGRATION_LOCK_KEY, migrate
from searchdb.db.tables import embedding_models
from searchdb.errors import DatabaseError, ModelUnavailableError
from tests.helpers.waiting import GIVE_UP_S
from web import backend as web_backend
from web import create_app
from web.backend import EXTENSION

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.apps import MakeApp
    from tests.helpers.stored_images import StoredImages

NOTHING = Settings(database_url="postgresql://nobody@localhost:1/nothing", model="demo")
"""Settings for what needs no database."""


# --- The log --------------------------------------------------------------------------------------


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_request_has_one_line_with_its_id(make_app: MakeApp, capsys: pytest.CaptureFixture[str]) -> None:
    client = make_app().test_client()
    capsys.readouterr()
    response = client.get("/?q=a+boat", headers={"X-Request-ID": "from-the-proxy.1"})
    assert response.headers["X-Request-ID"] == "from-the-proxy.1"
    [line] = lines(capsys)
    assert re.fullmatch(
        rf"\S+Z GET /\?q=a\+boat 200 [0-9.]+ms {len(response.data)}b 127\.0\.0\.1 id=from-the-proxy\.1", line
    )


def test_as_json_a_line_is_an_object(make_app: MakeApp, capsys: pytest.CaptureFixture[str]) -> None:
    app = make_app(log_format="json")
    app.add_url_rule("/broken", view_func=lambda: str(1 / 0))
    client = app.test_client()
    capsys.readouterr()
    client.get("/nowhere?q=x")
    client.get("/broken")
    request, fault, broken = (json.loads(line) for line in lines(capsys))
    assert (request["path"], request["query"], request["status"]) == ("/nowhere", "q=x", 404)
    assert "ZeroDivisionError" in fault["exception"]
    assert fault["id"] == broken["id"] != request["id"]
    assert broken["status"] == 500


def test_an_id_that_no_line_can_hold_is_replaced(make_app: MakeApp) -> None:
    client = make_app().test_client()
    for sent in ("", "with blank", "a" * 65, 'quote"', "new\\nline", "ümlaut"):
        given = client.get("/healthz", headers={"X-Request-ID": sent}).headers["X-Request-ID"]
        assert re.fullmatch("[0-9a-f]{32}", given), sent


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_request_forges_a_line(make_app: MakeApp, capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    client = make_app(log_format=log_format).test_client()
    capsys.readouterr()
    for path in (
        "/a%0aline%0d%0aGET / 200",
        "/%1b[2J%1b]0;title%07",
        "/?q=%0a2026-01-01T00:00:00Z GET /admin 200",
        "/?q=\x85\u2028next",
        "/nowhere/%e2%80%a8line",
    ):
        client.get(path, environ_base={"REMOTE_ADDR": "forged\n192.0.2.1"})
        written = capsys.readouterr().err
        assert written.count("\n") == 1, path
        assert written.rstrip("\n").isprintable()


def test_lines_are_short_and_hold_no_secret(make_app: MakeApp, capsys: pytest.CaptureFixture[str]) -> None:
    client = make_app().test_client()
    capsys.readouterr()
    client.get("/?vector=" + "v" * 688, headers={"Authorization": "Bearer hunter2"})
    client.get("/nowhere/" + "p" * 5000 + "?" + "&".join(f"a{n}={n}" for n in range(1000)))
    client.open("/", method="M" * 500)
    written = lines(capsys)
    assert len(written) == 3
    assert max(map(len, written)) < 900
    assert "v" * 101 not in "".join(written)
    assert "hunter2" not in "".join(written)


def test_the_development_servers_own_line_does_not_double_it(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    from werkzeug.serving import WSGIRequestHandler, make_server

    server = make_server("127.0.0.1", 0, make_app())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with caplog.at_level(logging.INFO):
            import requests

            assert requests.get(f"http://127.0.0.1:{server.server_port}/healthz", timeout=GIVE_UP_S).status_code == 200
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert WSGIRequestHandler.log_request
    assert [record.name for record in caplog.records] == ["web.requests"]


# --- Behind a proxy, under a path -----------------------------------------------------------------


def addresses(html: str) -> list[str]:
    """What a page refers to on this host."""
    named = re.findall(r'(?:href|src|action|srcset|data-[a-z-]*url|data-href|data-src|content)="(/[^"]*)"', html)
    assert named
    return named


@pytest.mark.parametrize("stripped", [True, False], ids=["stripped", "left on"])
def test_below_a_path_every_link_has_its_prefix(make_app: MakeApp, stored_images: StoredImages, stripped: bool) -> None:
    image_id = stored_images.add("a red boat")
    elsewhere = stored_images.add("a photograph", image="https://example.org/photo.jpg")
    client = make_app(url_prefix="/photos").test_client()
    before = "" if stripped else "/photos"
    for page in ("/", "/?q=a+red+boat", f"/images/{image_id}", f"/images/{image_id}?q=a+red+boat", "/nowhere"):
        for address in addresses(client.get(before + page).text):
            assert address.startswith("/photos/"), (page, address)
    redirect = client.get(f"{before}/images/{elsewhere}/file")
    assert (redirect.status_code, redirect.headers["Location"]) == (302, "https://example.org/photo.jpg")
    shown = client.get(before + "/?q=a+red+boat").text
    [thumbnail] = {each for each in addresses(shown) if each.startswith(f"/photos/images/{image_id}/thumbnail")}
    assert client.get(thumbnail.replace("&amp;", "&")).mimetype == "image/webp"
    for path in ("/static/page.css", "/healthz", "/" if stripped else ""):
        with client.get(before + path) as response:
            assert response.status_code == 200


def test_a_path_that_only_begins_like_it_is_another(make_app: MakeApp) -> None:
    assert make_app(url_prefix="/photos").test_client().get("/photoshop").status_code == 404


def test_forwarded_headers_count_where_the_proxy_is_trusted(make_app: MakeApp) -> None:
    headers = {
        "X-Forwarded-Prefix": "/albums",
        "X-Forwarded-Host": "pictures.example.org",
        "X-Forwarded-Proto": "https",
    }
    trusting, alone = make_app(proxies=1, trusted_hosts="pictures.example.org"), make_app()
    for app in (trusting, alone):
        app.add_url_rule("/where", view_func=where)
    assert trusting.test_client().get("/where", headers=headers).text == "https://pictures.example.org/albums/"
    assert alone.test_client().get("/where", headers=headers).text == "http://localhost/"
    assert all(
        address.startswith("/albums/") for address in addresses(trusting.test_client().get("/", headers=headers).text)
    )


def where() -> str:
    from flask import url_for

    return url_for("pages.index", _external=True)


def test_redirects_to_pages_stay_under_the_path(make_app: MakeApp) -> None:
    app = make_app(url_prefix="/photos")
    app.add_url_rule("/slashed/", view_func=lambda: "")
    location = app.test_client().get("/photos/slashed").headers["Location"]
    assert urlsplit(location).path == "/photos/slashed/"


# --- Readiness ------------------------------------------------------------------------------------


def test_ready_when_empty_whatever_the_model(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"model": "/srv/nowhere"}))
    assert app.test_client().get("/readyz").status_code == 200
    app.extensions[EXTENSION].close()


def test_not_ready_until_the_model_is_loaded(
    settings: Settings, embedder: CLIPEmbedder, stored_images: StoredImages
) -> None:
    stored_images.add("a boat")
    app = create_app(settings, embedder=embedder)
    collection = app.extensions[EXTENSION]
    collection._loaded = False
    slow = Held(embedder)
    collection._make_embedder = lambda name: slow
    client = app.test_client()
    early = client.get("/readyz")
    assert (early.status_code, early.json) == (
        503,
        {"status": "unavailable", "reason": "the model is being loaded"},
    )
    assert int(early.headers["Retry-After"]) > 0
    slow.may_go.set()
    collection.model().wait()
    assert client.get("/readyz").json == {"status": "ready"}
    collection.close()


def test_a_model_that_cannot_be_loaded_is_tried_again(
    settings: Settings, embedder: CLIPEmbedder, stored_images: StoredImages
) -> None:
    stored_images.add("a boat")
    app = create_app(settings, embedder=embedder)
    collection = app.extensions[EXTENSION]
    collection._loaded = False
    broken = Held(embedder, failures=1)
    broken.may_go.set()
    collection._make_embedder = lambda name: broken
    client = app.test_client()
    collection.model().load()
    assert "the model cannot be loaded" in client.get("/readyz").text
    broken.second_try.wait(GIVE_UP_S)
    statuses = {client.get("/readyz").status_code for _ in range(100)}
    assert 200 in statuses
    collection.close()


def test_not_ready_with_another_model_than_the_images(
    client: FlaskClient, database: Database, stored_images: StoredImages
) -> None:
    stored_images.add("a boat")
    with database.begin() as connection:
        connection.execute(sa.update(embedding_models).values(weights_sha256=b"\7" * 32))
    assert "the model does not fit the collection" in client.get("/readyz").text


class Held:
    """The real model, once it may; and before that, so many failures."""

    def __init__(self, embedder: CLIPEmbedder, *, failures: int = 0) -> None:
        self.identity = embedder.identity
        self.may_go = threading.Event()
        self.second_try = threading.Event()
        self._embedder = embedder
        self._failures = failures

    def embed_texts(self, texts: list[str]) -> Any:
        self.may_go.wait(GIVE_UP_S)
        if self._failures:
            self._failures -= 1
            raise ModelUnavailableError("demo", "it is not there")
        self.second_try.set()
        return self._embedder.embed_texts(texts)


# --- The database is waited for, but not for ever --------------------------------------------------


def test_a_statement_that_takes_too_long_is_cancelled(settings: Settings) -> None:
    with open_database(settings, Timeouts(statement=0.1)) as database, database.connect() as connection:
        with pytest.raises(DatabaseError) as caught:
            connection.exec_driver_sql("SELECT pg_sleep(60)")
        assert caught.value.sqlstate == "57014"


def test_every_connection_of_the_web_has_the_limit(app: Flask, settings: Settings, database: Database) -> None:
    served = app.extensions[EXTENSION].database()
    with served.connect() as first, served.connect() as second:
        for connection in (first, second):
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "15s"
            assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "1500ms"
    with database.connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "0"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "0"


def test_a_cancelled_search_is_a_page(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_backend, "TIMEOUTS", Timeouts(statement=0.1))

    def slow() -> str:
        with app.extensions[EXTENSION].database().connect() as connection:
            connection.exec_driver_sql("SELECT pg_sleep(60)")
        return ""

    app.add_url_rule("/slow", view_func=slow)
    app.testing = False
    client = app.test_client()
    assert client.get("/slow").status_code == 503
    assert client.get("/").status_code == 200


def test_migrations_are_not_cut_short(empty_settings: Settings) -> None:
    # A statement of the migration waits for longer than the limit: for the lock that another migration holds.
    with (
        Database(empty_settings) as other,
        other.connect() as holder,
        Database(empty_settings, Timeouts(statement=0.5)) as database,
    ):
        holder.execute(sa.select(sa.func.pg_advisory_lock(MIGRATION_LOCK_KEY)))
        release = threading.Timer(1.5, lambda: holder.execute(sa.select(sa.func.pg_advisory_unlock_all())))
        release.start()
        migrate(database)
        release.join()


@pytest.mark.slow
def test_more_requests_than_connections_wait_and_then_get_an_error(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_backend, "TIMEOUTS", Timeouts(pool=0.2))
    app = make_app()
    collection = app.extensions[EXTENSION]
    database = collection.database()
    held = [database.engine.connect() for _ in range(20)]
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: app.test_client().get("/").status_code, range(8)))
    assert statuses == [503] * 8
    assert app.test_client().get("/healthz").status_code == 200
    assert app.test_client().get("/readyz").status_code == 503
    for connection in held:
        connection.close()
    assert app.test_client().get("/").status_code == 200
