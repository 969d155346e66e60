"""Whose database it is: our version table, other applications' tables, and databases of before the version table."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database, open_database
from searchdb.db.schema import DATASET_TABLES, SCHEMA_REVISION, TABLES, migrate, schema_revision
from searchdb.errors import SchemaError
from searchdb.unsplash.tables import metadata
from tests.helpers.cli import run
from tests.helpers.old_schemas import alembic


def execute(settings: Settings, *statements: str) -> None:
    with Database(settings) as database, database.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def scalar(settings: Settings, query: str) -> object:
    with Database(settings) as database, database.connect() as connection:
        return connection.scalar(sa.text(query))


THEIRS = ("CREATE TABLE alembic_version (version_num varchar(32))", "INSERT INTO alembic_version VALUES ('0006')")


def test_all_our_tables_are_known(database: Database) -> None:
    with database.connect() as connection:
        tables = connection.scalars(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
    assert set(tables) == TABLES | {"searchdb_version"}
    assert {f"unsplash_{name}" for name in DATASET_TABLES} == {
        name for name in metadata.tables if name.startswith("unsplash_")
    }


def test_another_applications_alembic_version_is_left_alone(empty_settings: Settings) -> None:
    execute(empty_settings, *THEIRS)
    with pytest.raises(SchemaError, match="no searchdb tables yet"):
        open_database(empty_settings)
    result = run(empty_settings, "db", "migrate")
    assert (result.exit_code, result.stderr) == (0, f"the schema is at {SCHEMA_REVISION}\n")
    assert scalar(empty_settings, "SELECT version_num FROM alembic_version") == "0006"
    assert scalar(empty_settings, "SELECT version_num FROM searchdb_version") == SCHEMA_REVISION
    assert scalar(empty_settings, "SELECT count(*) FROM images") == 0
    assert run(empty_settings, "status").exit_code == 0


@pytest.mark.slow
def test_our_own_alembic_version_of_before_becomes_searchdb_version(empty_settings: Settings) -> None:
    assert alembic(empty_settings, "upgrade", "0009").returncode == 0
    assert scalar(empty_settings, "SELECT version_num FROM alembic_version") == "0009"
    with pytest.raises(SchemaError, match=r"is at 0009.*searchdb db migrate"):
        open_database(empty_settings)
    assert alembic(empty_settings, "upgrade", "head").returncode == 0
    assert scalar(empty_settings, "SELECT to_regclass('alembic_version') IS NULL") is True
    # Another application may come now.
    execute(empty_settings, *THEIRS)
    with open_database(empty_settings) as database, database.connect() as connection:
        assert schema_revision(connection) == SCHEMA_REVISION
    assert run(empty_settings, "db", "migrate").exit_code == 0
    assert scalar(empty_settings, "SELECT version_num FROM alembic_version") == "0006"


@pytest.mark.parametrize("loss", ["DROP TABLE searchdb_version", "DELETE FROM searchdb_version"])
def test_a_collection_without_its_revision_is_not_another_applications(settings: Settings, loss: str) -> None:
    execute(settings, loss)
    result = run(settings, "db", "migrate")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "the schema public has a collection, but not the revision of its tables" in result.stderr
    way_out = result.stderr.partition("run CREATE ")[2].strip()
    execute(settings, *f"CREATE {way_out}".split(" and "))
    assert run(settings, "db", "migrate").exit_code == 0
    assert run(settings, "status").exit_code == 0


def test_a_table_of_another_application_with_a_name_of_ours(empty_settings: Settings) -> None:
    for table in ("ingest_failures", "procrastinate_jobs", "images"):
        execute(empty_settings, f"CREATE TABLE {table} (id int)")
        result = run(empty_settings, "db", "migrate")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert f"has a table {table} that is not searchdb's" in result.stderr
        assert "CREATE SCHEMA searchdb" in result.stderr
        assert "options=-csearch_path%3Dsearchdb" in result.stderr
        execute(empty_settings, f"ALTER TABLE {table} RENAME TO theirs_{table}")
    execute(empty_settings, "ALTER TABLE theirs_images RENAME TO images")
    # the way out that it names
    execute(empty_settings, "CREATE SCHEMA searchdb")
    url = empty_settings.url()
    assert url is not None
    own = url.update_query_dict({"options": "-csearch_path=searchdb"})
    moved = Settings(database_url=libpq_url(own), home=empty_settings.home, model="demo")
    with Database(moved) as database:
        migrate(database)
    with SearchDB(moved) as collection:
        assert collection.status().images == 0
    assert scalar(empty_settings, "SELECT count(*) FROM public.images") == 0
    assert scalar(empty_settings, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 3
