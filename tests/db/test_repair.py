"""`searchdb db repair`, `db migrate` and every other command on a schema that something is missing from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from searchdb.client import SearchDB
from searchdb.config import Settings
from searchdb.db.counts import count_rows
from searchdb.db.database import Database, open_database
from searchdb.db.norms import CONSTRAINT
from searchdb.db.schema import SCHEMA_REVISION, migrate
from searchdb.db.tables import VECTOR_INDEX, embedding_models, images
from searchdb.errors import DatabaseError, SchemaError
from searchdb.index.status import index_status
from searchdb.media.embed import CLIPEmbedder
from searchdb.repair import repair
from tests.helpers.cli import output, run
from tests.helpers.old_schemas import fill_at_0009, upgrade_to
from tests.helpers.schemas import owned_database
from tests.helpers.vectors import clustered, fill

MATCH_IMAGES = "match_images(vector, double precision, integer)"
CACHE_CONSTRAINT = "query_embeddings_embedding_norm_check"
DAMAGES = {
    "match_images dropped": f"DROP FUNCTION {MATCH_IMAGES}",
    "text_embedding dropped": "DROP FUNCTION text_embedding(text)",
    "a cache table dropped": "DROP TABLE relevance_scale",
    "another index dropped": "DROP INDEX images_words_idx",
    "the vector index dropped": f"DROP INDEX {VECTOR_INDEX}",
    "the vector index invalid": f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{VECTOR_INDEX}'::regclass",
    "match_images changed": f"ALTER FUNCTION {MATCH_IMAGES} RESET search_path",
    "the CHECK dropped": f"ALTER TABLE images DROP CONSTRAINT {CONSTRAINT}",
    "the CHECK of the cache dropped": f"ALTER TABLE query_embeddings DROP CONSTRAINT {CACHE_CONSTRAINT}",
    "a primary key dropped": "ALTER TABLE images DROP CONSTRAINT images_pkey CASCADE",
    "a unique constraint dropped": "ALTER TABLE images DROP CONSTRAINT images_image_key",
    "a foreign key dropped": "ALTER TABLE image_sample DROP CONSTRAINT image_sample_image_id_fkey",
    "a primary key of the dataset's dropped": "ALTER TABLE unsplash_photos DROP CONSTRAINT unsplash_photos_pkey",
    "an index of the dataset's dropped": "DROP INDEX unsplash_keywords_keyword_idx",
    "the domain dropped": "DROP DOMAIN searchdb_embedding",
    "the view dropped": "DROP VIEW videos",
}


def fill_demo(settings: Settings, embedder: CLIPEmbedder, rows: int) -> None:
    """Store made-up vectors, ids from 1 on, as if the demo's model had made them."""
    with open_database(settings) as database:
        fill(database, clustered(rows))
        with database.begin() as connection:
            connection.execute(sa.update(embedding_models).values(weights_sha256=embedder.identity.weights_sha256))


def execute(settings: Settings, *statements: str) -> None:
    with Database(settings) as database, database.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def test_what_is_damaged_is_put_back(settings: Settings, embedder: CLIPEmbedder) -> None:
    fill_demo(settings, embedder, 50)
    assert output(run(settings, "db", "repair")) == "nothing is missing\n"
    execute(settings, f"ALTER FUNCTION {MATCH_IMAGES} SET ivfflat.probes = 7")
    for name, damage in DAMAGES.items():
        execute(settings, damage)
        assert "put back" in output(run(settings, "db", "repair")), name
        assert run(settings, "db", "migrate").exit_code == 0, name  # which checks that nothing is missing
    assert output(run(settings, "db", "repair")) == "nothing is missing\n"
    with SearchDB(settings) as collection:
        assert len(collection.search("a boat", threshold=-1, count=50)) == 50


def test_repair_keeps_what_was_tuned(settings: Settings) -> None:
    execute(settings, f"ALTER FUNCTION {MATCH_IMAGES} SET hnsw.ef_search = 77", DAMAGES["match_images changed"])
    assert repair(settings).restored == ["function match_images"]
    with open_database(settings) as database, database.connect() as connection:
        assert index_status(connection).ef_search == 77


@pytest.mark.parametrize(
    "damage",
    ["match_images dropped", "match_images changed", "the vector index dropped", "a unique constraint dropped"],
)
def test_migrate_says_what_is_missing(settings: Settings, damage: str) -> None:
    execute(settings, DAMAGES[damage])
    result = run(settings, "db", "migrate")
    assert result.exit_code == 1
    assert "searchdb db repair" in result.stderr
    assert any(name in result.stderr for name in ("match_images", VECTOR_INDEX, "images_image_key"))


def test_a_queue_without_its_keys_is_half_restored(settings: Settings) -> None:
    execute(settings, "ALTER TABLE procrastinate_workers DROP CONSTRAINT procrastinate_workers_pkey CASCADE")
    assert "procrastinate_workers_pkey" in run(settings, "db", "migrate").stderr
    with pytest.raises(SchemaError, match=r"procrastinate_workers_pkey.*restore the backup again"):
        repair(settings)


def test_a_key_that_the_rows_break_is_one_line(settings: Settings) -> None:
    with open_database(settings) as database:
        fill(database, clustered(2))
    execute(settings, DAMAGES["a unique constraint dropped"], "UPDATE images SET image = 'twice'")
    result = run(settings, "db", "repair")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "images_image_key" in result.stderr


COMMANDS = (["status"], ["index", "status"], ["index", "build"], ["search", "x"], ["failures", "list"], ["embed", "x"])


@pytest.mark.parametrize(
    ("kind", "name"), [("FUNCTION", "match_images"), ("TABLE", "index_recalls"), ("VIEW", "videos")]
)
def test_every_command_names_what_is_missing_in_one_line(settings: Settings, kind: str, name: str) -> None:
    execute(settings, f"DROP {kind} {name} CASCADE")
    for command in COMMANDS:
        result = run(settings, *command)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), (command, result.output)
        assert f"{kind.lower()} {name}" in result.stderr
        assert "searchdb db repair" in result.stderr


def use(collection: SearchDB) -> list[Callable[[], object]]:
    """What a process does that had opened the collection when it was still complete."""
    return [collection.status, lambda: collection.search("a boat"), collection.build_index]


def test_what_goes_missing_later_is_named_too(settings: Settings) -> None:
    with SearchDB(settings) as collection:
        with collection.database.begin() as connection:
            connection.execute(sa.text(f"DROP FUNCTION {MATCH_IMAGES}"))
        for action in use(collection):
            with pytest.raises(DatabaseError, match=r"match_images.* `searchdb db repair`"):
                action()


def test_a_count_of_a_table_that_goes_missing_names_it(settings: Settings) -> None:
    with open_database(settings) as database, database.begin() as connection:
        connection.execute(sa.text("DROP TABLE images CASCADE"))
        with pytest.raises(SchemaError, match=r"images.* `searchdb db repair`"):
            count_rows(connection, images)


def test_a_table_whose_rows_are_gone_is_not_made_up(settings: Settings) -> None:
    execute(settings, "DROP TABLE images CASCADE")
    with pytest.raises(SchemaError, match=r"table images.*backup"):
        repair(settings)


def test_a_dropped_column_is_not_made_up(settings: Settings) -> None:
    execute(settings, "ALTER TABLE images DROP COLUMN camera CASCADE")
    assert "column images.camera" in run(settings, "status").stderr
    with pytest.raises(SchemaError, match=r"column images\.camera.*backup"):
        repair(settings)


def test_a_dropped_extension_is_one_line(settings: Settings) -> None:
    execute(settings, "DROP EXTENSION vector CASCADE")
    for command in (["search", "x"], ["status"], ["db", "migrate"], ["db", "repair"]):
        result = run(settings, *command)
        assert (result.exit_code, result.stderr.splitlines()[-1].count("extension vector")) == (1, 1), result.output
        assert "only a backup" in result.stderr


def test_an_error_about_an_object_of_the_users_own_says_nothing_of_repair(database: Database) -> None:
    with database.connect() as connection, pytest.raises(DatabaseError) as caught:
        connection.execute(sa.text("SELECT * FROM my_images"))
    assert "repair" not in str(caught.value)


def test_repair_needs_the_current_revision(empty_settings: Settings) -> None:
    with pytest.raises(SchemaError, match="searchdb db migrate"):
        repair(empty_settings)


def test_an_owner_without_superuser_rights_repairs(admin: sa.Engine, tmp_path: Path) -> None:
    with owned_database(admin, "repaired", tmp_path, extension_schema="extensions", search_path="photos") as settings:
        assert run(settings, "db", "migrate").exit_code == 0
        for damage in ("match_images dropped", "the vector index dropped", "a cache table dropped"):
            execute(settings, DAMAGES[damage])
        assert len(repair(settings).restored) == 3
        assert repair(settings).restored == []


ZERO = f"array_fill(0::real, ARRAY[{512}])::vector"


def test_rows_from_before_the_check_are_named_and_block_nothing(settings: Settings, embedder: CLIPEmbedder) -> None:
    fill_demo(settings, embedder, 20)
    execute(
        settings,
        f"ALTER TABLE images DROP CONSTRAINT {CONSTRAINT}",
        f"UPDATE images SET embedding = {ZERO} WHERE id IN (3, 5)",
    )
    result = run(settings, "db", "repair")
    assert result.exit_code == 1
    assert "2 images have vectors without a usable length (id 3, 5)" in result.stderr
    with SearchDB(settings) as collection:
        assert len(collection.search("a boat", threshold=-1, count=50)) == 18
    execute(settings, "DELETE FROM images WHERE id IN (3, 5)")
    assert run(settings, "db", "repair").exit_code == 0
    with open_database(settings) as database, database.connect() as connection:
        validated = "SELECT convalidated FROM pg_constraint WHERE conname = :name"
        assert connection.scalar(sa.text(validated), {"name": CONSTRAINT}) is True


def test_a_row_that_no_index_can_hold_is_named(settings: Settings, embedder: CLIPEmbedder) -> None:
    fill_demo(settings, embedder, 20)
    huge = ZERO.replace("0::real", "1e30::real")
    execute(settings, *(DAMAGES[f"the {what} dropped"] for what in ("CHECK", "vector index")))
    execute(settings, f"UPDATE images SET embedding = {huge} WHERE id = 3")
    assert "`searchdb db repair` names it" in run(settings, "index", "build").stderr
    result = run(settings, "db", "repair")
    assert result.exit_code == 1
    assert "(id 3)" in result.stderr
    execute(settings, "DELETE FROM images WHERE id = 3")
    assert "the vector index" in output(run(settings, "db", "repair"))


@pytest.mark.parametrize("number", ["0", "1e-30", "1e-6", "1e30", "3000"])
def test_vectors_that_no_search_can_rank_are_refused(database: Database, number: str) -> None:
    fill(database, clustered(3))
    vector = f"array_fill({number}::real, ARRAY[512])::vector"
    for statement in (
        f"UPDATE images SET embedding = {vector}",
        f"INSERT INTO query_embeddings (embedding_model_id, query, embedding) VALUES (1, 'x', {vector})",
    ):
        with pytest.raises(DatabaseError, match="embedding_norm_check"), database.begin() as connection:
            connection.execute(sa.text(statement))


@pytest.mark.parametrize("number", [1e-30, 1e30])
def test_match_images_refuses_query_vectors_out_of_range(database: Database, number: float) -> None:
    vector = np.full(512, number, np.float32)
    with database.connect() as connection, pytest.raises(DatabaseError, match="has the length"):
        connection.execute(sa.text("SELECT * FROM match_images(:vector)"), {"vector": vector})


def test_rows_that_break_the_check_do_not_block_the_migration(empty_settings: Settings) -> None:
    with Database(empty_settings) as database:
        upgrade_to(database, "0009")
        fill_at_0009(database, 20)
        bad = f"UPDATE images SET embedding = {ZERO} WHERE id IN (3, 5, 7, 8, 9, 11)"
        with database.begin() as connection:
            connection.execute(sa.text(bad))
            connection.execute(sa.text("INSERT INTO image_sample SELECT id, embedding FROM images"))
            cached = "INSERT INTO query_embeddings SELECT 1, 'text ' || id, embedding FROM images"
            connection.execute(sa.text(cached))
    result = run(empty_settings, "db", "migrate")
    assert result.exit_code == 0, result.output
    assert f"the schema is at {SCHEMA_REVISION}" in result.stderr
    with open_database(empty_settings) as database, database.connect() as connection:
        counts = [
            connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
            for table in ("images", "image_sample", "query_embeddings")
        ]
        assert counts == [20, 14, 14]
    again = run(empty_settings, "db", "repair")
    assert again.exit_code == 1
    assert "6 images have vectors without a usable length (id 3, 5, 7, 8, 9, ...)" in again.stderr


def test_the_migration_names_the_rows_that_break_the_check(
    empty_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with Database(empty_settings) as database:
        upgrade_to(database, "0009")
        fill_at_0009(database, 3)
        with database.begin() as connection:
            connection.execute(sa.text(f"UPDATE images SET embedding = {ZERO} WHERE id = 2"))
        migrate(database)
    assert "1 image has a vector without a usable length (id 2)" in caplog.text
