"""Collections in any schema, with the extension in another one, called with any search_path; by no superuser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.database import Database, open_database
from searchdb.db.schema import SCHEMA_REVISION, migrate, schema_revision
from searchdb.errors import SchemaError
from searchdb.search.filters import Filters
from searchdb.search.query import Query
from searchdb.search.to_sql import search_to_sql
from tests.helpers.schemas import OWNER, owned_database, settings_for

PLACES = {
    "extension on the path": ("extensions", "photos,extensions"),
    "extension in public, off the path": ("public", "photos"),
    "names that need quotes": ('"Pg Vector"', '"My Photos"'),
    "default path": ("extensions", None),
}


@pytest.fixture(params=PLACES.values(), ids=list(PLACES))
def placed(request: pytest.FixtureRequest, admin: sa.Engine, tmp_path: Path) -> Iterator[Settings]:
    extension_schema, search_path = request.param
    path = search_path and search_path.replace(" ", "\\ ")
    with owned_database(admin, "placed", tmp_path, extension_schema=extension_schema, search_path=search_path) as given:
        url = given.url()
        assert url is not None
        settings = settings_for(url, tmp_path, search_path=path)
        with Database(settings) as database:
            migrate(database)
        yield settings


CALLS = {
    "match_images": (
        "SELECT count(*) FROM {schema}.match_images((SELECT embedding FROM {schema}.images LIMIT 1), -1, 3)",
        3,
    ),
    "text_embedding": ("SELECT count(*) FROM (SELECT {schema}.text_embedding('a boat')) AS found", 1),
    "search_images": ("SELECT count(*) FROM {schema}.search_images('a boat', -1, 3)", 3),
    "image_words": ("SELECT count(*) FROM {schema}.image_words('a boat', '{{sea}}')", 1),
    "a view": ("SELECT count(*) FROM {schema}.boats", 3),
    "a materialized view": ("SELECT count(*) FROM {schema}.stored_boats", 3),
}


@pytest.mark.slow
def test_a_collection_works_wherever_it_and_the_extension_are(placed: Settings, album: Path) -> None:
    with SearchDB(placed) as collection:
        some = sorted(album.glob("*.jpg"))[:12]
        assert collection.ingest_files(*some).stored == len(some)
        hits = collection.search("a boat", count=5, threshold=-1)
        assert len(hits) == 5
        assert collection.search(like=hits[0].id, count=3, threshold=-1)[0].id != hits[0].id
        assert [hit.id for hit in collection.search("a boat", where="id > 0", count=5, threshold=-1)] == [
            hit.id for hit in hits
        ]
        assert collection.build_index() is not None
        assert collection.status().index.method is not None
        with collection.database.begin() as connection:
            shown = search_to_sql(Query(text="a boat"), Filters(where="id > 0"), threshold=-1, count=5)
            assert [row[0] for row in connection.execute(sa.text(shown))] == [hit.id for hit in hits]
            schema = connection.scalar(sa.text("SELECT quote_ident(current_schema())"))
            select = "SELECT * FROM search_images('a boat', -1, 3)"
            connection.execute(sa.text(f"CREATE VIEW boats AS {select}"))
            connection.execute(sa.text(f"CREATE MATERIALIZED VIEW stored_boats AS {select}"))
        url = collection.database.libpq_url
    with psycopg.connect(url, autocommit=True) as raw:
        for path in ("''", "pg_catalog", "public"):
            raw.execute(f"SET search_path = {path}".encode())
            raw.execute(f"REFRESH MATERIALIZED VIEW {schema}.stored_boats".encode())
            for name, (call, count) in CALLS.items():
                row = raw.execute(call.format(schema=schema).encode()).fetchone()
                assert row == (count,), (name, path)


def test_collections_in_schemas_of_one_database_do_not_see_each_other(admin: sa.Engine, tmp_path: Path) -> None:
    """The extension is in `public`, which has a collection, too; the second one's search_path does not name it."""
    with owned_database(admin, "shared", tmp_path, search_path="photos") as photos:
        url = photos.url()
        assert url is not None
        with admin.connect() as connection:
            connection.execute(sa.text(f"GRANT ALL ON DATABASE shared TO {OWNER}"))
        public = settings_for(url.set(query={"host": url.query["host"]}), tmp_path)
        with Database(public) as database:
            migrate(database)
        with pytest.raises(SchemaError, match="no searchdb tables yet"):
            open_database(photos)
        with Database(photos) as database:
            migrate(database)
            with database.begin() as connection:
                assert schema_revision(connection) == SCHEMA_REVISION
                connection.execute(sa.text("DROP INDEX photos.images_embedding_idx"))
        with SearchDB(photos) as collection, SearchDB(public) as other:
            assert collection.status().index.method is None
            before = other.status().index
            assert collection.build_index() is not None
            assert collection.status().index.method == "ivfflat"
            assert other.status().index == before


def test_the_extension_does_not_go_into_a_collections_own_schema(empty_settings: Settings) -> None:
    """Otherwise dropping one collection would drop the vectors of all others."""
    url = empty_settings.url()
    assert url is not None
    with Database(empty_settings) as database, database.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA photos"))
    moved = url.update_query_dict({"options": "-csearch_path=photos"})
    with Database(Settings(database_url=libpq_url(moved))) as database:
        migrate(database)
        with database.connect() as connection:
            schema = sa.text(
                "SELECT CAST(CAST(extnamespace AS regnamespace) AS text) FROM pg_extension WHERE extname = 'vector'"
            )
            assert connection.scalar(schema) == "public"
            assert connection.scalar(sa.text("SELECT to_regclass('photos.images') IS NOT NULL"))
            assert connection.scalar(sa.text("SELECT to_regclass('public.images') IS NULL"))


def test_a_search_path_without_any_schema_is_one_line(empty_settings: Settings) -> None:
    url = empty_settings.url()
    assert url is not None
    nowhere = libpq_url(url.update_query_dict({"options": "-csearch_path=nowhere"}))
    with pytest.raises(SchemaError, match="names no schema"):
        open_database(Settings(database_url=nowhere))
    with Database(Settings(database_url=nowhere)) as database, pytest.raises(SchemaError, match="CREATE SCHEMA"):
        migrate(database)


def test_an_extension_that_we_may_not_use_is_one_line(admin: sa.Engine, tmp_path: Path) -> None:
    with owned_database(admin, "closed", tmp_path, extension_schema="extensions") as settings:
        engine = sa.create_engine(admin.url.set(database="closed"))
        with engine.begin() as connection:
            connection.execute(sa.text(f"REVOKE USAGE ON SCHEMA extensions FROM {OWNER}"))
        engine.dispose()
        with pytest.raises(SchemaError, match=f"GRANT USAGE ON SCHEMA extensions TO {OWNER}"):
            open_database(settings)
