"""A database or role that may only read: what works, works; what must write, says so in one line."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from PIL import Image

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.embedded_programs import program_path
from searchdb.errors import DatabaseError
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.album import copy_album
from tests.helpers.cli import output, run
from tests.helpers.databases import NewSettings
from web import create_app
from web.backend import EXTENSION

ROLE = "only_reading"
TOKEN = {"Authorization": "Bearer secret"}
WRITING = (
    ["embed", "a text never seen"],
    ["sql", "SELECT text_embedding('another text never seen')"],
    ["failures", "retry"],
    ["failures", "clear"],
    ["worker", "--drain"],
    ["index", "build"],
    ["index", "tune", "--recall", "0.5"],
)
READING = (
    ["status"],
    ["db", "status"],
    ["search", "a boat"],
    ["search", "a text never seen"],
    ["search", "a boat", "--not", "people", "--tag", "boat"],
    ["export"],
    ["export", "a boat", "--tag", "boat", "--format", "jsonl"],
    ["export", "--where", "width > 0", "--format", "parquet"],
    ["embed", "a boat"],
    ["sql", "SELECT * FROM search_images('a boat', 0, 3)"],
    ["failures", "list"],
    ["index", "status"],
    ["index", "recall", "--sample", "3"],
)


@pytest.fixture(scope="module")
def filled(
    new_settings: NewSettings, demo_collection: SearchDB, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A collection with an index, a stored text and a failure, and one to read: it has a role that may only SELECT."""
    home = tmp_path_factory.mktemp("home")
    with new_settings(home) as settings, SearchDB(settings) as collection:
        copy_album(demo_collection, collection.database, only="boat")
        collection.search("a boat")
        (home / "bad.jpg").write_text("bad")
        collection.ingest_files(home / "bad.jpg")
        assert collection.build_index(lists=2) is not None
        with collection.database.begin() as connection:
            connection.exec_driver_sql(f"CREATE ROLE {ROLE} LOGIN")
            connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
        yield settings
        with collection.database.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {ROLE}")
            connection.exec_driver_sql(f"DROP ROLE {ROLE}")


def reached(settings: Settings, url: sa.URL) -> Settings:
    given = Settings(database_url=libpq_url(url), api_token="secret")
    return settings.model_copy(update={"database_url": given.database_url, "api_token": given.api_token})


@pytest.fixture(scope="module")
def standby(server: EmbeddedServer, filled: Settings) -> Iterator[sa.URL]:
    """The database on a server that follows the tests' one."""
    home = server.home.with_name(f"{server.home.name}-standby")
    data, owner = home / "postgres", server.data.stat()

    def run_program(name: str, *arguments: str | Path) -> None:
        subprocess.run(
            [program_path(name), *arguments], user=owner.st_uid, group=owner.st_gid, extra_groups=(), cwd="/",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        )  # fmt: skip

    home.mkdir()
    try:
        shutil.chown(home, owner.st_uid, owner.st_gid)
        run_program("pg_basebackup", "-h", server.data, "-U", "postgres", "-D", data, "-R", "-c", "fast")
        (data / ".s.PGSQL.5432.lock").unlink()
        run_program("pg_ctl", "-D", data, "-w", "-l", data / "log", "-o", f"-k {data}", "start")
        url = filled.url()
        assert url is not None
        yield url.set(query={"host": str(data), "port": "5432"})
        run_program("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home)


@pytest.fixture(params=["role", "default_transaction_read_only", "standby"])
def read_only(request: pytest.FixtureRequest, filled: Settings) -> Settings:
    url = filled.url()
    assert url is not None
    if request.param == "role":
        return reached(filled, url.set(username=ROLE))
    if request.param == "standby":
        return reached(filled, request.getfixturevalue("standby"))
    return reached(filled, url.update_query_dict({"options": "-cdefault_transaction_read_only=on"}))


def assert_one_line(result: Result) -> None:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    (line,) = [each for each in result.stderr.splitlines() if each.startswith("Error: ")]
    assert "may only read: set DATABASE_URL" in line or "onnect as" in line, line


def test_what_must_write_fails_with_the_way_out(read_only: Settings, tmp_path: Path) -> None:
    Image.new("RGB", (50, 50), "red").save(tmp_path / "new.jpg")
    (tmp_path / "list.csv").write_text("url\nftp://example.org/a.jpg\n")
    for command in (*WRITING, ["ingest", "files", str(tmp_path)], ["ingest", "urls", str(tmp_path / "list.csv")]):
        result = run(read_only, *command)
        assert_one_line(result)
        assert "stored" not in result.stderr, command


def test_what_reads_works(read_only: Settings) -> None:
    for command in READING:
        assert run(read_only, *command).exit_code == 0, (command, run(read_only, *command).output)


def test_nothing_was_stored(filled: Settings, read_only: Settings) -> None:
    before = output(run(filled, "sql", "SELECT count(*) FROM query_embeddings"))
    with SearchDB(read_only) as collection:
        with pytest.raises(DatabaseError):
            collection.embed(["a text never seen either"])
        assert collection.searcher.embed(["a text never seen either"]).shape == (1, 512)
    assert output(run(filled, "sql", "SELECT count(*) FROM query_embeddings")) == before


@pytest.fixture
def app(read_only: Settings, embedder: CLIPEmbedder) -> Iterator[Flask]:
    app = create_app(read_only, embedder=embedder)
    app.testing = True
    yield app
    app.extensions[EXTENSION].close()


def test_the_page_reads_and_refuses_writes(app: Flask, filled: Settings) -> None:
    client = app.test_client()
    for path in (
        "/",
        "/?q=a+red+car",
        "/?q=new+words&tag=boat",
        "/images/1",
        "/api/random",
        "/status",
        "/readyz",
        "/metrics",
    ):
        assert client.get(path).status_code == 200, path
    data = io.BytesIO()
    Image.new("RGB", (50, 50), "blue").save(data, "PNG")
    data.seek(0)
    found = client.post("/api/search", data={"image": (io.BytesIO(data.getvalue()), "blue.png")})
    assert found.status_code == 200, found.text
    added = client.post("/api/images", headers=TOKEN, data={"image": (data, "blue.png")})
    assert added.status_code == 403, added.text
    assert "may only read" in added.get_json()["detail"]
    assert client.delete("/api/images/1", headers=TOKEN).status_code == 403
    assert not list((filled.home / "uploads").rglob("*.png"))


def test_a_statement_that_writes_is_told_the_option(filled: Settings) -> None:
    result = run(filled, "sql", "DELETE FROM images")
    assert result.exit_code == 1
    assert "searchdb sql --write" in result.stderr
