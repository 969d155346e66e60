"""What tests share: a real PostgreSQL per run, a migrated database per test, the demo model and its images."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database, open_database
from searchdb.db.embedded import EmbeddedServer
from searchdb.db.schema import migrate
from searchdb.media.embed import CLIPEmbedder
from tests.helpers.database_copies import copied_database
from tests.helpers.databases import NewSettings

# No deadlines: tests assert behaviour, never seconds. In CI the same examples every time, so that a change is judged by
# what it changed; a developer's runs go on looking for new ones.
hypothesis.settings.register_profile("searchdb", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("searchdb")

TEMPLATE = "searchdb_template"
DEMO_IMAGES = 300
MEMORY_NEEDED = 4 << 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs whole processes as slow; `make test-fast` leaves it out.

    Their files and those of the browser come first: one that starts last would run alone at the end.
    """
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not {"integration", "browser"} & set(item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    """Keep the developer's own settings out of the tests."""
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith(("SEARCHDB_", "DATABASE_URL")):
            patch.delenv(name)
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TERM", "dumb")
    yield
    patch.undo()


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A new folder with a path short enough for a Unix socket; pytest's own grow with the test's name."""
    folder = Path(tempfile.mkdtemp(prefix="sdb-"))
    yield folder
    EmbeddedServer.at(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


def _memory_folder() -> Path | None:
    """Return Linux's folder in memory if it has room for a server and its databases; they are made in half the time."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > MEMORY_NEEDED else None


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """The embedded server of this run."""
    folder = Path(tempfile.mkdtemp(prefix="sdb-", dir=_memory_folder()))
    server = EmbeddedServer.at(folder)
    server.join()
    # The data need not survive a crash of the machine: without flushes, making a database takes half the time.
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
    engine.dispose()
    yield server
    server.leave()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def admin(server: EmbeddedServer) -> Iterator[sa.Engine]:
    """An engine that may create databases and roles."""
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _template(server: EmbeddedServer, admin: sa.Engine) -> None:
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {TEMPLATE}")
    with Database(_settings(server, TEMPLATE, server.home)) as database:
        migrate(database)


def _settings(server: EmbeddedServer, name: str, home: Path) -> Settings:
    url = libpq_url(server.url.set(database=name))
    return Settings(database_url=url, home=home, model="demo", allow_private_addresses=True)


@pytest.fixture(scope="session")
def new_settings(server: EmbeddedServer, admin: sa.Engine, _template: None) -> NewSettings:
    """A function of a home that gives the settings of a fresh, migrated database, as a context manager."""

    @contextlib.contextmanager
    def new(home: Path) -> Iterator[Settings]:
        with copied_database(admin, TEMPLATE) as name:
            yield _settings(server, name, home)

    return new


@pytest.fixture
def empty_settings(server: EmbeddedServer, admin: sa.Engine, tmp_path: Path) -> Iterator[Settings]:
    """Settings that name a database without any table."""
    with copied_database(admin, "template0") as name:
        yield _settings(server, name, tmp_path)


@pytest.fixture
def settings(new_settings: NewSettings, tmp_path: Path) -> Iterator[Settings]:
    """Settings that name a fresh, migrated database, the demo model, and a home in a temporary folder."""
    with new_settings(tmp_path) as settings:
        yield settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A fresh, migrated database."""
    with open_database(settings) as database:
        yield database


@pytest.fixture(scope="session")
def embedder() -> CLIPEmbedder:
    """The small CLIP that comes with searchdb."""
    return CLIPEmbedder("demo", dtype="float32")


@pytest.fixture
def collection(settings: Settings) -> Iterator[SearchDB]:
    """A fresh, empty collection with the demo model."""
    with SearchDB(settings) as collection:
        yield collection


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the first images of the demo album."""
    from searchdb.demo.album import draw_album

    folder = tmp_path_factory.mktemp("album")
    draw_album(folder, DEMO_IMAGES)
    return folder


@pytest.fixture(scope="session")
def demo_settings(
    new_settings: NewSettings, album: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings that name a database with the album ingested; tests only read it."""
    from searchdb.cli.demo import album_items

    with new_settings(tmp_path_factory.mktemp("home")) as settings:
        with SearchDB(settings) as collection:
            report = collection.ingest(album_items(album))
        assert report.stored == DEMO_IMAGES, str(report)
        yield settings


@pytest.fixture(scope="session")
def demo_collection(demo_settings: Settings) -> Iterator[SearchDB]:
    """The collection of `demo_settings`; tests only read it."""
    with SearchDB(demo_settings) as collection:
        yield collection


@pytest.fixture(scope="session")
def demo_database(demo_collection: SearchDB) -> Database:
    """The database of `demo_settings`; tests only read it."""
    return demo_collection.database
