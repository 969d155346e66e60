"""What goes wrong: a page that says what to do, nothing about the server, and a way back."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from searchdb.config import Settings
from searchdb.db.database import Database
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.tables import embedding_models
from searchdb.records import ModelIdentity
from web import backend as web_backend
from web import create_app
from web.backend import EXTENSION
from web.errors import model_label, without_paths

if TYPE_CHECKING:
    from searchdb.media.embed import CLIPEmbedder
    from tests.helpers.stored_images import StoredImages

NOWHERE = "postgresql://someone:hush@db.internal.invalid:1/pictures"


@pytest.fixture
def make_client(embedder: CLIPEmbedder) -> Iterator[object]:
    apps: list[Flask] = []

    def make(settings: Settings, *, own_model: bool = False) -> FlaskClient:
        apps.append(create_app(settings) if own_model else create_app(settings, embedder=embedder))
        return apps[-1].test_client()

    yield make
    for app in apps:
        app.extensions[EXTENSION].close()


# --- The database ---------------------------------------------------------------------------------


def test_without_a_database_the_application_starts_and_says_so(make_client, tmp_path: Path) -> None:
    client = make_client(Settings(database_url=NOWHERE, home=tmp_path, model="demo"), own_model=True)
    assert client.get("/healthz").status_code == 200
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (503, "unavailable")
    for path in ("/", "/?q=boat", "/images/1", "/images/1/file", "/images/1/thumbnail"):
        response = client.get(path)
        assert response.status_code == 503
        assert "The database cannot be reached" in response.text
        assert int(response.headers["Retry-After"]) > 0
        for secret in ("internal", "hush", "someone"):
            assert secret not in response.text


def test_failing_to_connect_is_not_repeated_by_everybody(
    make_client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = web_backend.open_database
    monkeypatch.setattr(
        web_backend, "open_database", lambda *given, **named: calls.append(1) or original(*given, **named)
    )
    client = make_client(Settings(database_url=NOWHERE, home=tmp_path, model="demo"))
    for _ in range(5):
        assert client.get("/").status_code == 503
    assert len(calls) == 1


def test_application_recovers_when_the_database_starts(
    make_client, settings: Settings, admin: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_backend, "REOPEN_INTERVAL_S", 0.0)
    url = settings.url()
    assert url is not None
    name = url.database
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} RENAME TO {name}_away")
        client = make_client(settings)
        assert client.get("/").status_code == 503
        connection.exec_driver_sql(f"ALTER DATABASE {name}_away RENAME TO {name}")
    assert client.get("/readyz").status_code == 200
    assert client.get("/").status_code == 200


def test_application_survives_a_restart_of_the_database(make_client, settings: Settings, admin: sa.Engine) -> None:
    client = make_client(settings)
    assert client.get("/").status_code == 200
    url = settings.url()
    assert url is not None
    kill = sa.text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name")
    with admin.connect() as connection:
        connection.execute(kill, {"name": url.database})
    assert client.get("/").status_code == 200


@pytest.mark.slow
def test_embedded_server_that_died_is_started_again(short_home: Path, make_client) -> None:
    client = make_client(Settings(home=short_home, model="demo"))
    assert client.get("/").status_code == 200
    EmbeddedServer.at(short_home).stop()
    statuses = [client.get("/").status_code for _ in range(2)]
    assert statuses[-1] == 200


def test_database_without_tables(make_client, empty_settings: Settings) -> None:
    client = make_client(empty_settings)
    response = client.get("/")
    assert response.status_code == 503
    assert "searchdb db migrate" in response.text
    assert client.get("/readyz").status_code == 503


def test_embedded_server_that_cannot_start_reveals_no_paths(make_client, tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    client = make_client(Settings(home=home, model="demo"))
    response = client.get("/")
    assert response.status_code == 503
    assert "longlong" not in response.text


# --- The model ------------------------------------------------------------------------------------


def test_model_that_is_not_there(make_client, stored_images: StoredImages, settings: Settings) -> None:
    image_id = stored_images.add("a boat")
    missing = settings.model_copy(update={"model": "/srv/secret place/my-clip"})
    client = make_client(missing, own_model=True)
    response = client.get("/?q=boat")
    assert response.status_code == 503
    assert "The model cannot be loaded" in response.text
    assert "my-clip" in response.text
    assert "secret" not in response.text
    assert "srv" not in response.text
    for path in ("/", f"/images/{image_id}", f"/images/{image_id}?q=boat", f"/images/{image_id}/thumbnail"):
        shown = client.get(path)
        assert shown.status_code == 200
        assert b"secret" not in shown.data


def test_model_of_another_collection(client: FlaskClient, database: Database, stored_images: StoredImages) -> None:
    image_id = stored_images.add("a boat")
    with database.begin() as connection:
        connection.execute(
            sa.update(embedding_models).values(name="/home/joe/models/other-clip", weights_sha256=b"\7" * 32)
        )
    response = client.get("/?q=boat")
    assert response.status_code == 503
    assert "other-clip (weights 070707070707)" in response.text
    assert "joe" not in response.text
    assert client.get(f"/images/{image_id}?q=boat").status_code == 200


def test_model_is_the_collections_unless_one_was_chosen(
    settings: Settings, database: Database, tmp_path: Path, stored_images: StoredImages
) -> None:
    assert settings.database_url is not None
    unchosen = Settings(database_url=settings.database_url.get_secret_value(), home=tmp_path)
    collection = web_backend.Backend(unchosen, lambda name: NamedModel(name))  # type: ignore[arg-type]
    with closing(collection):
        assert collection.model().name == unchosen.model != "demo"
        stored_images.add("a boat")
        assert collection.model().name == "demo"
        chosen = web_backend.Backend(settings.model_copy(update={"model": "other"}), NamedModel)  # type: ignore[arg-type]
        with closing(chosen):
            assert chosen.model().name == "other"


@pytest.mark.slow
def test_search_waits_for_the_model_for_a_limited_time(
    settings: Settings, embedder: CLIPEmbedder, stored_images: StoredImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_images.add("a boat")
    app = create_app(settings, embedder=embedder)
    collection = app.extensions[EXTENSION]
    with closing(collection):
        collection._loaded = False
        slow = SlowModel(embedder, seconds=0.5)
        collection._make_embedder = lambda name: slow
        monkeypatch.setattr("web.background_model.LOAD_WAIT_S", 0.05)
        client = app.test_client()
        early = client.get("/?q=a+boat")
        assert early.status_code == 503
        assert "still loading" in early.text
        assert int(early.headers["Retry-After"]) > 0
        assert client.get("/healthz").status_code == 200
        monkeypatch.setattr("web.background_model.LOAD_WAIT_S", 30)
        assert client.get("/?q=a+boat").status_code == 200


class NamedModel:
    """A model of which only the name matters."""

    def __init__(self, name: str) -> None:
        self.identity = ModelIdentity(name=name, weights_sha256=b"\0" * 32, dimension=512)


class SlowModel:
    """The real model, after a while."""

    def __init__(self, embedder: CLIPEmbedder, *, seconds: float) -> None:
        self.identity = embedder.identity
        self._embedder = embedder
        self._seconds = seconds

    def embed_texts(self, texts: list[str]):
        time.sleep(self._seconds)
        return self._embedder.embed_texts(texts)


# --- Everything else ------------------------------------------------------------------------------


def test_unexpected_error_shows_no_traceback(app: Flask) -> None:
    def broken() -> str:
        raise ZeroDivisionError("/srv/secret/config")

    app.add_url_rule("/broken", view_func=broken)
    app.testing = False
    response = app.test_client().get("/broken")
    assert response.status_code == 500
    assert "Something went wrong here" in response.text
    assert not re.search(r"Traceback|ZeroDivision|secret", response.text)


@pytest.mark.slow
def test_importing_the_web_loads_no_model() -> None:
    script = "import sys, web; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_a_wrong_method_is_a_405(client: FlaskClient) -> None:
    response = client.post("/")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]
    assert "<!doctype html>" in response.text


def test_error_page_keeps_what_was_typed(client: FlaskClient) -> None:
    assert 'value="a &#34;boat&#34;"' in client.get("/nowhere?q=a+%22boat%22").text


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("demo", "demo"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("/srv/models/my clip", "my clip"),
        ("~/models/clip", "clip"),
        ("./clip", "clip"),
    ],
)
def test_model_label(name: str, label: str) -> None:
    assert model_label(name) == label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/models/clip has no weights", "clip has no weights"),
        ("cannot read '/srv/my models/clip/config.json'", "cannot read 'config.json'"),
        ("see https://huggingface.co/openai/clip for more", "see https://huggingface.co/openai/clip for more"),
        ("openai/clip is a model", "openai/clip is a model"),
        ("(in ~/models/clip/)", "(in clip)"),
    ],
)
def test_paths_are_removed_from_messages(text: str, expected: str) -> None:
    assert without_paths(text) == expected
