"""The schema that the migrations create, and its three SQL functions, called as users call them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from pgvector.psycopg import register_vector
from PIL import Image
from procrastinate.schema import SchemaManager

from searchdb.cli import cli
from searchdb.config import Settings
from searchdb.database_url import libpq_url
from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import VECTOR_INDEX, images, query_embeddings
from searchdb.records import ModelIdentity
from tests.helpers.old_schemas import alembic
from tests.helpers.sql_calls import CALLS

MODEL = ModelIdentity(name="test/model", weights_sha256=b"0" * 32, dimension=512)
ROWS = 400
PROCRASTINATE_SCHEMA = "c70ec4b400a60ad9592787653aae5ae77ae41bf801d56b5bd2712751a07f2009"


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def vectors() -> np.ndarray:
    """Unit vectors, shape (ROWS, 512)."""
    return unit(np.random.default_rng(7).normal(size=(ROWS, 512)))


@pytest.fixture
def filled(database: Database, vectors: np.ndarray) -> Database:
    """A database with images /0 ... /399, and the query 'first' cached with the vector of /0."""
    common: dict[str, object] = {"source": "test", "sha256": b"", "width": 1, "height": 1, "byte_size": 1}
    with database.begin() as connection:
        model_id = claim_model(connection, MODEL)
        rows = [
            {**common, "image": f"/{n}", "embedding": v, "embedding_model_id": model_id} for n, v in enumerate(vectors)
        ]
        connection.execute(sa.insert(images), rows)
        connection.execute(
            sa.insert(query_embeddings).values(embedding_model_id=model_id, query="first", embedding=vectors[0])
        )
    return database


@pytest.fixture
def raw(filled: Database) -> Iterator[psycopg.Connection]:
    """A plain psycopg connection, as another program would use it."""
    with psycopg.connect(filled.libpq_url, autocommit=True) as connection:
        register_vector(connection)
        yield connection


@pytest.mark.slow
def test_upgrade_downgrade_and_upgrade_leave_nothing_to_migrate(empty_settings: Settings) -> None:
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"], ["check"]):
        result = alembic(empty_settings, *arguments)
        assert result.returncode == 0, (arguments, result.stderr)
    with Database(empty_settings) as database, database.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM images")) == 0


def test_the_queue_schema_is_the_migrated_one() -> None:
    """When this fails, Procrastinate has a new schema: add a migration with its changes for existing databases."""
    schema = SchemaManager.get_schema().encode()
    assert hashlib.sha256(schema).hexdigest() == PROCRASTINATE_SCHEMA


@pytest.mark.slow
def test_downgrading_removes_all_tables_and_functions(settings: Settings) -> None:
    assert alembic(settings, "downgrade", "base", new_interpreter=True).returncode == 0
    with Database(settings) as database, database.connect() as connection:
        tables = connection.scalars(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        assert tables == ["searchdb_version"]
        ours = "SELECT count(*) FROM pg_proc WHERE proname IN ('match_images', 'text_embedding', 'search_images')"
        assert connection.scalar(sa.text(ours)) == 0


OLD_ROWS = """
INSERT INTO ingest_failures (image, source, error, message, retryable, item) VALUES
    ('/tmp/a', 'files', 'PictureError', '', false, NULL),
    ('/tmp/b', 'files', 'NotAPictureError', '', false, NULL),
    (:path, 'files', 'DamagedPictureError', '', false, CAST(:item AS jsonb)),
    ('/tmp/d', 'urls', 'TransferError', '', true, NULL);
"""
OLD_CHUNKS = """
INSERT INTO ingest_chunks (run_id, worker, stored, copied, unchanged, failed) VALUES
    (gen_random_uuid(), 'host:1', 5, 0, 0, '{"NotAPictureError": 3, "DamagedPictureError": 1, "TransferError": 2}'),
    (gen_random_uuid(), 'host:2', 4, 0, 0, '{"NotAPictureError": 3, "NotAnImageError": 2}'),
    (gen_random_uuid(), 'host:3', 3, 0, 0, '{"TransferError": 4}'),
    (gen_random_uuid(), 'host:4', 2, 0, 0, '{}');
"""


def stored_errors(settings: Settings) -> tuple[list[str], list[dict[str, int]]]:
    """Return the error classes of the failures, and the counts of errors of the chunks, in the order of insertion."""
    with Database(settings) as database, database.connect() as connection:
        failures = connection.scalars(sa.text("SELECT error FROM ingest_failures ORDER BY id")).all()
        chunks = connection.scalars(sa.text("SELECT failed FROM ingest_chunks ORDER BY id")).all()
        return list(failures), list(chunks)


@pytest.mark.slow
def test_stored_error_names_follow_their_classes(empty_settings: Settings, tmp_path: Path) -> None:
    assert alembic(empty_settings, "upgrade", "0006").returncode == 0
    path = tmp_path / "image.png"
    Image.new("RGB", (300, 200), "red").save(path)
    with Database(empty_settings) as database, database.begin() as connection:
        item = json.dumps({"image": str(path), "source": "files"})
        connection.execute(sa.text(OLD_ROWS), {"path": str(path), "item": item})
        connection.exec_driver_sql(OLD_CHUNKS)

    result = alembic(empty_settings, "upgrade", "head")
    assert result.returncode == 0, result.stderr
    failures, chunks = stored_errors(empty_settings)
    assert failures == ["ImageError", "NotAnImageError", "DamagedImageError", "TransferError"]
    assert chunks == [
        {"NotAnImageError": 3, "DamagedImageError": 1, "TransferError": 2},
        {"NotAnImageError": 5},
        {"TransferError": 4},
        {},
    ]

    url = empty_settings.url()
    assert url is not None
    options = ["--database-url", libpq_url(url), "--home", str(tmp_path), "--model", "demo"]
    retried = CliRunner().invoke(cli, [*options, "failures", "retry", "--error", "DamagedImageError", "--json"])
    assert retried.exit_code == 0, retried.output
    assert json.loads(retried.stdout)["stored"] == 1

    result = alembic(empty_settings, "downgrade", "0006")
    assert result.returncode == 0, result.stderr
    failures, chunks = stored_errors(empty_settings)
    assert failures == ["PictureError", "NotAPictureError", "TransferError"]
    assert chunks[:2] == [
        {"NotAPictureError": 3, "DamagedPictureError": 1, "TransferError": 2},
        {"NotAPictureError": 5},
    ]


def test_the_vector_column_and_its_index(database: Database) -> None:
    with database.connect() as connection:
        column = connection.execute(
            sa.text(
                "SELECT format_type(atttypid, atttypmod), attstorage::text, attnotnull "
                "FROM pg_attribute WHERE attrelid = 'images'::regclass AND attname = 'embedding'"
            )
        ).one()
        assert tuple(column) == ("vector(512)", "p", True)
        definition = connection.scalar(sa.text("SELECT pg_get_indexdef(to_regclass(:name))"), {"name": VECTOR_INDEX})
        assert definition.endswith("ON public.images USING ivfflat (embedding vector_cosine_ops) WITH (lists='1')")


def nearest(vectors: np.ndarray, query: np.ndarray, count: int) -> list[str]:
    return [f"/{n}" for n in np.argsort(-(vectors @ query), kind="stable")[:count]]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_match_images_ranks_by_similarity_and_uses_its_index(
    raw: psycopg.Connection, vectors: np.ndarray, call: LiteralString
) -> None:
    before = index_scans(raw)
    rows = raw.execute(call, {"v": vectors[5], "t": -1.0, "c": 7}).fetchall()
    assert [row[1] for row in rows] == nearest(vectors, vectors[5], 7)
    assert rows[0][2] == pytest.approx(1, abs=1e-6)
    assert [row[2] for row in rows] == sorted((row[2] for row in rows), reverse=True)
    assert index_scans(raw) > before


def test_match_images_uses_its_index_in_a_prepared_statement(raw: psycopg.Connection, vectors: np.ndarray) -> None:
    for vector in vectors[:12]:
        raw.execute(CALLS["by position"], {"v": vector, "t": 0.0, "c": 3}, prepare=True)
    before = index_scans(raw)
    raw.execute(CALLS["by position"], {"v": vectors[20], "t": 0.0, "c": 3}, prepare=True)
    assert index_scans(raw) > before


def index_scans(connection: psycopg.Connection) -> int:
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s", [VECTOR_INDEX]
    ).fetchone()
    assert row is not None
    return row[0]


def test_match_images_defaults_and_nulls(raw: psycopg.Connection, vectors: np.ndarray) -> None:
    def images_of(arguments: LiteralString) -> list[str]:
        return [row[1] for row in raw.execute(f"SELECT * FROM match_images({arguments})", {"v": vectors[1]})]

    by_default = images_of("%(v)s")
    assert by_default == images_of("%(v)s, 0, 10") == images_of("%(v)s, NULL, NULL")
    assert 0 < len(by_default) <= 10
    assert images_of("%(v)s, -1, 0") == []
    assert len(images_of("%(v)s, -1, 1000000")) == ROWS


def test_the_threshold_is_exact_at_its_boundary(raw: psycopg.Connection, vectors: np.ndarray) -> None:
    rows = raw.execute("SELECT * FROM match_images(%s, -1, 20)", [vectors[3]]).fetchall()
    boundary = rows[9][2]
    assert raw.execute("SELECT * FROM match_images(%s, %s, 20)", [vectors[3], boundary]).fetchall() == rows[:10]
    above = np.nextafter(boundary, 2)
    assert raw.execute("SELECT * FROM match_images(%s, %s, 20)", [vectors[3], float(above)]).fetchall() == rows[:9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("NULL", "query_embedding is NULL"),
        ("'[1,2,3]'", "has 3 numbers, the images have 512"),
        (f"'[{','.join('0' * 512)}]'", "zero vector"),
        (f"'[{','.join('1' * 512)}]', 0, -5", "match_count is -5"),
    ],
)
def test_match_images_reports_invalid_arguments(raw: psycopg.Connection, arguments: str, message: str) -> None:
    with pytest.raises(psycopg.Error, match=message):
        raw.execute(f"SELECT * FROM match_images({arguments})".encode())


def test_equal_images_are_ordered_by_id(raw: psycopg.Connection, vectors: np.ndarray) -> None:
    raw.execute("UPDATE images SET embedding = (SELECT embedding FROM images WHERE image = '/0') WHERE id % 2 = 0")
    ids = [row[0] for row in raw.execute("SELECT * FROM match_images(%s, 0.999, 1000)", [vectors[0]])]
    assert len(ids) >= ROWS // 2
    assert ids == sorted(ids)


def test_text_embedding_reads_the_cache_of_the_current_model(raw: psycopg.Connection, vectors: np.ndarray) -> None:
    row = raw.execute("SELECT text_embedding('first')").fetchone()
    assert row is not None
    assert np.array_equal(row[0].to_numpy(), vectors[0])
    other = raw.execute(
        "INSERT INTO embedding_models (name, weights_sha256) VALUES ('other', '\\x00') RETURNING id"
    ).fetchone()
    assert other is not None
    raw.execute(
        "INSERT INTO query_embeddings (embedding_model_id, query, embedding) VALUES (%s, 'theirs', %s)",
        [other[0], vectors[0]],
    )
    with pytest.raises(psycopg.Error, match="no vector is stored for 'theirs'"):
        raw.execute("SELECT text_embedding('theirs')")


def test_the_error_for_a_missing_text_names_the_command_that_embeds_it(raw: psycopg.Connection) -> None:
    with pytest.raises(psycopg.Error, match="no vector is stored") as caught:
        raw.execute("SELECT text_embedding('it''s snowing')")
    assert caught.value.diag.message_hint == r"Run: searchdb embed 'it'\''s snowing'"


def test_search_images_equals_match_images_of_the_texts_embedding(raw: psycopg.Connection) -> None:
    by_text = raw.execute("SELECT * FROM search_images('first', 0.0, 5)").fetchall()
    assert by_text == raw.execute("SELECT * FROM match_images(text_embedding('first'), 0.0, 5)").fetchall()
    named = "SELECT * FROM search_images(query => 'first', match_threshold => 0.0, match_count => 5)"
    assert raw.execute(named).fetchall() == by_text
    assert by_text[0][1] == "/0"


def test_a_reference_too_long_for_the_unique_index_violates_a_named_constraint(raw: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="images_image_length_check"):
        raw.execute("UPDATE images SET image = repeat('x', 2049) WHERE id = (SELECT min(id) FROM images)")


def config_of_match_images(database: Database) -> set[str]:
    with database.connect() as connection:
        return set(connection.scalar(sa.text("SELECT proconfig FROM pg_proc WHERE proname = 'match_images'")))


def test_match_images_is_planned_for_the_index_and_never_compiled(database: Database) -> None:
    assert config_of_match_images(database) == {
        "plan_cache_mode=force_custom_plan",
        "enable_seqscan=off",
        "jit=off",
        "search_path=public, pg_temp",
        "ivfflat.iterative_scan=relaxed_order",
        "hnsw.iterative_scan=relaxed_order",
    }


HALF_INDEX = f"CREATE INDEX {VECTOR_INDEX} ON images USING hnsw ((embedding::halfvec(512)) halfvec_cosine_ops)"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_match_images_uses_an_index_over_halfvec_and_ranks_by_the_stored_vectors(
    raw: psycopg.Connection, vectors: np.ndarray, call: LiteralString
) -> None:
    raw.execute(f"DROP INDEX {VECTOR_INDEX}")
    raw.execute(HALF_INDEX)
    before = index_scans(raw)
    rows = raw.execute(call, {"v": vectors[5], "t": -1.0, "c": 7}).fetchall()
    assert [row[1] for row in rows] == nearest(vectors, vectors[5], 7)
    assert [row[2] for row in rows] == pytest.approx(-np.sort(-(vectors @ vectors[5]))[:7], abs=1e-6)
    assert index_scans(raw) > before


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_with_halves_the_length_of_a_query_does_not_matter(
    raw: psycopg.Connection, vectors: np.ndarray, scale: float
) -> None:
    raw.execute(f"DROP INDEX {VECTOR_INDEX}")
    raw.execute(HALF_INDEX)
    rows = raw.execute("SELECT image FROM match_images(%s, -1, 5)", [vectors[5] * np.float32(scale)]).fetchall()
    assert [row[0] for row in rows] == nearest(vectors, vectors[5], 5)


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, 10_000])
def test_with_halves_there_are_as_many_hits_as_asked_for(raw: psycopg.Connection, count: int) -> None:
    raw.execute(f"DROP INDEX {VECTOR_INDEX}")
    raw.execute(HALF_INDEX)
    rows = raw.execute("SELECT * FROM match_images(text_embedding('first'), -1, %s)", [count]).fetchall()
    assert len(rows) == min(count, ROWS)


@pytest.mark.parametrize("spoil", ["invalid", "none"])
def test_match_images_is_exact_without_a_usable_index(raw: psycopg.Connection, vectors: np.ndarray, spoil: str) -> None:
    raw.execute(f"DROP INDEX {VECTOR_INDEX}")
    if spoil == "invalid":
        raw.execute(HALF_INDEX)
        raw.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [VECTOR_INDEX])
    rows = raw.execute("SELECT image FROM match_images(%s, -1, 9)", [vectors[3]]).fetchall()
    assert [row[0] for row in rows] == nearest(vectors, vectors[3], 9)


@pytest.mark.slow
def test_downgrading_and_upgrading_keep_what_was_tuned_and_an_index_that_match_images_can_use(
    settings: Settings, filled: Database, vectors: np.ndarray
) -> None:
    function = "match_images(vector, double precision, integer)"
    with filled.begin() as connection:
        connection.exec_driver_sql(f"ALTER FUNCTION {function} SET hnsw.ef_search = 77")
        connection.exec_driver_sql(f"DROP INDEX {VECTOR_INDEX}")
        connection.exec_driver_sql(HALF_INDEX)
    for step in (["downgrade", "0007"], ["upgrade", "head"]):
        result = alembic(settings, *step)
        assert result.returncode == 0, result.stderr
        assert "hnsw.ef_search=77" in config_of_match_images(filled)
        assert ("jit=off" in config_of_match_images(filled)) == (step[0] == "upgrade")
        with psycopg.connect(filled.libpq_url, autocommit=True) as connection:
            register_vector(connection)
            before = index_scans(connection)
            rows = connection.execute("SELECT image FROM match_images(%s, -1, 9)", [vectors[3]]).fetchall()
            assert [row[0] for row in rows] == nearest(vectors, vectors[3], 9)
            assert index_scans(connection) > before
