"""A populated database of each released revision is migrated to the newest one and keeps every row and every search."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
import sqlalchemy as sa

from searchdb.config import Settings
from searchdb.db.database import Database, open_database
from searchdb.db.schema import TABLES
from tests.helpers.cli import run
from tests.helpers.old_schemas import alembic, released_revisions, upgrade_to

# Plain SQL, which goes with every revision from 0006 on: columns that later ones added have defaults.
POPULATE = r"""
CREATE FUNCTION pg_temp.made_up(seed integer) RETURNS vector LANGUAGE sql AS $$
    SELECT l2_normalize(array_agg(sin(seed * 7.3 + i * i * 0.37)::real ORDER BY i)::vector)
    FROM generate_series(1, 512) i
$$;
INSERT INTO embedding_models (name, weights_sha256, current) VALUES ('old', '\x00', false), ('test', '\x01', true);
INSERT INTO images (
    image, rendition, source, source_id, embedding, embedding_model_id, sha256, width, height, description, credit,
    credit_url, page_url, taken_at, camera, country, city, latitude, longitude, tags, metadata, byte_size,
    modified_at, colour
)
SELECT '/photos/' || n || '.jpg', 'http://h/' || n, 'files', n::text, pg_temp.made_up(n), 2, sha256(n::text::bytea),
    100 + n, 200 - n, 'a boat ' || n, 'Zoe' || U&'\0308', 'http://h/z', 'http://h/p',
    timestamptz '2024-01-01' + n * interval '1 day',
    'Nikon', 'Chile', CASE n % 3 WHEN 0 THEN U&'Malmo\0308' WHEN 1 THEN U&'Malm\00f6' END, n, -n,
    ARRAY['tag ' || n % 5, U&'Cafe\0301', 'sea'], jsonb_build_object('n', n), n, timestamptz '2024-02-01', '#8a7f66'
FROM generate_series(1, 60) AS n;
INSERT INTO query_embeddings (embedding_model_id, query, embedding)
    VALUES (2, 'a boat', pg_temp.made_up(7)), (2, U&'a cafe\0301', pg_temp.made_up(8)),
        (1, 'a boat', pg_temp.made_up(9));
INSERT INTO image_sample SELECT id, embedding FROM images WHERE id <= 30;
INSERT INTO ingest_failures (image, source, error, message, retryable, item) VALUES
    ('/photos/a', 'files', 'HTTPStatusError', 'no', true, '{"image": "/photos/a", "source": "files"}'),
    ('/photos/b', 'files', :damaged, 'no', false, NULL);
INSERT INTO procrastinate_jobs (id, queue_name, task_name, priority, status)
    OVERRIDING SYSTEM VALUE VALUES (1, 'urls', 'searchdb.ingest_chunk', 0, 'todo');
INSERT INTO ingest_pending (image, source, item, job_id, run_ids)
    VALUES ('http://h/c', 'urls', '{"image": "http://h/c", "source": "urls"}', 1, ARRAY[gen_random_uuid()]);
INSERT INTO ingest_chunks (run_id, worker, stored, copied, unchanged, failed)
    VALUES (gen_random_uuid(), 'host:1', 5, 0, 1, '{"HTTPStatusError": 2}');
INSERT INTO index_builds (method, lists, row_count, seconds) VALUES ('ivfflat', 1, 60, 0.5);
INSERT INTO index_recalls (kind, method, lists, setting, row_count, queries, match_count, recall, p50_ms, p95_ms,
    exact_p50_ms, exact_p95_ms, target) VALUES ('text', 'ivfflat', 1, 3, 60, 10, 10, 0.99, 1, 2, 3, 4, 0.98);
INSERT INTO unsplash_photos (photo_id, photo_description) VALUES ('1', 'a boat');
INSERT INTO unsplash_keywords (photo_id, keyword) VALUES ('1', 'boat');
CREATE VIEW boats AS SELECT * FROM search_images('a boat', -1, 5);
ALTER FUNCTION match_images(vector, double precision, integer) SET ivfflat.probes = 3;
"""
TEXTS = ("description", "credit", "camera", "country", "city")
NORMALIZE = f"""
UPDATE images SET {", ".join(f"{name} = normalize({name}, NFC)" for name in TEXTS)},
    tags = ARRAY(SELECT normalize(tag, NFC) FROM unnest(tags) WITH ORDINALITY AS list (tag, place) ORDER BY place);
UPDATE query_embeddings SET query = normalize(query, NFC);
"""
"""Stores texts as versions from 0010 on do."""
CACHES = {"relevance_scale"}
"""Tables that a migration may empty."""
SINCE_0011 = {"frame_previews", "folder_watches"}
SINCE_0012 = {"model_switches", "switch_failures", "unembedded_images"}
ADDED_0011 = dict.fromkeys(("rating", "folder", "companion_state", "video", "video_time"))
"""Columns of `images` that are NULL in the rows of before."""
SEARCHES = (
    "SELECT * FROM match_images((SELECT embedding FROM images WHERE id = 20), -1, 60)",
    "SELECT * FROM match_images(text_embedding('a boat'), 0.1, 10)",
    "SELECT * FROM search_images('a boat', -1, 15)",
    r"SELECT * FROM search_images(U&'a cafe\0301', -1, 15)",
    "SELECT * FROM boats",
    "SELECT id FROM images WHERE image_words(description, tags) @@ to_tsquery('english', 'boats & sea') ORDER BY 1",
)


def populate(database: Database, revision: str) -> None:
    damaged = "DamagedPictureError" if revision < "0007" else "DamagedImageError"
    with database.begin() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute(POPULATE.replace(":damaged", f"'{damaged}'"))
        if revision >= "0010":
            driver.execute(NORMALIZE)
        if revision >= "0008":
            for statement in (
                "DROP INDEX images_embedding_idx",
                "CREATE INDEX images_embedding_idx ON images USING hnsw ((embedding::halfvec(512)) halfvec_cosine_ops)",
                "UPDATE index_builds SET method = 'hnsw', type = 'halfvec', chosen = true",
            ):
                connection.execute(sa.text(statement))


def rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table that all revisions have, as JSON has it."""
    with database.connect() as connection:
        return {
            table: list(connection.scalars(sa.text(f"SELECT to_jsonb(t) FROM {table} t ORDER BY to_jsonb(t)::text")))
            for table in sorted(TABLES - CACHES - SINCE_0011 - SINCE_0012)
        }


def migrated(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return what becomes of a row: stored texts are in NFC, and errors have the names of today."""
    if table == "images":
        for name in TEXTS:
            row[name] = row[name] and unicodedata.normalize("NFC", row[name])
        row["tags"] = [unicodedata.normalize("NFC", tag) for tag in row["tags"]]
        row = ADDED_0011 | row
    if table == "embedding_models":
        row = {"dimension": 512, "retired_at": None, "verified": True} | row
    if table in ("image_sample", "index_builds", "index_recalls"):
        row = {"embedding_model_id": 2} | row
    if table == "query_embeddings":
        row["query"] = unicodedata.normalize("NFC", row["query"])
    if table == "ingest_failures":
        row["error"] = row["error"].replace("Picture", "Image")
    if table == "ingest_chunks":
        row = {"frames": 0} | row
    if table == "index_builds" and "chosen" not in row:
        row |= {"type": "vector", "chosen": False}
    return row


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def found(database: Database) -> list[list[tuple[Any, ...]]]:
    with database.connect() as connection:
        return [[tuple(row) for row in connection.execute(sa.text(search))] for search in SEARCHES]


def index_and_setting(database: Database) -> tuple[Any, bool]:
    with database.connect() as connection:
        definition = connection.scalar(sa.text("SELECT pg_get_indexdef('images_embedding_idx'::regclass)"))
        config = connection.scalar(sa.text("SELECT proconfig FROM pg_proc WHERE proname = 'match_images'"))
        return definition, "ivfflat.probes=3" in config


@pytest.mark.parametrize("revision", released_revisions())
def test_every_row_and_search_survives(empty_settings: Settings, revision: str) -> None:
    with Database(empty_settings) as database:
        upgrade_to(database, revision)
        populate(database, revision)
        before, searches, index = rows(database), found(database), index_and_setting(database)
        assert len(before["images"]) == len(searches[0]) == 60
        assert all(searches)

        upgrade_to(database, "head")

        after = rows(database)
        for table, old in before.items():
            assert in_order(after[table]) == in_order([migrated(table, row) for row in old]), table
        assert found(database) == searches
        assert index_and_setting(database) == index == (index[0], True)
    assert run(empty_settings, "db", "migrate").exit_code == 0
    with open_database(empty_settings) as database, database.connect() as connection:
        cafes = sa.text("SELECT count(*) FROM images WHERE tags @> :tags")
        assert connection.scalar(cafes, {"tags": ["Caf\u00e9"]}) == 60


def test_a_table_of_another_application_is_left_alone(empty_settings: Settings) -> None:
    with Database(empty_settings) as database:
        upgrade_to(database, "0011")
        with database.begin() as connection:
            connection.execute(sa.text("CREATE TABLE model_switches (mine integer)"))
    result = run(empty_settings, "db", "migrate")
    assert result.exit_code == 1
    assert "model_switches that is not searchdb's" in result.stderr
    with Database(empty_settings) as database, database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE model_switches RENAME TO my_model_switches"))
    assert run(empty_settings, "db", "migrate").exit_code == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE images ADD COLUMN embedding_7 vector(768)", "searchdb model forget"),
        ("UPDATE images SET width = NULL", "unknown size"),
    ],
)
def test_what_the_earlier_schema_lacks_stops_the_way_back(empty_settings: Settings, change: str, reason: str) -> None:
    with Database(empty_settings) as database:
        upgrade_to(database, "0011")
        populate(database, "0011")
        upgrade_to(database, "head")
        with database.begin() as connection:
            connection.execute(sa.text(change))
    result = alembic(empty_settings, "downgrade", "0011")
    assert result.returncode != 0
    assert reason in result.stderr + result.stdout


def test_the_way_back_keeps_rows_and_searches(empty_settings: Settings) -> None:
    with Database(empty_settings) as database:
        upgrade_to(database, "0011")
        populate(database, "0011")
        before, searches = rows(database), found(database)
        upgrade_to(database, "head")
    result = alembic(empty_settings, "downgrade", "0011")
    assert result.returncode == 0, result.stderr
    with Database(empty_settings) as database:
        after = rows(database)
        assert {table: in_order(each) for table, each in after.items()} == {
            table: in_order(each) for table, each in before.items()
        }
        assert found(database) == searches
