"""The role for reading on a server in DATABASE_URL: how its owner makes it, and what then reads by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from pydantic import SecretStr

from searchdb.cli import cli
from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database, open_database
from searchdb.db.schema import migrate
from searchdb.db.user_sql import run_sql
from searchdb.errors import ConfigError, DatabaseError, SchemaError
from tests.helpers.album import copy_album
from web import create_app
from web.backend import EXTENSION

OWNER, READER, OTHER = "an owner", "a reader", "someone"
ATTACKS = (
    "DELETE FROM images",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT pg_reload_conf()",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM private",
    f'SET ROLE "{OWNER}"',
    "SELECT setval('images_id_seq', 1)",
    "CREATE TABLE mine (n int)",
)


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A database whose owner may create roles and is no superuser."""

    settings: Settings
    admin: sa.Engine

    def run(self, *arguments: str, read_url: str = "", user: str = OWNER) -> Result:
        url = self.settings.url()
        assert url is not None
        variables = {"DATABASE_URL": libpq_url(url.set(username=user)), "DATABASE_URL_READ": read_url}
        return CliRunner().invoke(cli, ["--model", "demo", *arguments], env=variables, prog_name="searchdb")

    def make_reader(self, *options: str) -> str:
        """Run `searchdb db reader`; return the URL that it prints."""
        made = self.run("db", "reader", "--name", READER, *options)
        assert made.exit_code == 0, made.output
        return made.stdout.strip().removeprefix("DATABASE_URL_READ=")

    def with_reader(self, url: str) -> Settings:
        return self.settings.model_copy(update={"database_url_read": SecretStr(url)})

    @contextmanager
    def as_admin(self) -> Iterator[sa.Connection]:
        url = self.settings.url()
        assert url is not None
        engine = sa.create_engine(url.set(username="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection
        engine.dispose()


def settings_of(admin: sa.Engine, name: str, home: Path) -> Settings:
    url = libpq_url(admin.url.set(database=name, username=OWNER))
    return Settings(database_url=url, home=home, model="demo", allow_private_addresses=True)


@pytest.fixture(scope="module")
def template(admin: sa.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with an empty collection of OWNER's, which tests copy."""
    name = "owned_template"
    with admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE ROLE "{OWNER}" LOGIN CREATEROLE')
        connection.exec_driver_sql(f'CREATE DATABASE {name} TEMPLATE template0 OWNER "{OWNER}" STRATEGY file_copy')
    engine = sa.create_engine(admin.url.set(database=name))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION vector WITH SCHEMA public")
    engine.dispose()
    with Database(settings_of(admin, name, tmp_path_factory.mktemp("home"))) as database:
        migrate(database)
        with database.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE private (n int)")
    yield name
    with admin.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        connection.exec_driver_sql(f'DROP ROLE "{OWNER}"')


@pytest.fixture
def owned(template: str, admin: sa.Engine, tmp_path: Path) -> Iterator[Owned]:
    with admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE owned TEMPLATE {template} OWNER "{OWNER}" STRATEGY file_copy')
    yield Owned(settings=settings_of(admin, "owned", tmp_path), admin=admin)
    with admin.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE owned WITH (FORCE)")
        connection.exec_driver_sql(f'DROP ROLE IF EXISTS "{READER}", {OTHER}')
        connection.exec_driver_sql(f'ALTER ROLE "{OWNER}" CREATEROLE')


def test_the_owner_makes_a_role_that_reads(owned: Owned, demo_collection: SearchDB) -> None:
    url = owned.make_reader()
    with SearchDB(owned.with_reader(url)) as collection:
        copy_album(demo_collection, collection.database)
        for attack in ATTACKS:
            with collection.database.reader.connect() as connection, pytest.raises(DatabaseError):
                run_sql(connection, attack)
        assert len(collection.search("a boat", where=f"current_user = '{READER}'")) == 10
        with collection.database.connect() as connection:
            stored = sa.text("SELECT EXISTS (SELECT FROM query_embeddings WHERE query = 'a boat')")
            assert connection.scalar(stored), "stored by the owner's connection"
    shown = owned.run("sql", "SELECT current_user", read_url=url)
    assert (shown.exit_code, READER in shown.stdout, shown.stderr) == (0, True, "")
    written = owned.run("sql", "--write", "SELECT current_user", read_url=url)
    assert OWNER in written.stdout


def test_the_page_reads_by_it_and_writes_as_the_owner(owned: Owned, demo_collection: SearchDB) -> None:
    settings = owned.with_reader(owned.make_reader())
    with open_database(settings) as database:
        copy_album(demo_collection, database)
    app = create_app(settings, embedder=demo_collection.embedder)
    app.testing = True
    backend = app.extensions[EXTENSION]
    try:
        client = app.test_client()
        for path in ("/", "/?q=a+red+car", "/images/1", "/status", "/readyz", "/metrics", "/api/random"):
            assert client.get(path).status_code == 200, path
        assert client.get("/api/search?q=a+boat+at+sunset").status_code == 200
        with backend.database().reader.connect() as connection:
            assert connection.exec_driver_sql("SELECT current_user").scalar_one() == READER
        with backend.database().connect() as connection:
            stored = sa.text("SELECT count(*) FROM query_embeddings WHERE query IN ('a red car', 'a boat at sunset')")
            assert connection.scalar(stored) == 2
    finally:
        backend.close()


def test_a_role_is_renewed(owned: Owned) -> None:
    first = owned.make_reader()
    with owned.as_admin() as connection:
        hashed = f"SELECT rolpassword FROM pg_authid WHERE rolname = '{READER}'"
        before = connection.exec_driver_sql(hashed).scalar_one()
        connection.exec_driver_sql(f'REVOKE SELECT ON images FROM "{READER}"')
        assert owned.run("sql", "SELECT count(*) FROM images", read_url=first).exit_code == 1
        assert owned.make_reader("--keep-password") == ""
        assert connection.exec_driver_sql(hashed).scalar_one() == before
        assert owned.run("sql", "SELECT count(*) FROM images", read_url=first).exit_code == 0
        second = owned.make_reader()
        assert second != first
        assert connection.exec_driver_sql(hashed).scalar_one() not in (before, None)


def test_without_it_one_sentence_names_the_role(owned: Owned) -> None:
    for command in (["sql", "SELECT 1"], ["search", "x", "--where", "true"]):
        result = owned.run(*command)
        lines = [line for line in result.stderr.splitlines() if "has all rights" in line]
        assert len(lines) == 1, result.output
        assert f'"{OWNER}"' in lines[0]
        assert "searchdb db reader" in lines[0]
    with owned.as_admin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {OTHER} LOGIN")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {OTHER}")
        harmless = owned.run("sql", "SELECT 1", user=OTHER)
        assert (harmless.exit_code, harmless.stderr) == (0, "")
        connection.exec_driver_sql(f"GRANT pg_read_server_files TO {OTHER}")
        assert "has all rights" in owned.run("sql", "SELECT 1", user=OTHER).stderr


def test_it_must_lead_to_the_same_collection(owned: Owned, settings: Settings) -> None:
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    result = owned.run("sql", "SELECT 1", read_url=url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "DATABASE_URL_READ" in result.stderr
    assert "another database" in result.stderr
    with open_database(owned.with_reader(url)) as database, pytest.raises(SchemaError, match="another database"):
        _ = database.reader
    app = create_app(owned.with_reader(url), warm_up=False)
    assert app.test_client().get("/readyz").status_code == 503
    app.extensions[EXTENSION].close()


def test_it_needs_a_database_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL is not"):
        Database(Settings(home=tmp_path, database_url_read="postgresql://x@/y"))
    with pytest.raises(ConfigError, match=r"^DATABASE_URL_READ: this is a mysql"):
        Settings(database_url_read="mysql://x@/y")


def test_refusals_are_one_line(owned: Owned) -> None:
    with owned.as_admin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {OTHER} LOGIN CREATEDB")
        taken = owned.run("db", "reader", "--name", OTHER)
        assert (taken.exit_code, taken.stderr.count("\n")) == (1, 1)
        assert "choose another with --name" in taken.stderr
        connection.exec_driver_sql(f'ALTER ROLE "{OWNER}" NOCREATEROLE')
        refused = owned.run("db", "reader", "--name", READER)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "--keep-password" in refused.stderr
