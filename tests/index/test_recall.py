"""Recall and tuning, against an exact scan, on texts and stored images separately."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from pgvector.psycopg import register_vector

from searchdb.cli.index_prose import index_details, recall_line, tuning_summary
from searchdb.config import Settings
from searchdb.db.database import Database, open_database
from searchdb.db.tables import images, index_recalls, query_embeddings
from searchdb.errors import ConfigError, DatabaseError, QueryError
from searchdb.index.build import build_index
from searchdb.index.policy import fit_probes
from searchdb.index.recall import ENOUGH_TEXTS, measure_recall
from searchdb.index.status import BUILD_LOCK_KEY, index_status
from searchdb.index.tune import tune_index
from searchdb.media.embed import CLIPEmbedder
from searchdb.search.everyday_texts import EVERYDAY_TEXTS
from tests.helpers.cli import output, run
from tests.helpers.database_copies import copied_collection
from tests.helpers.databases import NewSettings
from tests.helpers.vectors import cache_texts, clustered, fill

ROWS = 2000


def off_manifold(count: int, *, seed: int = 1) -> np.ndarray:
    """Return unit vectors of shape (count, 512) far from the clusters, as texts are from images."""
    near = clustered(count, seed=seed)
    noise = np.random.default_rng(seed).normal(size=near.shape) / np.sqrt(512)
    vectors = near + 1.5 * noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """The vectors of the images in the test's `database`, whose index was built on them."""
    return clustered(ROWS)


@pytest.fixture(scope="module")
def filled(
    vectors: np.ndarray, new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """The settings of a database with `vectors`, of which tests have copies: filling and building it takes seconds."""
    with new_settings(tmp_path_factory.mktemp("home")) as settings:
        with open_database(settings) as database:
            fill(database, vectors)
            build_index(database.engine, method="ivfflat")
        yield settings


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, new_settings: NewSettings, admin: sa.Engine, tmp_path: Path
) -> Iterator[Settings]:
    """Settings that name a fresh database, which has the images of a test that takes their `vectors`."""
    if "vectors" in request.fixturenames:
        database = copied_collection(admin, request.getfixturevalue("filled"), tmp_path)
    else:
        database = new_settings(tmp_path)
    with database as settings:
        yield settings


def true_recall(database: Database, vectors: np.ndarray, queries: np.ndarray, count: int = 10) -> float:
    """Return the recall that another client gets, with numpy's ranking as the truth."""
    found = 0
    with psycopg.connect(database.libpq_url) as raw:
        register_vector(raw)
        for query in queries:
            exact = {f"/{n}" for n in np.argsort(-(vectors @ query))[:count]}
            rows = raw.execute("SELECT image FROM match_images(%s, -1, %s)", [query, count]).fetchall()
            found += len(exact & {row[0] for row in rows})
    return found / (count * len(queries))


def set_depth(database: Database, setting: str, value: int) -> None:
    with database.begin() as connection:
        connection.execute(sa.text(f"ALTER FUNCTION match_images(vector, float8, int) SET {setting} = {value}"))


def test_vectors_that_are_not_of_length_1_and_rows_that_no_search_finds(
    database: Database, vectors: np.ndarray
) -> None:
    """As SQL may write them; the second kind dates from before the CHECK."""
    set_depth(database, "ivfflat.probes", 44)
    lengths = np.where(np.arange(ROWS) % 2, 0.5, 30)[:, None]
    with database.begin() as connection:
        connection.execute(sa.text("ALTER TABLE images DROP CONSTRAINT images_embedding_norm_check"))
        connection.execute(sa.text("DELETE FROM images WHERE id > 300"))
        for number, vector in enumerate((vectors * lengths)[:300].astype(np.float32)):
            wanted = images.c.image == f"/{number}"
            connection.execute(sa.update(images).where(wanted).values(embedding=vector * (number > 9)))
    cache_texts(database, vectors[:5])
    assert [recall.recall for recall in measure_recall(database.engine, sample=300).recalls] == [1, 1]


@pytest.mark.parametrize("probes", [1, 3, 44])
def test_recall_is_measured_separately_for_texts_and_images(
    database: Database, vectors: np.ndarray, probes: int
) -> None:
    texts = off_manifold(40)
    cache_texts(database, texts)
    set_depth(database, "ivfflat.probes", probes)
    report = measure_recall(database.engine, sample=40)
    text, stored = report.recalls
    assert (text.kind, text.queries, text.setting, text.lists, text.match_count) == ("text", 40, probes, 44, 10)
    assert text.recall == pytest.approx(true_recall(database, vectors, texts), abs=1e-9)
    assert (stored.kind, stored.queries, stored.row_count) == ("pictures", 40, ROWS)
    assert stored.recall >= text.recall
    if probes == 44:
        assert text.recall == stored.recall == 1
    assert 0 < text.p50_ms <= text.p95_ms
    assert report.notes == []


def test_the_last_measurement_is_in_the_status(database: Database, vectors: np.ndarray) -> None:
    cache_texts(database, off_manifold(5))
    measure_recall(database.engine, sample=3, count=7)
    with database.connect() as connection:
        state = index_status(connection)
    assert [(seen.kind, seen.queries, seen.match_count) for seen in state.recalls] == [
        ("text", 3, 7),
        ("pictures", 3, 7),
    ]
    assert dict(index_details(state))["text"].startswith("recall@7 ")


def test_equal_images_are_no_misses(database: Database) -> None:
    fill(database, np.repeat(clustered(30), 50, axis=0))
    build_index(database.engine, lists=5)
    set_depth(database, "ivfflat.probes", 1)
    report = measure_recall(database.engine, sample=20)
    assert report.recalls[0].recall == 1


def test_notes_warn_about_few_or_no_texts(database: Database, vectors: np.ndarray) -> None:
    report = measure_recall(database.engine, sample=5)
    assert [seen.kind for seen in report.recalls] == ["pictures"]
    assert "stored images alone overstate the recall" in report.notes[0]
    assert report.to_json()["text"] is None
    cache_texts(database, off_manifold(3))
    report = measure_recall(database.engine, sample=5)
    assert "3 text queries give only a rough figure" in report.notes[0]


def test_texts_of_another_model_are_no_queries(database: Database, vectors: np.ndarray) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO embedding_models (name, weights_sha256) VALUES ('other', CAST('x' AS bytea))")
        )
        connection.execute(
            sa.text(
                "INSERT INTO query_embeddings (embedding_model_id, query, embedding) "
                "SELECT m.id, 'theirs', i.embedding FROM embedding_models m, images i WHERE m.name = 'other' LIMIT 1"
            )
        )
    assert [seen.kind for seen in measure_recall(database.engine, sample=5).recalls] == ["pictures"]


def test_an_empty_collection_cannot_be_measured(database: Database) -> None:
    with pytest.raises(QueryError, match="no images"):
        measure_recall(database.engine)


def test_without_an_index_recall_is_1_and_tuning_fails(database: Database) -> None:
    fill(database, clustered(50))
    with database.begin() as connection:
        connection.execute(sa.text("DROP INDEX images_embedding_idx"))
    report = measure_recall(database.engine, sample=5)
    assert report.recalls[0].recall == 1
    assert "no index" in recall_line(report.recalls[0])
    with pytest.raises(DatabaseError, match="no index to tune"):
        tune_index(database.engine, target=0.9)


@pytest.mark.usefixtures("quick_graphs")
@pytest.mark.parametrize(("method", "setting"), [("ivfflat", "ivfflat.probes"), ("hnsw", "hnsw.ef_search")])
@pytest.mark.slow
def test_tuning_sets_the_smallest_setting_that_reaches_the_target_for_every_client(
    database: Database, vectors: np.ndarray, method: str, setting: str
) -> None:
    build_index(database.engine, method=method)
    texts = off_manifold(60)
    cache_texts(database, texts)
    report = tune_index(database.engine, target=0.95, sample=60)
    assert report is not None
    assert report.reached
    chosen = report.chosen.recalls[0].setting
    assert true_recall(database, vectors, texts) == pytest.approx(report.chosen.recalls[0].recall, abs=1e-9)
    assert report.chosen.recalls[0].recall >= 0.95
    with database.connect() as connection:
        state = index_status(connection)
        config = connection.scalar(sa.text("SELECT proconfig FROM pg_proc WHERE proname = 'match_images'"))
    assert f"{setting}={chosen}" in config
    assert state.setting == chosen
    assert state.tuned_since_build
    assert dict(index_details(state))["tuned"].startswith("to recall 0.95 on ")
    assert f"at {ROWS:,} rows" in dict(index_details(state))["tuned"]
    assert "in every client" in tuning_summary(report)
    if method == "ivfflat":
        assert chosen > 1
        set_depth(database, setting, chosen - 1)
        assert true_recall(database, vectors, texts) < 0.95
        with database.connect() as connection:
            assert "changed manually since" in dict(index_details(index_status(connection)))["tuned"]


def test_of_settings_that_miss_the_target_the_best_is_set_and_reported(database: Database, vectors: np.ndarray) -> None:
    build_index(database.engine, method="hnsw", m=2, ef_construction=4)
    report = tune_index(database.engine, target=1.0, texts=off_manifold(40), sample=20)
    assert report is not None
    assert not report.reached
    assert report.chosen.recalls[0].setting == 1000
    assert "recall 1.0 is out of reach: the best measured is 0." in tuning_summary(report)
    with database.connect() as connection:
        state = index_status(connection)
    assert state.ef_search == 1000
    assert state.tuned is not None
    assert (state.tuned.kind, state.tuned.target, state.tuned.setting) == ("text", 1.0, 1000)
    assert state.tuned.recall < 1
    assert f"which was out of reach: {state.tuned.recall:.3f} on texts" in dict(index_details(state))["tuned"]


@pytest.mark.parametrize("texts", [0, ENOUGH_TEXTS - 1])
def test_with_few_texts_the_setting_stays_at_its_default_or_above(
    database: Database, vectors: np.ndarray, texts: int
) -> None:
    if texts:
        cache_texts(database, off_manifold(texts))
    report = tune_index(database.engine, target=0.5, sample=20)
    assert report is not None
    assert report.chosen.recalls[0].setting == fit_probes(44)
    assert any("no setting below the default was tried" in note for note in report.notes)


def test_one_list_is_exact_for_any_target(database: Database) -> None:
    fill(database, clustered(100))
    report = tune_index(database.engine, target=1.0, sample=10)
    assert report is not None
    assert report.reached
    assert report.chosen.recalls[0].setting == 1


def test_tuning_does_not_wait_for_another_process(database: Database, vectors: np.ndarray) -> None:
    with database.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(BUILD_LOCK_KEY)))
        assert tune_index(database.engine, target=0.9, sample=5) is None
        connection.execute(sa.select(sa.func.pg_advisory_unlock(BUILD_LOCK_KEY)))


@pytest.mark.parametrize("target", [0, -1, 1.01])
def test_a_target_out_of_range_is_refused(database: Database, target: float) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        tune_index(database.engine, target=target)


def test_a_reader_measures_but_does_not_tune(database: Database, vectors: np.ndarray, admin: sa.Engine) -> None:
    with admin.connect() as connection:
        connection.execute(sa.text("DROP ROLE IF EXISTS plain_measurer"))
        connection.execute(sa.text("CREATE ROLE plain_measurer LOGIN"))
    with database.begin() as connection:
        connection.execute(sa.text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain_measurer"))
        measured = connection.scalar(sa.select(sa.func.count()).select_from(index_recalls))
    url = database.url.set(username="plain_measurer").render_as_string(hide_password=False)
    settings = Settings(database_url=url.replace("+psycopg", ""), model="demo")
    with Database(settings) as theirs:
        assert measure_recall(theirs.engine, sample=5).recalls[0].recall > 0.9
        with pytest.raises(DatabaseError, match="only the owner of match_images may tune it: connect as postgres"):
            tune_index(theirs.engine, target=0.9)
    with database.begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(index_recalls)) == measured
        connection.execute(sa.text("DROP OWNED BY plain_measurer"))
    with admin.connect() as connection:
        connection.execute(sa.text("DROP ROLE plain_measurer"))


@pytest.mark.usefixtures("quick_graphs")
def test_the_commands(settings: Settings, database: Database, embedder: CLIPEmbedder, tmp_path: Path) -> None:
    fill(database, clustered(1000))
    with database.begin() as connection:  # the vectors are random, but the texts come from the demo's model
        connection.execute(
            sa.text("UPDATE embedding_models SET weights_sha256 = :sha"), {"sha": embedder.identity.weights_sha256}
        )
    texts = tmp_path / "texts"
    texts.write_text("a boat\n\n a dog \na boat\n", encoding="utf-8")
    assert run(settings, "index", "build", "--method", "hnsw", "--lists", "5").exit_code == 2
    assert run(settings, "index", "build", "--m", "5").exit_code == 2
    assert run(settings, "index", "build", "--method", "hnsw", "--m", "50", "--ef-construction", "60").exit_code == 2
    built = output(run(settings, "index", "build"))
    assert "1,000 rows: fits" in built
    assert "tuned     to recall 0.98 on" in built
    with database.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(query_embeddings)) == len(EVERYDAY_TEXTS)
    measured = json.loads(output(run(settings, "index", "recall", "--queries", texts, "--sample", "5", "--json")))
    assert (measured["text"]["queries"], measured["pictures"]["queries"]) == (2, 5)
    assert run(settings, "index", "recall", "--queries", "-", stdin="\n").exit_code == 2
    result = run(settings, "index", "tune", "--recall", "0.9", "--sample", "5")
    assert "match_images now searches with" in output(result)
    assert "5 text queries give only a rough figure" in result.stderr
    assert "tuned     to recall 0.9 on" in output(run(settings, "index", "status"))
    status = json.loads(output(run(settings, "index", "status", "--json")))
    assert status["tuned_since_build"]
    assert [seen["kind"] for seen in status["recalls"]] == ["text", "pictures"]
    assert run(settings, "index", "tune", "--recall", "1.5").exit_code == 2
    with database.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(BUILD_LOCK_KEY)))
        for command in (["index", "build"], ["index", "tune"]):
            result = run(settings, *command)
            assert result.exit_code == 1
            assert "another process is building or tuning the index" in result.stderr
        assert "building  at work" in output(run(settings, "index", "status"))
        connection.execute(sa.select(sa.func.pg_advisory_unlock(BUILD_LOCK_KEY)))
    with database.begin() as connection:
        connection.execute(sa.delete(images))
