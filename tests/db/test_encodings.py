"""Only UTF-8 databases are used, and always in UTF-8, whatever the client's encoding is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database
from searchdb.db.embedded import EmbeddedServer
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.cli import run
from web import create_app
from web.backend import EXTENSION

COMMANDS = (
    ["status"],
    ["db", "status"],
    ["db", "migrate"],
    ["db", "shell", "-c", "SELECT 1"],
    ["search", "a boat"],
    ["embed", "a boat"],
    ["sql", "SELECT 1"],
    ["ingest", "files", "."],
    ["worker", "--drain"],
    ["failures", "list"],
    ["index", "status"],
)


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other_encoding(
    request: pytest.FixtureRequest, server: EmbeddedServer, admin: sa.Engine, tmp_path: Path
) -> Iterator[Settings]:
    name = f"encoded_{request.param.lower()}"
    options = f"ENCODING '{request.param}' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} {options}")
    yield Settings(database_url=libpq_url(server.url.set(database=name)), home=tmp_path, model="demo")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_every_command_says_what_is_needed(other_encoding: Settings) -> None:
    for command in COMMANDS:
        result = run(other_encoding, *command)
        assert result.exit_code == 1, command
        assert "needs a UTF-8 database" in result.stderr
        assert "createdb -E UTF8 -T template0" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, command


def test_the_page_says_what_is_needed(other_encoding: Settings, embedder: CLIPEmbedder) -> None:
    app = create_app(other_encoding, embedder=embedder)
    client = app.test_client()
    for path in ("/", "/?q=a+boat", "/api/search?q=a+boat", "/status"):
        response = client.get(path)
        assert response.status_code == 503, path
        assert "needs a UTF-8 database" in response.text, path
    assert client.get("/readyz").status_code == 503
    app.extensions[EXTENSION].close()


def test_the_clients_encoding_is_ours(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    url = settings.url()
    assert url is not None
    asked = Settings(database_url=f"{libpq_url(url)}&client_encoding=SQL_ASCII")
    with Database(asked) as database, database.connect() as connection:
        assert connection.scalar(sa.text("SELECT :text || 'ž'"), {"text": "日本"}) == "日本ž"
        assert connection.scalar(sa.text("SHOW client_encoding")) == "UTF8"
