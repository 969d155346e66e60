"""The number of numbers of a collection's vectors: an empty one takes that of its first model."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import text

from searchdb.config import Settings
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database, open_database
from searchdb.db.schema import migrate, outdated_objects
from searchdb.db.vectors import current_column
from searchdb.errors import DatabaseError
from searchdb.index.build import build_index
from searchdb.index.recall import measure_recall
from searchdb.records import ModelIdentity
from searchdb.repair import repair
from tests.helpers.schemas import OWNER, owned_database, settings_for
from tests.helpers.two_models import images_of, random_units, store_texts


def model_of(dimension: int) -> ModelIdentity:
    return ModelIdentity(name=f"of {dimension}", weights_sha256=dimension.to_bytes(32), dimension=dimension)


@pytest.mark.parametrize("dimension", [64, 1024, 1025, 2000])
def test_an_empty_collection_takes_the_width_of_its_first_model(settings: Settings, dimension: int) -> None:
    vectors = random_units(100, dimension)
    with open_database(settings) as database:
        images_of(database, model_of(dimension), vectors)
        store_texts(database, 1, {"a boat": vectors[7]})
        with database.begin() as connection:
            # A row with much metadata fits beside its vector: PostgreSQL moves the other values out of the row.
            connection.execute(
                text("UPDATE images SET description = repeat(md5(id::text), 3000), metadata = :json"),
                {"json": '{"a": "' + "".join(f"{n:x}" for n in range(4000)) + '"}'},
            )
        for method, value_type in (("hnsw", "halfvec"), ("ivfflat", "vector")):
            build_index(database.engine, method=method, value_type=value_type)
            with database.begin() as connection:
                hit = connection.execute(text("SELECT image, similarity FROM search_images('a boat', 0, 1)")).one()
            assert (hit.image, round(hit.similarity, 5)) == ("/7", 1)
            assert all(each.recall == 1 for each in measure_recall(database.engine, sample=20).recalls)
        with database.connect() as connection:
            assert outdated_objects(connection, "public") == []
    assert repair(settings).restored == []


def test_an_owner_without_superuser_rights_may(admin: sa.Engine, tmp_path: Path) -> None:
    place = owned_database(admin, "widened", tmp_path, extension_schema="extensions", search_path="photos")
    with place as settings, Database(settings) as database:
        migrate(database)
        images_of(database, model_of(1000), random_units(3, 1000))
        with database.connect() as connection:
            assert current_column(connection).dimension == 1000


def test_a_role_that_does_not_own_the_tables_is_told_what_to_do(admin: sa.Engine, tmp_path: Path) -> None:
    with owned_database(admin, "widened", tmp_path) as settings:
        with Database(settings) as database:
            migrate(database)
        url = admin.url.set(database="widened")
        with admin.connect() as connection:
            connection.execute(text("CREATE ROLE searchdb_writer LOGIN"))
        try:
            with Database(settings) as database, database.begin() as connection:
                for objects in ("TABLES", "SEQUENCES"):
                    connection.execute(text(f"GRANT ALL ON ALL {objects} IN SCHEMA public TO searchdb_writer"))
            with Database(settings_for(url, tmp_path, role="searchdb_writer")) as database:
                with pytest.raises(DatabaseError, match=rf"`searchdb model switch NAME` once as {OWNER}"):
                    images_of(database, model_of(1000), random_units(3, 1000))
                images_of(database, model_of(512), random_units(3, 512))
        finally:
            with admin.connect() as connection:
                connection.execute(text("DROP DATABASE widened WITH (FORCE)"))
                connection.execute(text("DROP ROLE searchdb_writer"))


def test_two_processes_at_once_agree(settings: Settings) -> None:
    errors: list[DatabaseError] = []

    def claim() -> None:
        try:
            with open_database(settings) as database, database.begin() as connection:
                claim_model(connection, model_of(768))
        except DatabaseError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with open_database(settings) as database, database.connect() as connection:
        assert current_column(connection).dimension == 768
        assert connection.scalar(text("SELECT count(*) FROM embedding_models WHERE current")) == 1
