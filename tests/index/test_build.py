"""Builds of the vector index, and its state."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, LiteralString

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from pgvector.psycopg import register_vector
from sqlalchemy import event

from searchdb.cli.index_prose import index_details, index_summary
from searchdb.db.database import Database
from searchdb.db.embedded_programs import program_path
from searchdb.db.tables import VECTOR_INDEX, index_builds
from searchdb.db.vectors import SIGNATURE
from searchdb.errors import ConfigError, DatabaseError
from searchdb.index.build import build_index
from searchdb.index.rebuild import rebuild_if_stale
from searchdb.index.status import IndexStatus, index_status
from tests.helpers.sql_calls import CALLS
from tests.helpers.vectors import cache_texts, clustered, fill, real_like, real_like_texts, recall
from tests.helpers.waiting import GIVE_UP_S


def test_an_unbuilt_index_is_exact(database: Database) -> None:
    vectors = clustered(500)
    fill(database, vectors)
    assert recall(database, vectors, clustered(20, seed=1)) == 1


def test_building_fits_the_index_and_the_function_and_keeps_recall(database: Database) -> None:
    vectors = clustered(3000)
    fill(database, vectors)
    built = build_index(database.engine, method="ivfflat", value_type="vector")
    assert built is not None
    assert (built.method, built.value_type, built.lists, built.probes, built.valid) == (
        "ivfflat",
        "vector",
        54,
        40,
        True,
    )
    assert (built.rows, built.rows_at_build, built.stale) == (3000, 3000, False)
    assert definition(database).endswith("USING ivfflat (embedding vector_cosine_ops) WITH (lists='54')")
    assert recall(database, vectors, clustered(50, seed=1)) >= 0.95


@pytest.mark.usefixtures("quick_graphs")
def test_two_builds_at_once_are_one(database: Database) -> None:
    fill(database, clustered(1000))
    results: list[IndexStatus | None] = []
    threads = [threading.Thread(target=lambda: results.append(build_index(database.engine))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any(result is not None for result in results)
    with database.connect() as connection:
        assert index_status(connection).valid
        invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert connection.scalar(sa.text(invalid)) == 0


@pytest.mark.parametrize("suffix", ["new", "old", "ccnew", "ccnew1", "ccold"])
def test_leftovers_of_a_killed_build_are_shown_and_dropped(database: Database, suffix: str) -> None:
    name = f"{VECTOR_INDEX}_{suffix}"
    with database.begin() as connection:
        connection.execute(sa.text(f"CREATE INDEX {name} ON images (width)"))
        connection.execute(sa.text(f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{name}'::regclass"))
    with database.connect() as connection:
        state = index_status(connection)
    assert state.leftovers == (name,)
    assert ("leftover", f"{name}, from a build that was killed: it slows down writes; the next build drops it") in (
        index_details(state)
    )
    built = build_index(database.engine)
    assert built is not None
    assert built.leftovers == ()
    with database.connect() as connection:
        assert connection.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}) is None


def test_a_build_that_fails_leaves_the_old_index_and_nothing_else(database: Database) -> None:
    vectors = clustered(300)
    fill(database, vectors)
    with pytest.raises(DatabaseError, match="ef_construction must be greater than or equal to 2"):
        build_index(database.engine, method="hnsw", m=50, ef_construction=4)
    with database.connect() as connection:
        state = index_status(connection)
    assert (state.method, state.lists, state.valid, state.leftovers, state.building) == ("ivfflat", 1, True, (), None)
    assert recall(database, vectors, clustered(5, seed=1)) == 1


def test_short_of_shared_memory_a_build_uses_one_process(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """The fault is forced, because a /dev/shm of 64 MB needs a container."""
    fill(database, clustered(300))
    attempts: list[str] = []

    def fail_once(connection: object, cursor: Any, statement: str, *_rest: object) -> None:
        if statement.startswith("CREATE INDEX CONCURRENTLY"):
            cursor.execute("SHOW max_parallel_maintenance_workers")
            attempts.append(cursor.fetchone()[0])
            if len(attempts) == 1:
                error = DatabaseError("could not resize shared memory segment: No space left on device")
                error.sqlstate = "53100"
                raise error

    event.listen(database.engine, "before_cursor_execute", fail_once)
    built = build_index(database.engine, method="hnsw")
    event.remove(database.engine, "before_cursor_execute", fail_once)
    assert built is not None
    assert built.method == "hnsw"
    assert attempts == ["4", "0"]
    assert "short of shared memory" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "flat"}, "no index method 'flat'"),
        ({"value_type": "bit"}, "no type 'bit' of indexed values"),
        ({"target": 1.5}, "must be above 0"),
        ({"method": "hnsw", "lists": 3}, "lists is a parameter of ivfflat"),
        ({"m": 8}, "parameters of hnsw"),
        ({"ef_construction": 80}, "parameters of hnsw"),
        ({"lists": 32768}, "MB of memory to build"),
    ],
)
def test_impossible_parameters_are_refused(database: Database, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_index(database.engine, **options)


def test_many_lists_get_the_memory_they_need(database: Database) -> None:
    """With the default of 64 MB pgvector fails: 600 lists need about 140 MB."""
    fill(database, clustered(1000))
    built = build_index(database.engine, lists=600)
    assert built is not None
    assert built.lists == 600


def test_only_the_owner_builds(database: Database, admin: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    fill(database, clustered(1000))
    with admin.connect() as connection:
        connection.execute(sa.text("DROP ROLE IF EXISTS plain_reader"))
        connection.execute(sa.text("CREATE ROLE plain_reader LOGIN"))
    with database.begin() as connection:
        connection.execute(sa.text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO plain_reader"))
    engine = sa.create_engine(database.url.set(username="plain_reader"))
    try:
        with pytest.raises(DatabaseError, match=r"only the owner .* connect as postgres"):
            build_index(engine)
        assert not rebuild_if_stale(engine)
        assert "run `searchdb index build` as postgres" in caplog.text
    finally:
        engine.dispose()
        with database.begin() as connection:
            connection.execute(sa.text("DROP OWNED BY plain_reader"))
        with admin.connect() as connection:
            connection.execute(sa.text("DROP ROLE plain_reader"))


def test_by_default_a_large_collection_gets_a_graph_over_halves(database: Database) -> None:
    vectors = real_like(1000)
    fill(database, vectors)
    built = build_index(database.engine)
    assert built is not None
    assert (built.method, built.value_type, built.m, built.ef_construction) == ("hnsw", "halfvec", 24, 320)
    assert (built.ef_search, built.valid, built.stale, built.chosen) == (100, True, False, False)
    assert definition(database).endswith(
        "USING hnsw (((embedding)::halfvec(512)) halfvec_cosine_ops) WITH (m='24', ef_construction='320')"
    )
    assert "hnsw over halfvec, m 24, ef_construction 320, ef_search 100; 1,000 rows now" in index_summary(built)
    assert recall(database, vectors, real_like_texts(50)) >= 0.97


def test_by_default_a_small_collection_is_exact(database: Database) -> None:
    vectors = real_like(999)
    fill(database, vectors)
    built = build_index(database.engine)
    assert built is not None
    assert (built.method, built.lists, built.stale, built.recalls) == ("ivfflat", 1, False, ())
    assert recall(database, vectors, real_like_texts(20)) == 1


@pytest.mark.usefixtures("quick_graphs")
@pytest.mark.parametrize("value_type", ["vector", "halfvec"])
@pytest.mark.parametrize("method", ["ivfflat", "hnsw"])
def test_match_images_serves_every_kind_of_index(database: Database, method: str, value_type: str) -> None:
    vectors = real_like(1200)
    fill(database, vectors)
    built = build_index(database.engine, method=method, value_type=value_type)
    assert built is not None
    assert (built.method, built.value_type, built.chosen) == (method, value_type, True)
    before = scans(database)
    for count in (1, 10, 100, 1000):
        assert recall(database, vectors, real_like_texts(10), count=count) >= 0.95
    with database.connect() as connection:
        connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    assert scans(database) > before


@pytest.mark.slow
def test_hnsw_is_built_in_place_of_ivfflat_and_back(database: Database) -> None:
    vectors = clustered(1200)
    fill(database, vectors)
    built = build_index(database.engine, method="hnsw", value_type="vector", m=12)
    assert built is not None
    assert (built.method, built.m, built.ef_construction, built.ef_search) == ("hnsw", 12, 320, 100)
    assert (built.lists, built.valid, built.stale, built.leftovers) == (None, True, False, ())
    assert "hnsw, m 12, ef_construction 320, ef_search 100; 1,200 rows now" in index_summary(built)
    assert definition(database).endswith(
        "USING hnsw (embedding vector_cosine_ops) WITH (m='12', ef_construction='320')"
    )
    assert recall(database, vectors, clustered(50, seed=1)) >= 0.9
    with database.connect() as connection:
        row = connection.execute(sa.select(index_builds).order_by(index_builds.c.id.desc()).limit(1)).one()
        assert (row.method, row.lists, row.m, row.ef_construction, row.row_count) == ("hnsw", None, 12, 320, 1200)
        assert (row.type, row.chosen) == ("vector", True)
    back = build_index(database.engine, method="ivfflat")
    assert back is not None
    assert (back.method, back.lists, back.probes) == ("ivfflat", 34, 34)


@pytest.mark.slow
def test_hnsw_adapts_to_new_rows_and_is_not_rebuilt(database: Database) -> None:
    build_index(database.engine, method="hnsw", m=16, ef_construction=64)
    vectors = clustered(1000)
    fill(database, vectors)
    assert not rebuild_if_stale(database.engine)
    assert recall(database, vectors, clustered(20, seed=1)) >= 0.9
    with database.connect() as connection:
        assert index_status(connection).method == "hnsw"


@pytest.mark.usefixtures("quick_graphs")
def test_a_missing_index_is_reported_and_built(database: Database) -> None:
    vectors = clustered(1000)
    fill(database, vectors)
    with database.begin() as connection:
        connection.execute(sa.text(f"DROP INDEX {VECTOR_INDEX}"))
        state = index_status(connection)
    assert index_summary(state) == "none, every search reads all 1,000 rows: run `searchdb index build`"
    assert state.stale
    assert recall(database, vectors, clustered(5, seed=1)) == 1
    assert rebuild_if_stale(database.engine)
    with database.connect() as connection:
        assert index_status(connection).valid


@pytest.mark.usefixtures("quick_graphs")
@pytest.mark.parametrize("method", ["ivfflat", "hnsw"])
@pytest.mark.slow
def test_pages_are_full_and_thresholds_exact(database: Database, method: str) -> None:
    fill(database, clustered(1500))
    build_index(database.engine, method=method)
    query = clustered(1, seed=1)[0]
    statement = sa.text("SELECT similarity FROM match_images(:query, :threshold, :count)")
    with database.begin() as connection:
        for setting in ("ivfflat.probes", "hnsw.ef_search"):
            connection.execute(sa.text(f"ALTER FUNCTION match_images{SIGNATURE} SET {setting} = 1"))
        for count in (1, 10, 100, 500, 1000):
            found = connection.scalars(statement, {"query": query, "threshold": -1, "count": count}).all()
            assert len(found) == count
            assert list(found) == sorted(found, reverse=True)
        boundary = connection.scalars(statement, {"query": query, "threshold": -1, "count": 20}).all()[9]
        at = {"query": query, "threshold": boundary, "count": 20}
        assert len(connection.scalars(statement, at).all()) == 10
        assert len(connection.scalars(statement, at | {"threshold": float(np.nextafter(boundary, 2))}).all()) == 9


@pytest.mark.usefixtures("quick_graphs")
@pytest.mark.parametrize("method", ["ivfflat", "hnsw"])
def test_match_images_uses_its_index_however_it_is_called(database: Database, method: str) -> None:
    vectors = clustered(1000)
    fill(database, vectors)
    build_index(database.engine, method=method)
    value = {"v": vectors[5], "t": -1.0, "c": 7}

    def searched(search: Callable[[], object]) -> None:
        before = scans(database)
        search()
        deadline = time.monotonic() + GIVE_UP_S  # a session that has just ended reports its use a moment later
        while scans(database) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert scans(database) > before

    with psycopg.connect(database.libpq_url, autocommit=True) as raw:
        register_vector(raw)

        def in_raw(statement: LiteralString, parameters: Any = None, **options: Any) -> Callable[[], object]:
            def run() -> None:
                rows = raw.execute(statement, parameters, **options).fetchall()
                assert rows[0][2] == pytest.approx(1, abs=1e-6)
                raw.execute("SELECT pg_stat_force_next_flush()")

            return run

        for call in CALLS.values():
            searched(in_raw(call, value))
        literal = f"SELECT * FROM match_images('[{','.join(map(str, vectors[5]))}]')".encode()
        searched(in_raw(literal))  # type: ignore[arg-type]
        for _ in range(12):
            raw.execute(CALLS["by position"], value, prepare=True)
        searched(in_raw(CALLS["by position"], value, prepare=True))

    def in_sqlalchemy() -> None:
        with database.connect() as connection:
            rows = connection.execute(sa.text("SELECT * FROM match_images(:v, :t, :c)"), value).all()
            assert rows[0].image == "/5"
            connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))

    searched(in_sqlalchemy)

    def in_psql() -> None:
        statement = "SELECT m.image FROM match_images((SELECT embedding FROM images WHERE image = '/5')) AS m LIMIT 1"
        line = [str(program_path("psql")), database.libpq_url, "-XAtc", statement]
        assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "/5\n"

    searched(in_psql)


def scans(database: Database) -> int:
    with database.connect() as connection:
        return index_status(connection).scans


def definition(database: Database) -> str:
    with database.connect() as connection:
        return connection.scalar(sa.text("SELECT pg_get_indexdef(to_regclass(:name))"), {"name": VECTOR_INDEX})


def test_every_build_is_tuned(database: Database) -> None:
    fill(database, clustered(1000))
    cache_texts(database, clustered(30, seed=1))
    for lists in (20, 40):
        built = build_index(database.engine, lists=lists, target=0.8)
        assert built is not None
        assert built.tuned is not None
        assert built.tuned_since_build
        assert (built.tuned.target, built.tuned.lists, built.tuned.setting) == (0.8, lists, built.probes)
        assert built.probes is not None
        assert built.probes < lists
        assert dict(index_details(built))["tuned"].startswith("to recall 0.8 on")
    assert built.built_at is not None
    stale = replace(built, built_at=built.built_at + timedelta(hours=1))
    assert "not since the last build, which kept the search effort" in dict(index_details(stale))["tuned"]


def test_the_summary_says_whether_the_index_fits(database: Database) -> None:
    with database.connect() as connection:
        status = index_status(connection)
    assert "every search is exact" in index_summary(status)
    fill(database, clustered(1000))
    with database.connect() as connection:
        assert "stale: run `searchdb index build`" in index_summary(index_status(connection))
    built = build_index(database.engine, lists=10)
    assert built is not None
    assert "10 lists, 10 probed; 1,000 rows now, built at 1,000 rows: fits" in index_summary(built)
