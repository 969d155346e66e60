"""The commands of docs/operations.md that back up, restore and separate collections, run without a superuser."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database, open_database
from searchdb.db.embedded_programs import program_path
from searchdb.db.functions import FUNCTIONS
from searchdb.db.schema import migrate
from searchdb.db.vectors import other_columns
from searchdb.index.build import build_index
from searchdb.switch.change_over import change_over
from searchdb.switch.finish import finish
from tests.helpers.old_schemas import fill_at_0009, upgrade_to
from tests.helpers.schemas import OWNER, make_owner, owned_database, settings_for
from tests.helpers.two_models import OTHER, begin, fill_column, random_units, store_texts
from tests.helpers.vectors import cache_texts, clustered, fill
from tests.helpers.warm_shell import warm_searchdb

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.slow
PLACES = {"public": ("public", None), "schemas": ("extensions", "photos")}


def blocks(heading: str, language: str = "sh") -> list[str]:
    """Return the commands of a section of docs/operations.md, a string for each block."""
    section = OPERATIONS.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


class Shell:
    """Runs commands as a user would, with PostgreSQL's programs and `searchdb` on the PATH."""

    def __init__(self, folder: Path, admin: sa.Engine, searchdb: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{searchdb.parent}:{program_path('psql').parent}:{os.environ['PATH']}",
            "SEARCHDB_HOME": str(folder / "home"),
            "SEARCHDB_MODEL": "demo",
            "ADMIN_URL": libpq_url(admin.url),
        }

    def run(self, commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path, admin: sa.Engine) -> Iterator[Shell]:
    make_owner(admin)
    with warm_searchdb() as searchdb:
        yield Shell(tmp_path, admin, searchdb)
    with admin.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS restored WITH (FORCE)"))


@pytest.fixture(scope="module", params=PLACES.values(), ids=list(PLACES))
def source(
    request: pytest.FixtureRequest, admin: sa.Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A collection of OWNER's with images, a cached text, a tuned function, a view, and an index over halves.

    It was switched to another model, so that each image has the vectors of two.
    """
    extension_schema, search_path = request.param
    home = tmp_path_factory.mktemp("home")
    place = owned_database(admin, "original", home, extension_schema=extension_schema, search_path=search_path)
    with place as given:
        with Database(given) as database:
            migrate(database)
            vectors = clustered(300)
            fill(database, vectors)
            cache_texts(database, vectors[:1])
        with SearchDB(given) as collection:
            collection.build_index(method="hnsw")
            switch_to_other(collection.database)
            with collection.database.begin() as connection:
                for statement in (
                    "ALTER FUNCTION match_images(vector, double precision, integer) SET hnsw.ef_search = 123",
                    "CREATE MATERIALIZED VIEW best AS SELECT * FROM search_images('text 0', 0, 5)",
                ):
                    connection.execute(sa.text(statement))
        yield given


def switch_to_other(database: Database) -> None:
    """Make OTHER, with made-up vectors, the collection's model."""
    switch = begin(database, OTHER)
    with database.connect() as connection:
        ids = connection.scalars(sa.text("SELECT id FROM images ORDER BY id")).all()
    vectors = random_units(len(ids) + 1, OTHER.dimension)
    fill_column(database, switch.column, dict(zip(ids, vectors[1:], strict=True)))
    store_texts(database, switch.model_id, {"text 0": vectors[0]})
    build_index(database.engine, column=switch.column)
    change_over(database, switch)
    finish(database)


def content(settings: Settings) -> dict[str, object]:
    """Return all rows, the definitions, and the result of a search."""
    with SearchDB(settings) as collection, collection.database.connect() as connection:
        schema = connection.scalar(sa.text("SELECT current_schema()"))
        tables = connection.scalars(
            sa.text("SELECT tablename FROM pg_tables WHERE schemaname = :schema ORDER BY 1"), {"schema": schema}
        ).all()
        rows = {
            name: connection.scalar(
                sa.text(f"SELECT md5(coalesce(string_agg(t::text, '' ORDER BY t::text), '')) FROM {name} t")
            )
            for name in tables
        }
        functions = connection.execute(
            sa.text(
                "SELECT proname, proconfig, prosrc FROM pg_proc WHERE pronamespace = to_regnamespace(:schema) "
                "AND (proname = ANY (:names) OR proname LIKE 'match_images%') ORDER BY 1"
            ),
            {"schema": schema, "names": list(FUNCTIONS)},
        )
        indexes = connection.scalars(
            sa.text("SELECT indexdef FROM pg_indexes WHERE schemaname = :schema ORDER BY 1"), {"schema": schema}
        )
        found = connection.execute(sa.text("SELECT * FROM search_images('text 0', -1, 20)"))
        (kept,) = other_columns(connection)
        by_kept = connection.execute(
            sa.text(f"SELECT * FROM {kept.function}((SELECT {kept.name} FROM images WHERE id = 1), -1, 20)")
        )
        view = connection.execute(sa.text("SELECT * FROM best"))
        return {
            "rows": rows,
            "functions": [tuple(row) for row in functions],
            "indexes": list(indexes),
            "found": [tuple(row) for row in found],
            "by the kept vectors": [tuple(row) for row in by_kept],
            "view": [tuple(row) for row in view],
        }


BACKUP, CREATE, PG_RESTORE, PSQL, EMBEDDED = blocks("Backup and restore")


@pytest.mark.parametrize("commands", [[BACKUP, PG_RESTORE], [PSQL]], ids=["pg_restore", "psql"])
def test_the_owner_restores_a_dump(source: Settings, shell: Shell, admin: sa.Engine, commands: list[str]) -> None:
    url = source.url()
    assert url is not None
    create = CREATE
    commands = list(commands)
    if "photos" in str(url):
        commands[0] = commands[0].replace("pg_dump", "pg_dump --exclude-schema=extensions", 1)
        create = create.replace(
            "CREATE EXTENSION vector",
            f"CREATE SCHEMA extensions; GRANT USAGE ON SCHEMA extensions TO {OWNER}; "
            "CREATE EXTENSION vector WITH SCHEMA extensions",
        )
    create = create.replace("searchdb_app", OWNER)
    before = content(source)
    restored = url.set(database="restored")
    for block in (create, *commands):
        result = shell.run(block, DATABASE_URL=libpq_url(url), NEW_DATABASE_URL=libpq_url(restored))
        assert result.returncode == 0, result.stderr
        assert "ERROR" not in result.stderr
    assert content(Settings(database_url=libpq_url(restored), home=source.home, model="demo")) == before


def test_a_dump_of_the_embedded_server(shell: Shell, used_home: Path) -> None:
    result = shell.run(EMBEDDED, SEARCHDB_HOME=str(used_home))
    assert result.returncode == 0, result.stderr
    assert (shell.folder / "searchdb.dump").stat().st_size > 0


def test_an_index_that_could_not_be_built_is_repaired(admin: sa.Engine, shell: Shell, tmp_path: Path) -> None:
    with owned_database(admin, "source", tmp_path) as source:
        with Database(source) as database:
            migrate(database)
            fill(database, clustered(300))
        with SearchDB(source) as collection:
            collection.build_index(method="ivfflat", lists=100)
        url = source.url()
        assert url is not None
        restored = url.set(database="restored")
        create = CREATE.replace("searchdb_app", OWNER)
        small = PG_RESTORE.replace("1GB", "64kB").replace("searchdb.dump", "searchdb.dump || true")
        result = shell.run(
            f"{BACKUP}\n{create}\n{small}",
            DATABASE_URL=libpq_url(url),
            NEW_DATABASE_URL=libpq_url(restored),
        )
        assert result.returncode == 1
        assert "maintenance_work_mem" in result.stderr
        assert "index images_embedding_idx. Run `searchdb db repair`" in result.stderr
        repaired = shell.run("searchdb db repair && searchdb db migrate", DATABASE_URL=libpq_url(restored))
        assert repaired.returncode == 0, repaired.stderr
        assert repaired.stdout == "put back: the vector index\n"


def test_a_collection_in_a_schema_of_its_own(admin: sa.Engine, shell: Shell, tmp_path: Path) -> None:
    with owned_database(admin, "media", tmp_path) as settings:
        url = settings.url()
        assert url is not None
        documented = "postgresql://searchdb_app@db.example/media"
        (commands,) = blocks("Several collections on one server")
        address = libpq_url(url)
        commands = commands.replace(f"{documented}?", f"{address}&").replace(documented, address)
        result = shell.run(commands)
        assert result.returncode == 0, result.stderr
        with Database(settings) as database, database.connect() as connection:
            schemas = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('images', 'procrastinate_jobs')"
            assert connection.scalars(sa.text(schemas)).all() == ["photos"]


def test_the_sql_for_supabase(admin: sa.Engine, tmp_path: Path) -> None:
    with owned_database(admin, "supabase", tmp_path, extension_schema="extensions") as settings:
        create, function = blocks("Supabase", "sql")
        url = settings.url()
        assert url is not None
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text(create))
        own = settings_for(url, tmp_path, search_path="photos")
        with Database(own) as database:
            migrate(database)
            fill(database, clustered(30))
        with engine.begin() as connection:
            connection.execute(sa.text(function))
            connection.execute(sa.text("SET search_path = public"))
            assert len(connection.execute(sa.text("SELECT * FROM similar_images(5)")).all()) == 10
        engine.dispose()


def test_a_dump_of_before_the_domain_is_completed_by_the_migration(
    admin: sa.Engine, shell: Shell, tmp_path: Path
) -> None:
    with owned_database(admin, "source", tmp_path) as source:
        with Database(source) as database:
            upgrade_to(database, "0009")
            fill_at_0009(database, 30)
        url = source.url()
        assert url is not None
        restored = url.set(database="restored")
        create = CREATE.replace("searchdb_app", OWNER)
        restore = PG_RESTORE.replace("searchdb.dump", "searchdb.dump || true")
        result = shell.run(
            f"{BACKUP}\n{create}\n{restore}", DATABASE_URL=libpq_url(url), NEW_DATABASE_URL=libpq_url(restored)
        )
        assert result.returncode == 0, result.stderr
        assert 'permission denied to set parameter "ivfflat.iterative_scan"' in result.stderr
        with open_database(Settings(database_url=libpq_url(restored))) as database, database.connect() as connection:
            vector = "(SELECT embedding FROM images WHERE id = 1)"
            assert len(connection.execute(sa.text(f"SELECT * FROM match_images({vector}, -1, 30)")).all()) == 30
